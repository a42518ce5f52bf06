"""The six attacks: closed forms on linear models, advertorch itself, and properties that hold for any model."""

import math
import subprocess
import sys

import pytest
import torch
from advertorch import attacks as advertorch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from csnb import ATTACKS, InputError, LeNet, Normalized, ThreatModel, perturb
from csnb.attacks import cross_entropy_sum, random_start

FEW = {  # enough steps to move, few enough to be quick
    "FGSM": {},
    "PGD": {"steps": 3, "step_size": 0.1},
    "CW": {"steps": 5, "searches": 2},
    "MIA": {"steps": 3, "step_size": 0.1},
    "L2BIA": {"steps": 3, "step_size": 0.2},
    "LinfBIA": {"steps": 3, "step_size": 0.1},
}
SPACES = [(space, bounded) for space in ("normalized", "pixel") for bounded in (True, False)]


def linear(weights: Tensor, bias: Tensor, mean: float = 0.0, std: float = 1.0) -> Normalized:
    """logits = weights @ x + bias for images (1, 2, 2)."""
    layer = nn.Linear(4, len(weights))
    layer.weight.data, layer.bias.data = weights, bias
    return Normalized(nn.Sequential(nn.Flatten(), layer), [mean], [std])


def lenet(channels: int = 1, classes: int = 4) -> Normalized:
    return Normalized(LeNet((channels, 12, 12), classes), [0.4] * channels, [0.25] * channels)


def images(batch: int = 3, channels: int = 1, classes: int = 4) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, channels, 12, 12), torch.arange(batch) % classes


