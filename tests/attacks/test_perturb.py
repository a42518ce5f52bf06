"""What holds for every attack, on any model."""

import math

import pytest
import torch
from advertorch import attacks as advertorch
from hypothesis import example, given
from hypothesis import strategies as st
from making import examples, images, lenet
from torch import Tensor, nn

from csnb import ATTACKS, InputError, ThreatModel, perturb
from csnb.losses import cross_entropy_sum
from csnb.models import Normalized

FEW = {  # enough steps to move, few enough to be quick
    "PGD": "PGD(steps=3, step_size=0.1)",
    "CW": "CW(steps=5, searches=2)",
    "MIA": "MIA(steps=3, step_size=0.1)",
    "L2BIA": "L2BIA(steps=3, step_size=0.2)",
    "LinfBIA": "LinfBIA(steps=3, step_size=0.1)",
}
FEW = {name: FEW.get(name, name) for name in ATTACKS}
SPACES = [(space, bounded) for space in ("normalized", "pixel") for bounded in (True, False)]


ADVERTORCH = {  # what a user of advertorch writes, on the model's own units
    "FGSM": lambda f, eps, box: advertorch.GradientSignAttack(f, eps=eps, **box),
    "PGD": lambda f, eps, box: advertorch.LinfPGDAttack(f, eps=eps, **box),
    "CW": lambda f, eps, box: advertorch.CarliniWagnerL2Attack(
        f, 4, max_iterations=10, binary_search_steps=2, **box
    ),
    "MIA": lambda f, eps, box: advertorch.LinfMomentumIterativeAttack(f, eps=eps, **box),
    "L2BIA": lambda f, eps, box: advertorch.L2BasicIterativeAttack(f, eps=eps, **box),
    "LinfBIA": lambda f, eps, box: advertorch.LinfBasicIterativeAttack(f, eps=eps, **box),
}


@pytest.mark.parametrize("space", ["normalized", "pixel"])
@pytest.mark.parametrize("attack", ADVERTORCH)
def test_images_are_those_of_advertorch(attack: str, space: str) -> None:
    model, (x, y) = lenet().eval(), images(4)
    normalized = space == "normalized"
    box = (
        {"clip_min": float((0 - 0.4) / 0.25), "clip_max": float((1 - 0.4) / 0.25)}
        if normalized
        else {}
    )
    reference = ADVERTORCH[attack](model.body if normalized else model, 0.3, box)
    torch.manual_seed(5)
    expected = reference.perturb(model.normalize(x) if normalized else x, y)
    cw = "CW(steps=10, searches=2, step_size=0.01)"
    spec = cw if attack == "CW" else f"{attack}(gradient=float32)"
    threat = ThreatModel(0.3, space=space, bounded=True)
    found = perturb(model, x, y, spec, threat, seed=5)
    torch.testing.assert_close(
        found, model.denormalize(expected) if normalized else expected, atol=2e-6, rtol=0
    )
    assert not torch.equal(found, x) or attack == "CW"


@examples(12)
@example(seed=0, eps=1e-141, norm="l2", kind=("normalized", True), channels=1)
@example(seed=0, eps=1e-36, norm="l2", kind=("pixel", False), channels=1)
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
    found = perturb(model, x, y, FEW[attack], threat, seed=seed)
    assert torch.isfinite(found).all()
    if bounded or attack == "CW":
        assert found.min() >= -1e-6 and found.max() <= 1 + 1e-6
        assert not bounded or (found.min() >= 0 and found.max() <= 1)
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
    grads = {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
    }
    flags = [(m.training) for m in model.modules()], [p.requires_grad for p in model.parameters()]
    perturb(model, x, y, FEW[attack], ThreatModel(0.3))
    assert (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
    ) == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (grads[name] is None)
        assert parameter.grad is None or torch.equal(parameter.grad, grads[name])


