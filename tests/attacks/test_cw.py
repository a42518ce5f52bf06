"""CW: the distance to a linear boundary, and what it cannot fool with."""

import torch
from making import images, lenet, linear

from csnb import ThreatModel, perturb

WEIGHTS = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 0.5, -1.0]])


def test_cw_finds_the_distance_to_a_linear_boundary() -> None:
    # The nearest point of the other side is |margin| / ||w0 - w1|| away.
    model = linear(WEIGHTS, torch.tensor([0.0, 0.0]))
    x = torch.full((1, 1, 2, 2), 0.6)
    margin = float((WEIGHTS[0] - WEIGHTS[1]) @ x.flatten())
    least = margin / float((WEIGHTS[0] - WEIGHTS[1]).norm())
    spec = "CW(steps=300, searches=9, step_size=0.02, initial_const=0.1)"
    found = perturb(model, x, torch.tensor([0]), spec, ThreatModel(0.0))
    assert model(found).argmax() == 1
    assert least <= float((found - x).norm()) <= 1.1 * least


def test_cws_default_steps_move_a_black_pixel_and_those_of_advertorch_do_not() -> None:
    """A search starts where its tanh is flat: at a pixel's least value to six digits."""
    model = linear(WEIGHTS, torch.tensor([0.3, 0.0]))
    x, y = torch.zeros(1, 1, 2, 2), torch.tensor([0])  # 0.1 of the second pixel is enough
    threat = ThreatModel(0.0)
    moved, short = (perturb(model, x, y, spec, threat) for spec in ("CW", "CW(step_size=0.01)"))
    assert model(moved).argmax() == 1 and 0.1 < float((moved - x).norm()) < 0.2
    assert model(short).argmax() == 0


def test_cw_leaves_an_image_that_it_cannot_fool_with_unchanged() -> None:
    model = linear(torch.zeros(2, 4), torch.tensor([5.0, 0.0]))  # the image does not matter to it
    x = torch.rand(2, 1, 2, 2)
    found = perturb(model, x, torch.zeros(2, dtype=torch.long), "CW(steps=3)", ThreatModel(0.1))
    assert torch.equal(found, x)


def test_cw_hardly_moves_an_image_that_is_taken_for_another_class_already() -> None:
    model = linear(WEIGHTS, torch.tensor([0.0, 0.0]))  # class 0 leads by 1.2
    x = torch.full((1, 1, 2, 2), 0.6)
    spec = "CW(steps=60, searches=2, step_size=0.05, initial_const=10)"
    right, wrong = (
        perturb(model, x, torch.tensor([label]), spec, ThreatModel(0.0)) for label in (0, 1)
    )
    assert float((right - x).norm()) > 0.2 and float((wrong - x).norm()) < 1e-3


def test_worst_of_cw_leaves_images_alone_that_are_wrong_from_the_start() -> None:
    model, (x, _) = lenet().eval(), images(6)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4
    spec = "CW(steps=30, searches=3, step_size=0.05)"
    worst = perturb(model, x, y, spec, ThreatModel(0.1), robust="worst")
    last = perturb(model, x, y, spec, ThreatModel(0.1))
    assert torch.equal(worst[:2], x[:2]) and torch.equal(worst[2:], last[2:])
    assert (model(worst).argmax(1) == y).sum() <= (model(last).argmax(1) == y).sum()