# In two classes, raising the loss of class 0 means moving along w1 - w0, so the corner x + eps sign(w1 - w0) is optimal.
WEIGHTS = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, 0.5, -1.0]])
UPHILL = torch.tensor([-1.0, 1.0, 0.0, -1.0]).view(1, 1, 2, 2)


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "LinfBIA"])
def test_linear_model_is_moved_to_the_best_corner_of_the_cube(attack: str) -> None:
    model = linear(WEIGHTS, torch.zeros(2))
    x = torch.full((1, 1, 2, 2), 0.5)
    options = {} if attack == "FGSM" else {"steps": 20, "step_size": 0.05}
    found = perturb(model, x, torch.tensor([0]), attack, ThreatModel(0.2, space="pixel", bounded=True), **options)
    moved = (found - x)[UPHILL != 0]
    torch.testing.assert_close(moved, 0.2 * UPHILL[UPHILL != 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA", "L2BIA"])
def test_linear_model_is_moved_along_the_gradient_in_the_l2_ball(attack: str) -> None:
    model = linear(WEIGHTS, torch.zeros(2))
    x = torch.full((1, 1, 2, 2), 0.5)
    options = {} if attack == "FGSM" else {"steps": 200, "step_size": 0.05}
    threat = ThreatModel(0.2, norm="l2", space="pixel", bounded=True)
    found = perturb(model, x, torch.tensor([0]), attack, threat, seed=0, **options)
    direction = (WEIGHTS[1] - WEIGHTS[0]).view(1, 1, 2, 2)
    torch.testing.assert_close(found - x, 0.2 * direction / direction.norm(), atol=2e-3, rtol=0)


def test_eps_is_in_units_after_normalisation_in_normalized_space() -> None:
    model = linear(WEIGHTS, torch.zeros(2), mean=0.3, std=0.5)
    x = torch.full((1, 1, 2, 2), 0.5)
    found = perturb(model, x, torch.tensor([0]), "FGSM", ThreatModel(0.2, space="normalized"))
    moved = (found - x)[UPHILL != 0]
    torch.testing.assert_close(moved, 0.1 * UPHILL[UPHILL != 0])  # 0.2 normalised units are 0.2 * 0.5 of a pixel


def test_cw_finds_the_distance_to_a_linear_boundary() -> None:
    # The nearest point of the other side is |margin| / ||w0 - w1|| away.
    model = linear(WEIGHTS, torch.tensor([0.0, 0.0]))
    x = torch.full((1, 1, 2, 2), 0.6)
    margin = float((WEIGHTS[0] - WEIGHTS[1]) @ x.flatten())
    least = margin / float((WEIGHTS[0] - WEIGHTS[1]).norm())
    options = {"steps": 300, "searches": 9, "step_size": 0.02, "initial_const": 0.1}
    found = perturb(model, x, torch.tensor([0]), "CW", ThreatModel(0.0), **options)
    assert model(found).argmax() == 1
    assert least <= float((found - x).norm()) <= 1.1 * least


def test_cw_leaves_an_image_that_it_cannot_fool_with_unchanged() -> None:
    model = linear(torch.zeros(2, 4), torch.tensor([5.0, 0.0]))  # the image does not matter to it
    x = torch.rand(2, 1, 2, 2)
    assert torch.equal(perturb(model, x, torch.zeros(2, dtype=torch.long), "CW", ThreatModel(0.1), steps=3), x)


ADVERTORCH = {  # what a user of advertorch writes, on the model's own units
    "FGSM": lambda f, eps, box: advertorch.GradientSignAttack(f, eps=eps, **box),
    "PGD": lambda f, eps, box: advertorch.LinfPGDAttack(f, eps=eps, **box),
    "CW": lambda f, eps, box: advertorch.CarliniWagnerL2Attack(f, 4, max_iterations=10, binary_search_steps=2, **box),
    "MIA": lambda f, eps, box: advertorch.LinfMomentumIterativeAttack(f, eps=eps, **box),
    "L2BIA": lambda f, eps, box: advertorch.L2BasicIterativeAttack(f, eps=eps, **box),
    "LinfBIA": lambda f, eps, box: advertorch.LinfBasicIterativeAttack(f, eps=eps, **box),
}


@pytest.mark.parametrize("space", ["normalized", "pixel"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_images_are_those_of_advertorch(attack: str, space: str) -> None:
    model, (x, y) = lenet().eval(), images(4)
    normalized = space == "normalized"
    box = {"clip_min": float((0 - 0.4) / 0.25), "clip_max": float((1 - 0.4) / 0.25)} if normalized else {}
    reference = ADVERTORCH[attack](model.body if normalized else model, 0.3, box)
    torch.manual_seed(5)
    expected = reference.perturb(model.normalize(x) if normalized else x, y)
    options = {"steps": 10, "searches": 2} if attack == "CW" else {}
    found = perturb(model, x, y, attack, ThreatModel(0.3, space=space, bounded=True), seed=5, **options)
    torch.testing.assert_close(found, model.denormalize(expected) if normalized else expected, atol=2e-6, rtol=0)
    assert not torch.equal(found, x) or attack == "CW"


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    eps=st.floats(0, 2),
    norm=st.sampled_from(["linf", "l2"]),
    kind=st.sampled_from(SPACES),
    channels=st.sampled_from([1, 3]),
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_perturbation_stays_in_its_ball_and_is_finite(
    attack: str, seed: int, eps: float, norm: str, kind: tuple[str, bool], channels: int
) -> None:
    space, bounded = kind
    torch.manual_seed(seed)
    model, (x, y) = lenet(channels), images(2, channels)
    threat = ThreatModel(eps, norm=norm, space=space, bounded=bounded)
    found = perturb(model, x, y, attack, threat, seed=seed, **FEW[attack])
    assert torch.isfinite(found).all()
    if bounded or attack == "CW":
        assert found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    if attack != "CW":
        delta = (found - x) / (0.25 if space == "normalized" else 1)
        l2 = attack == "L2BIA" or (norm == "l2" and attack != "LinfBIA")
        size = delta.flatten(1).norm(dim=1) if l2 else delta.abs().flatten(1).amax(1)
        assert (size <= eps * (1 + 1e-5) + 1e-5).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_model_is_left_as_it_was(attack: str) -> None:
    model, (x, y) = lenet(), images()
    model.body = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), model.body)
    model.train()
    model.body[1].eval()
    model.body[2].fc3.bias.requires_grad_(False)
    model(x).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    flags = [(m.training) for m in model.modules()], [p.requires_grad for p in model.parameters()]
    perturb(model, x, y, attack, ThreatModel(0.3), **FEW[attack])
    assert ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]) == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (grads[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name])


def test_model_is_left_as_it_was_when_the_attack_fails() -> None:
    model, (x, y) = lenet().train(), images()
    with pytest.raises(IndexError):
        perturb(model, x, y + 100, "FGSM", ThreatModel(0.3))
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "CW"])
def test_model_with_gradients_that_are_not_finite_gives_clean_pixels(attack: str) -> None:
    model, (x, y) = lenet(), images()
    model.body.fc3.weight.data.fill_(math.nan)
    assert torch.isfinite(perturb(model, x, y, attack, ThreatModel(0.3), **FEW[attack])).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_same_seed_gives_the_same_bits_and_leaves_the_generator_alone(attack: str) -> None:
    model, (x, y) = lenet(), images()
    state = torch.get_rng_state()
    first = perturb(model, x, y, attack, ThreatModel(0.3), seed=7, **FEW[attack])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(perturb(model, x, y, attack, ThreatModel(0.3), seed=7, **FEW[attack]), first)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_images_or_no_radius_is_no_perturbation(attack: str) -> None:
    model, (x, y) = lenet(), images()
    assert perturb(model, x[:0], y[:0], attack, ThreatModel(0.3)).shape == (0, 1, 12, 12)
    if attack != "CW":
        assert torch.equal(perturb(model, x, y, attack, ThreatModel(0.0, norm="l2")), x)