def test_model_is_left_as_it_was_when_the_attack_fails() -> None:
    model, (x, y) = lenet().train(), images()

    def fails(logits: Tensor, labels: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        perturb(model, x, y, "FGSM", ThreatModel(0.3), loss=fails)
    with pytest.raises(InputError, match=r"^y: labels from 100 to 102; allowed: 0 to 3$"):
        perturb(model, x, y + 100, "FGSM", ThreatModel(0.3))
    assert not model.body._forward_hooks
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name != "CW"])
def test_images_that_come_out_not_finite_are_refused(attack: str) -> None:
    model, (x, y) = lenet(), images()
    model.body.fc3.weight.data.fill_(math.nan)
    with pytest.raises(InputError, match=f"^{attack}.* gives pixels that are not finite; allowed"):
        perturb(model, x, y, FEW[attack], ThreatModel(0.3))


@pytest.mark.parametrize("pixel", [-0.01, 1.01, math.nan, math.inf])
def test_pixels_outside_their_range_are_refused(pixel: float) -> None:
    model, (x, y) = lenet(), images()
    x[0, 0, 3, 3] = pixel
    with pytest.raises(InputError, match=r"^x: pixels from \S+ to \S+; allowed: \[0, 1\]$"):
        perturb(model, x, y, "FGSM", ThreatModel(0.3))


