"""FGSM, PGD, MIA, L2BIA and LinfBIA: closed forms on linear models, restarts, random starts."""

import math
from itertools import combinations

import pytest
import torch
from making import images, lenet, linear
from torch import Tensor, nn

from csnb import ThreatModel, perturb
from csnb.attacks.gradient import random_start
from csnb.losses import log_odds
from csnb.models import Normalized

# In two classes, raising the loss of class 0 means moving along w1 - w0: x + eps sign(w1 - w0) is
# the best corner.
WEIGHTS = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 0.5, -1.0]])
UPHILL = torch.tensor([-1.0, 1.0, 0.0, -1.0]).view(1, 1, 2, 2)


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "LinfBIA"])
def test_linear_model_is_moved_to_the_best_corner_of_the_cube(attack: str) -> None:
    model = linear(WEIGHTS, torch.zeros(2))
    x = torch.full((1, 1, 2, 2), 0.5)
    spec = attack if attack == "FGSM" else f"{attack}(steps=20, step_size=0.05)"
    threat = ThreatModel(0.2, space="pixel", bounded=True)
    found = perturb(model, x, torch.tensor([0]), spec, threat)
    moved = (found - x)[UPHILL != 0]
    torch.testing.assert_close(moved, 0.2 * UPHILL[UPHILL != 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "L2BIA"])