def test_a_restart_only_replaces_images_that_the_model_still_recognises() -> None:
    model, (x, y) = lenet(), images(16)
    y = model.eval()(x).argmax(1)
    threat = ThreatModel(0.02)
    once = perturb(model, x, y, "PGD", threat, seed=3, steps=2, step_size=0.01)
    more = perturb(model, x, y, "PGD", threat, seed=3, steps=2, step_size=0.01, restarts=4)
    fooled_once, fooled_more = (model(images).argmax(1) != y for images in (once, more))
    assert (fooled_more | ~fooled_once).all()
    assert torch.equal(more[fooled_once], once[fooled_once])


class Recorder(nn.Module):
    """Keeps what the model says of every image that an attack shows it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.answers = body, []

    def forward(self, z: Tensor) -> Tensor:
        logits = self.body(z)
        self.answers.append(logits.detach().argmax(1))
        return logits


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "CW"])
def test_worst_counts_an_image_that_any_iterate_of_the_whole_attack_fools_with(attack: str, norm: str) -> None:
    model, (x, _) = lenet().eval(), images(48)
    for weights in model.parameters():
        weights.data *= 2.5  # answers that depend on the image
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4  # wrong from the start
    cube = attack == "LinfBIA" or (norm == "linf" and attack != "L2BIA")
    threat = ThreatModel(0.05 if cube else 0.6, norm=norm)
    options = {} if attack == "FGSM" else {"steps": 12, "step_size": 0.01 if cube else 0.1}
    worst = perturb(model, x, y, attack, threat, seed=2, robust="worst", **options)
    whole = Normalized(Recorder(model.body), [0.4], [0.25]).eval()
    last = perturb(whole, x, y, attack, threat, seed=2, **options)
    whole(x), whole(last)
    ever_fooled = torch.stack([answer != y for answer in whole.body.answers]).any(0)
    fooled = model(worst).argmax(1) != y
    assert torch.equal(fooled, ever_fooled)
    assert 4 < fooled.sum() < 48  # the comparison has something to tell apart
    assert torch.equal(worst[:4], x[:4])
    stood = ~fooled
    torch.testing.assert_close(worst[stood], last[stood], atol=1e-6, rtol=0)


def test_worst_of_cw_leaves_images_alone_that_are_wrong_from_the_start() -> None:
    model, (x, _) = lenet().eval(), images(6)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4
    options = {"steps": 30, "searches": 3, "step_size": 0.05}
    worst = perturb(model, x, y, "CW", ThreatModel(0.1), robust="worst", **options)
    last = perturb(model, x, y, "CW", ThreatModel(0.1), **options)
    assert torch.equal(worst[:2], x[:2]) and torch.equal(worst[2:], last[2:])
    assert (model(worst).argmax(1) == y).sum() <= (model(last).argmax(1) == y).sum()


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
    # In two dimensions the share within half the radius is a quarter; +-4 standard errors of 20,000 draws.
    assert abs(float((size < 0.25).float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 20_000)


def test_the_loss_given_is_the_one_maximised() -> None:
    model, (x, y) = lenet(), images()
    down = perturb(model, x, y, "FGSM", ThreatModel(0.1), loss=lambda logits, labels: -cross_entropy_sum(logits, labels))
    with torch.no_grad():
        assert cross_entropy_sum(model(down), y) < cross_entropy_sum(model(x), y)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
def test_impossible_radius_is_refused_in_one_line(eps: float) -> None:
    with pytest.raises(InputError, match=r"^eps: .* allowed: 0 or more$"):
        ThreatModel(eps)


def test_unknown_attack_and_option_are_refused() -> None:
    model, (x, y) = lenet(), images()
    with pytest.raises(InputError, match=r"^attacks: 'DeepFool' is unknown; allowed: FGSM, PGD"):
        perturb(model, x, y, "DeepFool", ThreatModel(0.3))
    with pytest.raises(InputError, match=r"^PGD: no option stepz; allowed: steps, step_size, restarts$"):
        perturb(model, x, y, "PGD", ThreatModel(0.3), stepz=3)


def test_advertorch_imports_in_a_fresh_process() -> None:
    code = "import csnb, advertorch.attacks; advertorch.attacks.LinfFABAttack(lambda x: x)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