@pytest.mark.parametrize("attack", ATTACKS)
def test_same_seed_gives_the_same_bits_and_leaves_the_generator_alone(attack: str) -> None:
    model, (x, y) = lenet(), images()
    state = torch.get_rng_state()
    first = perturb(model, x, y, FEW[attack], ThreatModel(0.3), seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(perturb(model, x, y, FEW[attack], ThreatModel(0.3), seed=7), first)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_images_or_no_radius_is_no_perturbation(attack: str) -> None:
    model, (x, y) = lenet(), images()
    assert perturb(model, x[:0], y[:0], attack, ThreatModel(0.3)).shape == (0, 1, 12, 12)
    if attack != "CW":
        assert torch.equal(perturb(model, x, y, attack, ThreatModel(0.0, norm="l2")), x)


def test_bounded_images_are_valid_to_the_last_rounding() -> None:
    model, (x, y) = Normalized(lenet().body, [0.1307], [0.3081]), images(20)
    z = model.normalize(x)
    low, high = (model.normalize(torch.full_like(x, value)) for value in (0.0, 1.0))
    ends = [model.denormalize(z + (end - z)) for end in (low, high)]
    assert ends[0].min() < 0 and ends[1].max() > 1  # some of 2,880 pixels, by 1e-7
    found = perturb(model, x, y, "FGSM", ThreatModel(9.0, bounded=True))
    assert found.min() == 0 and found.max() == 1


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
def test_worst_counts_an_image_that_any_iterate_of_the_whole_attack_fools_with(
    attack: str, norm: str
) -> None:
    model, (x, _) = lenet().eval(), images(48)
    for weights in model.parameters():
        weights.data *= 2.5  # answers that depend on the image
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4  # wrong from the start
    cube = attack == "LinfBIA" or (norm == "linf" and attack != "L2BIA")
    threat = ThreatModel(0.05 if cube else 0.6, norm=norm)
    spec = attack if attack == "FGSM" else f"{attack}(steps=12, step_size={0.01 if cube else 0.1})"
    worst = perturb(model, x, y, spec, threat, seed=2, robust="worst")
    whole = Normalized(Recorder(model.body), [0.4], [0.25]).eval()
    last = perturb(whole, x, y, spec, threat, seed=2)
    whole(x), whole(last)
    ever_fooled = torch.stack([answer != y for answer in whole.body.answers]).any(0)
    fooled = model(worst).argmax(1) != y
    assert torch.equal(fooled, ever_fooled)
    assert 4 < fooled.sum() < 48  # the comparison has something to tell apart
    assert torch.equal(worst[:4], x[:4])
    stood = ~fooled
    torch.testing.assert_close(worst[stood], last[stood], atol=1e-6, rtol=0)


def test_the_loss_given_is_the_one_maximised() -> None:
    model, (x, y) = lenet(), images()

    def lower(logits: Tensor, labels: Tensor) -> Tensor:
        return -cross_entropy_sum(logits, labels)

    down = perturb(model, x, y, "FGSM", ThreatModel(0.1), loss=lower)
    with torch.no_grad():
        assert cross_entropy_sum(model(down), y) < cross_entropy_sum(model(x), y)


def test_unknown_attack_and_option_are_refused() -> None:
    model, (x, y) = lenet(), images()
    with pytest.raises(InputError, match=r"^attack: 'DeepFool' is unknown; allowed: CW, FGSM, PGD"):
        perturb(model, x, y, "DeepFool", ThreatModel(0.3))
    with pytest.raises(
        InputError,
        match=r"^stepz: no such option of attack PGD .*restarts, schedule, gradient; did",
    ):
        perturb(model, x, y, "PGD(stepz=3)", ThreatModel(0.3))


def sensitive(model: Normalized) -> Normalized:
    """Answers that depend on the image, so that attacks find something to do."""
    for weights in model.parameters():
        weights.data *= 2.5
    return model.eval()


OTHERS = {  # of each option another value than in BASE
    "FGSM": {},
    "PGD": {"steps": 4, "step_size": 0.02, "restarts": 3, "schedule": "cosine"},
    "CW": {"steps": 9, "searches": 1, "step_size": 0.02, "initial_const": 0.5, "confidence": 2},
    "MIA": {"steps": 4, "step_size": 0.02, "decay": 0.2},
    "L2BIA": {"steps": 4, "step_size": 0.07},
    "LinfBIA": {"steps": 4, "step_size": 0.02},
}
BASE = {
    "FGSM": {},
    "PGD": {"steps": 3, "step_size": 0.01},
    "CW": {"steps": 20, "searches": 3, "step_size": 0.1, "initial_const": 0.1},
    "MIA": {"steps": 3, "step_size": 0.01},
    "L2BIA": {"steps": 3, "step_size": 0.05},
    "LinfBIA": {"steps": 3, "step_size": 0.01},
}


def written(name: str, options: dict[str, float]) -> str:
    return f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, o) for name, e in ATTACKS.items() for o in e.options if o != "gradient"],
)
def test_each_option_changes_the_images(name: str, option: str) -> None:
    model, (x, _) = sensitive(lenet()), images(24)
    y, threat = model(x).argmax(1), ThreatModel(0.05 if name != "L2BIA" else 0.5)
    spec, changed = (written(name, BASE[name] | o) for o in ({}, {option: OTHERS[name][option]}))
    first, again, other = (perturb(model, x, y, s, threat, seed=0) for s in (spec, spec, changed))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "change", [{"eps": 0.01}, {"norm": "l2"}, {"space": "pixel"}, {"bounded": True}], ids=str
)
@pytest.mark.parametrize("attack", ["FGSM", "PGD", "MIA"])
def test_each_part_of_the_threat_model_changes_the_images(
    attack: str, change: dict[str, object]
) -> None:
    model, (x, y) = sensitive(lenet()), images(8)
    x[:, :, 0, :] = 0  # black pixels, which bounds keep from going below
    found = [
        perturb(model, x, y, FEW[attack], ThreatModel(**({"eps": 0.4} | other)), seed=0)
        for other in ({}, change)
    ]
    assert not torch.equal(*found)


@pytest.mark.parametrize("attack", ["PGD", "MIA", "L2BIA", "LinfBIA"])
def test_a_step_of_no_size_follows_the_radius(attack: str) -> None:
    model, (x, y) = sensitive(lenet()), images(4)
    found = [
        perturb(model, x, y, f"{attack}(steps=5, step_size={size})", ThreatModel(0.2), seed=0)
        for size in (0, 2.5 * 0.2 / 5)
    ]
    assert torch.equal(*found)