def test_linear_model_is_moved_along_the_gradient_in_the_l2_ball(attack: str) -> None:
    model = linear(WEIGHTS, torch.zeros(2))
    x = torch.full((1, 1, 2, 2), 0.5)
    spec = attack if attack == "FGSM" else f"{attack}(steps=200, step_size=0.05)"
    threat = ThreatModel(0.2, norm="l2", space="pixel", bounded=True)
    found = perturb(model, x, torch.tensor([0]), spec, threat, seed=0)
    direction = (WEIGHTS[1] - WEIGHTS[0]).view(1, 1, 2, 2)
    torch.testing.assert_close(found - x, 0.2 * direction / direction.norm(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("gradient", ["exact", "float32"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "L2BIA", "LinfBIA"])
def test_images_are_the_same_however_the_weights_lie(
    attack: str, norm: str, gradient: str, bounded: bool
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 100, 3)]
    model, (x, y) = nn.Sequential(*layers), images(6, 3, 3)
    threat = ThreatModel(0.3, norm=norm, space="pixel", bounded=bounded)
    options = "" if attack == "FGSM" else "steps=3, step_size=0.1, "
    spec = f"{attack}({options}gradient={gradient})"
    found = perturb(model, x, y, spec, threat, seed=0)
    again = perturb(model.to(memory_format=torch.channels_last), x, y, spec, threat, seed=0)
    torch.testing.assert_close(again, found)
    assert (found != x).any()


def test_eps_is_in_units_after_normalisation_in_normalized_space() -> None:
    model = linear(WEIGHTS, torch.zeros(2), mean=0.3, std=0.5)
    x = torch.full((1, 1, 2, 2), 0.5)
    found = perturb(model, x, torch.tensor([0]), "FGSM", ThreatModel(0.2, space="normalized"))
    moved = (found - x)[UPHILL != 0]
    torch.testing.assert_close(
        moved, 0.1 * UPHILL[UPHILL != 0]
    )  # 0.2 normalised units are 0.2 * 0.5 of a pixel


@pytest.mark.parametrize(
    ("spec", "reached"),
    [  # 1 + .75 + .25 of the first step
        ("PGD(steps=3, step_size=0.01, schedule=cosine)", 0.02),
        ("PGD(steps=3, step_size=0, schedule=cosine)", 0.4),  # of eps
        ("PGD(steps=4, step_size=0.01, schedule=cosine)", 0.025),  # 1 + .854 + .5 + .146
        ("PGD(steps=4, step_size=0.01)", 0.04),
    ],
)
def test_steps_fall_to_0_by_a_cosine(spec: str, reached: float) -> None:
    model, threat = linear(WEIGHTS, torch.zeros(2)), ThreatModel(0.2, space="pixel")
    x = torch.full((1, 1, 2, 2), 0.5)
    found = perturb(model, x, torch.tensor([0]), spec, threat, seed=5)
    torch.manual_seed(5)
    expected = (random_start(x, 0.2, math.inf) + reached * UPHILL).clamp(-0.2, 0.2)
    torch.testing.assert_close(found - x, expected)


@pytest.fixture
def standing() -> tuple[Normalized, Tensor, Tensor]:
    """A network whose answers depend on the image, and images that it gets right."""
    model, (x, _) = lenet().eval(), images(64)
    for weights in model.parameters():
        weights.data *= 2.5
    return model, x, model(x).argmax(1)


Standing = tuple[Normalized, Tensor, Tensor]


def test_a_restart_only_replaces_images_that_the_model_still_recognises(
    standing: Standing,
) -> None:
    model, x, y = standing
    threat = ThreatModel(0.05)
    once = perturb(model, x, y, "PGD(steps=1, step_size=0.01)", threat, seed=3)
    more = perturb(model, x, y, "PGD(steps=1, step_size=0.01, restarts=6)", threat, seed=3)
    fooled_once, fooled_more = (model(found).argmax(1) != y for found in (once, more))
    assert (fooled_more | ~fooled_once).all()
    assert torch.equal(more[fooled_once], once[fooled_once])
    assert 0 < fooled_once.sum() < fooled_more.sum() < 64  # there is something to tell apart
    assert not torch.equal(more[~fooled_more], once[~fooled_more])


class Shown(nn.Module):
    """Keeps the images that an attack shows the network."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.images = body, []

    def forward(self, z: Tensor) -> Tensor:
        self.images.append(z.detach().clone())
        return self.body(z)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_restart_begins_at_a_draw_of_its_own(norm: str) -> None:
    model, x = linear(torch.zeros(2, 4), torch.tensor([5.0, 0.0])), torch.rand(3, 1, 2, 2)
    model.body = shown = Shown(model.body)
    y = torch.zeros(3, dtype=torch.long)  # the network never errs
    threat = ThreatModel(0.2, norm=norm, space="normalized")
    perturb(model, x, y, "PGD(steps=1, step_size=0.1, restarts=3)", threat, seed=4)
    torch.manual_seed(4)
    order = 2 if norm == "l2" else math.inf
    starts = [x + random_start(x, 0.2, order) for _ in range(6)]  # three more than there are
    seen = [[torch.equal(z, start) for start in starts] for z in shown.images]
    assert list(dict.fromkeys(found.index(True) for found in seen if any(found))) == [0, 1, 2]
    assert not any(torch.equal(a, b) for a, b in combinations(starts, 2))


def test_mia_stays_finite_in_the_l2_ball_where_pixels_do_not_move() -> None:
    # advertorch's projection gives 0 / 0 for a pixel that the model does not look at.
    weights = WEIGHTS.clone()
    weights[:, 2] = 0
    x = torch.full((1, 1, 2, 2), 0.5)
    threat = ThreatModel(0.2, norm="l2", space="pixel", bounded=True)
    found = perturb(linear(weights, torch.zeros(2)), x, torch.tensor([0]), "MIA", threat)
    assert float((found - x).norm()) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("order", [2, math.inf])
def test_random_starts_fill_the_ball_uniformly(order: float) -> None:
    x = torch.zeros(20_000, 1, 1, 2)
    start = random_start(x, 0.5, order).flatten(1)
    size = torch.linalg.vector_norm(start, ord=order, dim=1)
    assert size.max() <= 0.5 + 1e-6
    # In two dimensions a quarter lies within half the radius; +-4 standard errors of 20,000 draws.
    assert abs(float((size < 0.25).float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 20_000)


# Exact gradients: what torch's cross-entropy says in float64 while that can be trusted, the closed
# form beyond, of a network that is sure of its answer.


def sure(lead: float) -> tuple[Normalized, Tensor, Tensor]:
    """A linear network of three classes that gives class 0 ``lead`` more logits than the next."""
    weights = torch.tensor([[2.0, -1.0, 0.5, 0.0], [1.0, 1.0, 0.5, -2.0], [-1.0, 0.5, 2.0, 1.0]])
    x = torch.full((1, 1, 2, 2), 0.5)
    bias = -(x.flatten(1) @ weights.T)[0]
    return linear(weights, bias + torch.tensor([lead, 0.0, -0.5])), x, torch.tensor([0])


def uphill(model: Normalized, x: Tensor) -> Tensor:
    """d cross-entropy / dx for class 0, but for its length: sum_j q_j w_j - w_0 over the others."""
    layer = model.body[-1]
    q = model(x)[0, 1:].double().softmax(0)
    slope = q @ layer.weight[1:].double() - layer.weight[0].double()
    return slope.view_as(x).detach()


@pytest.mark.parametrize("lead", [0.0, 10.0, 17.0, 40.0, 200.0, 1000.0])
@pytest.mark.parametrize("attack", ["FGSM", "PGD(steps=30, step_size=0.02)", "MIA", "LinfBIA"])
def test_exact_gradients_find_the_best_corner_however_sure_the_network_is(
    attack: str, lead: float
) -> None:
    model, x, y = sure(lead)
    found = perturb(model, x, y, attack, ThreatModel(0.1, space="pixel"), seed=0)
    torch.testing.assert_close(found - x, 0.1 * uphill(model, x).sign().float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("lead", [0.0, 10.0, 40.0, 200.0])
@pytest.mark.parametrize("attack", ["FGSM", "MIA(steps=1, step_size=0.2)", "L2BIA(steps=1)"])
def test_exact_steps_in_l2_have_their_whole_length_along_the_gradient(
    attack: str, lead: float
) -> None:
    model, x, y = sure(lead)
    found = perturb(model, x, y, attack, ThreatModel(0.2, norm="l2", space="pixel"))
    slope = uphill(model, x)
    size = 0.05 if "BIA" in attack else 0.2
    expected = (size * slope / slope.norm()).float()
    torch.testing.assert_close(found - x, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lead", [0.0, 5.0, 12.0, 25.0])
def test_exact_gradients_have_the_direction_of_cross_entropys_in_float64(lead: float) -> None:
    torch.manual_seed(0)
    z = torch.randn(6, 5, dtype=torch.float64)
    y = torch.arange(6) % 5
    z[torch.arange(6), y] += lead
    slopes = []
    for loss, logits in ((torch.nn.functional.cross_entropy, z), (log_odds, z.float())):
        logits = logits.clone().requires_grad_()
        slopes.append(torch.autograd.grad(loss(logits, y).sum(), logits)[0].double())
    ours, theirs = (s / s.abs().amax(1, keepdim=True) for s in slopes)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_slope_whose_squares_are_0_in_float32_is_as_good_as_any() -> None:
    model, x, y = sure(1.0)
    threat = ThreatModel(0.2, norm="l2", space="pixel")
    found = perturb(
        *(model, x, y, "FGSM", threat), loss=lambda z, labels: 1e-30 * log_odds(z, labels).sum()
    )
    torch.testing.assert_close(found, perturb(model, x, y, "FGSM", threat), atol=1e-6, rtol=0)
    assert float((found - x).norm()) == pytest.approx(0.2, rel=1e-5)


def test_the_steepest_image_of_a_batch_shortens_no_others_step() -> None:
    model, x, y = sure(1.0)
    threat = ThreatModel(0.2, norm="l2", space="pixel")
    scale = torch.tensor([1.0, 1e-30])
    found = perturb(
        *(model, x.repeat(2, 1, 1, 1), y.repeat(2), "FGSM", threat),
        loss=lambda z, labels: (scale * log_odds(z, labels)).sum(),
    )
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)


def test_a_float32_step_in_l2_divides_by_a_millionth_at_least() -> None:
    model, x, y = sure(1.0)
    threat = ThreatModel(0.2, norm="l2", space="pixel")
    steps = (
        perturb(
            *(model, x, y, f"FGSM(gradient={kind})", threat),
            loss=lambda z, labels: 1e-9 * log_odds(z, labels).sum(),
        )
        - x
        for kind in ("exact", "float32")
    )
    exact, rounded = (float(step.norm()) for step in steps)
    weights = model.body[-1].weight.detach()
    slope = 1e-9 * float((weights[1:] - weights[0]).norm(dim=1).max())
    assert exact == pytest.approx(0.2, rel=1e-5) and 0 < rounded <= 0.2 * slope / 1e-6


def test_float32_gradients_lose_the_true_class_of_a_network_that_is_sure() -> None:
    """What the paper's library computed: named, and another."""
    model, x, y = sure(40.0)
    threat = ThreatModel(0.1, space="pixel")
    exact, rounded = (
        perturb(model, x, y, f"FGSM(gradient={kind})", threat) for kind in ("exact", "float32")
    )
    others = model.body[-1].weight[1:]
    blind = (model(x)[0, 1:].softmax(0) @ others).sign().view_as(x)  # without -w_0
    torch.testing.assert_close(rounded - x, 0.1 * blind, atol=1e-6, rtol=0)
    assert model(exact)[0].diff()[0] > model(rounded)[0].diff()[0]
    unsure, x, y = sure(1.0)
    exact, rounded = (
        perturb(unsure, x, y, f"FGSM(gradient={kind})", threat) for kind in ("exact", "float32")
    )
    assert torch.equal(exact, rounded)


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "L2BIA"])
def test_of_an_unsure_network_both_gradients_give_the_same_images(attack: str) -> None:
    """In L2 to a rounding: MIA's memory, too, is of slopes of L1 length 1 in both."""
    model, (x, y) = lenet().eval(), images(6)
    for weights in model.parameters():
        weights.data *= 2.5  # slopes that turn on the way
    threat, options = (
        ThreatModel(1.0, norm="l2"),
        "" if attack == "FGSM" else "steps=5, step_size=0.3, ",
    )
    exact, rounded = (
        perturb(model, x, y, f"{attack}({options}gradient={kind})", threat, seed=0)
        for kind in ("exact", "float32")
    )
    torch.testing.assert_close(exact, rounded, atol=1e-5, rtol=0)
    assert not torch.equal(exact, x)


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "L2BIA", "LinfBIA"])
def test_a_network_that_is_a_thousand_times_as_sure_falls_as_far(attack: str) -> None:
    model, (x, _) = lenet().eval(), images(200)
    for weights in model.parameters():
        weights.data *= 2.5
    y, threat = model(x).argmax(1), ThreatModel(0.03 if attack != "L2BIA" else 0.4)
    right = {}
    for times in (1, 1000):
        for p in model.body.fc3.parameters():
            p.data *= times
        for kind in ("exact", "float32"):
            found = perturb(model, x, y, f"{attack}(gradient={kind})", threat, seed=0)
            right[times, kind] = float((model(found).argmax(1) == y).float().mean())
    assert right[1, "exact"] < 0.9
    assert right[1000, "exact"] <= right[1, "exact"] + 0.02
    assert right[1000, "float32"] > right[1000, "exact"]
