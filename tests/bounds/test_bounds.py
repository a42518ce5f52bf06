"""Bounds hold whatever an attacker does, and are exact where they can be."""

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import examples, lenet, linear
from torch import Tensor, nn
from torch.nn import functional as F

import csnb
from csnb import InputError, ThreatModel
from csnb.bounds import Bounds, certified, rule
from csnb.bounds.layers import RULES
from csnb.models import LeNet, Normalized, resnet18, small_cnn

THREATS = [
    ThreatModel(eps, norm, space, bounded)
    for norm, eps in (("linf", 0.15), ("l2", 0.3))
    for space in ("pixel", "normalized")
    for bounded in (False, True)
]


class Residual(nn.Module):
    """Sums, functions and a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, z: Tensor) -> Tensor:
        out = self.relu(self.norm(self.conv(z)))
        out = self.conv(out)
        out += z
        return torch.relu(out) + z


BODIES = {
    "mlp": lambda: [nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)],
    "conv": lambda: [
        nn.Conv2d(1, 3, 2, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)
    ],
    "strided": lambda: [
        nn.Conv2d(1, 4, 2, stride=2, padding=1, dilation=1), nn.Conv2d(4, 4, 1, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3),
    ],
    "pools": lambda: [
        nn.Conv2d(1, 2, 3, padding=2), nn.MaxPool2d(2, 1, 1), nn.AvgPool2d((2, 1), 1, (1, 0)),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    ],
    "largest": lambda: [
        nn.Conv2d(1, 2, (1, 2), padding=(1, 0)), nn.AdaptiveMaxPool2d((2, None)), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2, 3),
    ],
    "residual": lambda: [
        nn.Conv2d(1, 2, 1), nn.Dropout(0.5), Residual(), nn.Flatten(), nn.Linear(8, 3)
    ],
}  # fmt: skip


def network(kind: str, seed: int = 0) -> Normalized:
    """Of images (1, 2, 2), three classes, with weights large enough to cross zero."""
    torch.manual_seed(seed)
    model = Normalized(nn.Sequential(*BODIES[kind]()), [0.4], [0.5])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(), module.running_var.uniform_(0.2, 2)
            module.weight.data.normal_(), module.bias.data.normal_()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= 2
    return model.eval()


ROWS = torch.tensor([[[1.0, -1, 0], [0, 1, -1], [-1, 0.5, 0.5], [1, 1, 1]]])


def around(model: Normalized, x: Tensor, threat: ThreatModel, steps: int = 5) -> Tensor:
    """A grid of images that the attacker can make of one (1, 1, 2, 2), its corners among them."""
    grid = torch.tensor([*itertools.product(torch.linspace(-1, 1, steps).tolist(), repeat=4)])
    if threat.norm == "l2":
        grid = torch.cat([grid, torch.randn(len(grid), 4)])
        grid = grid / grid.norm(dim=1, keepdim=True).clamp_min(1)
    delta = (threat.eps * grid).view(-1, 1, 2, 2)
    made = model.normalize(x) + delta if threat.space == "normalized" else x + delta
    made = model.denormalize(made) if threat.space == "normalized" else made
    return made.clamp(0, 1) if threat.bounded else made


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("kind", BODIES)
def test_bounds_hold_what_an_exhaustive_grid_reaches(kind: str, threat: ThreatModel) -> None:
    for seed in range(3):
        model, x = network(kind, seed), torch.rand(1, 1, 2, 2)
        with torch.no_grad():
            reached = (model(around(model, x, threat)) @ ROWS[0].T).amin(0)
        for lines in (False, True):
            bounds = certified(model, x, ROWS, threat, lines=lines)[0]
            assert (bounds <= reached).all()
        moved = float((reached - (model(x)[0] @ ROWS[0].T).detach()).abs().max())
        assert (reached - bounds).min() < 4 * moved + 1e-5, "they say something"


@given(st.integers(0, 10**6), st.sampled_from([*BODIES]), st.sampled_from(THREATS), st.floats(0, 1))
@examples(60)
def test_bounds_hold_random_images_of_random_networks(
    seed: int, kind: str, threat: ThreatModel, share: float
) -> None:
    threat = ThreatModel(share * threat.eps, threat.norm, threat.space, threat.bounded)
    model, x = network(kind, seed), torch.rand(2, 1, 2, 2)
    bounds = certified(model, x, ROWS, threat)
    for image, bound in zip(x, bounds, strict=True):
        with torch.no_grad():
            found = model(around(model, image[None], threat, 3)) @ ROWS[0].T
        assert (found.double() >= bound).all()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_they_are_exact_on_a_linear_network(threat: ThreatModel) -> None:
    torch.manual_seed(1)
    weights, bias, x = torch.randn(3, 4), torch.randn(3), torch.rand(20, 1, 2, 2)
    model = linear(weights, bias, 0.4, 0.5)
    slope = (ROWS[0] @ weights).double() / (0.5 if threat.space == "pixel" else 1)
    clean = ((model(x) @ ROWS[0].T).double()).detach()
    reach = slope.abs().sum(1) if threat.norm == "linf" else slope.norm(dim=1)
    exact = clean - threat.eps * reach
    if threat.bounded and threat.norm == "linf":  # each pixel to its own end
        z = model.normalize(x).flatten(1).double()
        eps = threat.eps / (0.5 if threat.space == "pixel" else 1)
        low, high = (z - eps).clamp_min(-0.8), (z + eps).clamp_max(1.2)
        rows = (ROWS[0] @ weights).double()
        ends = torch.where(rows > 0, low[:, None], high[:, None])
        exact = (rows * ends).sum(2) + (ROWS[0] @ bias).double()
    for lines in (False, True):
        bounds = certified(model, x, ROWS, threat, lines=lines)
        if threat.bounded and threat.norm == "l2":
            assert (bounds >= exact - 1e-4).all()  # the box of valid images can only help
        else:
            torch.testing.assert_close(bounds, exact, atol=1e-4, rtol=0)
            assert (bounds <= exact + 1e-6).all()


def test_lines_are_exact_where_no_unit_can_change_sides_and_intervals_are_not() -> None:
    model = network("mlp")
    model.body[1].bias.data += 30
    x, threat = torch.rand(5, 1, 2, 2), ThreatModel(0.1, space="pixel")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    first, last = model.body[1], model.body[3]
    flat[1].weight.data = last.weight.data @ first.weight.data
    flat[1].bias.data = last.weight.data @ first.bias.data + last.bias.data
    exact = certified(Normalized(flat, [0.4], [0.5]), x, ROWS, threat)
    torch.testing.assert_close(certified(model, x, ROWS, threat), exact, atol=1e-3, rtol=0)
    assert (certified(model, x, ROWS, threat, lines=False) < exact - 1e-2).any()


def test_a_difference_folded_into_the_last_layer_beats_one_of_two_intervals() -> None:
    model, x, threat = network("mlp"), torch.rand(6, 1, 2, 2), ThreatModel(0.1, space="pixel")
    bounds = Bounds(model)
    box = bounds.boxes(x, threat)[-1]
    folded = bounds.back(bounds.boxes(x, threat), ROWS[:, :2], lines=False)
    apart = torch.stack([box.low[:, 0] - box.high[:, 1], box.low[:, 1] - box.high[:, 2]], 1)
    assert (folded >= apart - 1e-5).all() and (folded > apart + 1e-3).any()


@pytest.mark.parametrize("kind", BODIES)
def test_without_a_radius_they_are_the_logits_but_for_rounding(kind: str) -> None:
    model, x = network(kind), torch.rand(3, 1, 2, 2)
    exact = (copy.deepcopy(model).double()(x.double()) @ ROWS[0].T.double()).detach()
    for norm in ("linf", "l2"):
        bounds = certified(model, x, ROWS, ThreatModel(0.0, norm))
        assert (bounds < exact).all() and (bounds > exact - 1e-3).all()


def test_rounding_of_float32_is_held_where_it_is_large() -> None:
    """Sums of 20,000 terms that cancel: float32 and float64 differ, the bound is below both."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(20_000, 50), nn.ReLU(), nn.Linear(50, 2))
    body[1].weight.data.normal_()
    body[1].weight.data[:, ::2] = -body[1].weight.data[:, 1::2]
    model, x = Normalized(body, [0.0], [1.0]), torch.full((64, 1, 100, 200), 0.7)
    x += 1e-4 * torch.rand(64, 1, 1, 1)
    row, threat = torch.tensor([[[1.0, -1]]]), ThreatModel(0.0)
    with torch.no_grad():
        rounded = (model(x) @ row[0].T).double()
        exact = copy.deepcopy(model).double()(x.double()) @ row[0].T.double()
    assert (rounded - exact).abs().max() > 1e-6
    for lines in (False, True):
        bounds = certified(model, x, row, threat, lines=lines)
        assert (bounds <= rounded).all() and (bounds <= exact).all()


@pytest.mark.parametrize(
    ("body", "shape"),
    [(LeNet((1, 12, 12), 4), (1, 12, 12)), (small_cnn((1, 12, 12), 4), (1, 12, 12))],
    ids=["lenet", "small_cnn"],
)
def test_no_attack_crosses_a_bound_of_csnbs_networks(body: nn.Module, shape: tuple) -> None:
    torch.manual_seed(2)
    model = Normalized(body, [0.4], [0.25]).eval()
    x, y = torch.rand(12, *shape), torch.arange(12) % 4
    rows = torch.eye(4)[y][:, None] - torch.eye(4)
    for threat in (ThreatModel(0.1), ThreatModel(0.3, "l2", "pixel", True)):
        bounds = certified(model, x, rows, threat)
        for attack in ("FGSM", "PGD(steps=10, step_size=0)", "MIA(steps=10)"):
            images = csnb.perturb(model, x, y, attack, threat, seed=0)
            z = model(images).detach()
            assert (z.gather(1, y[:, None]) - z >= bounds).all()


def test_resnet18_has_bounds_and_they_hold() -> None:
    torch.manual_seed(0)
    model = Normalized(resnet18((3, 32, 32), 3), [0.5] * 3, [0.25] * 3).eval()
    x, threat = torch.rand(1, 3, 32, 32), ThreatModel(1e-6, space="pixel")
    rows = torch.tensor([[[1.0, -1, 0], [0, 1, -1]]])
    with torch.no_grad():
        clean = model(x) @ rows[0].T
        bounds = certified(model, x, rows, threat, lines=False)
    assert (bounds <= clean).all() and bounds.isfinite().all()


@pytest.mark.parametrize("lines", [False, True])
def test_gradients_are_those_of_finite_differences(lines: bool) -> None:
    model, x = network("pools").double(), torch.rand(2, 1, 2, 2).double()
    threat, bounds = ThreatModel(0.1, space="pixel", bounded=True), Bounds(model)
    weight = model.body[0].weight

    def value() -> Tensor:
        return bounds.lower(x, ROWS.double(), threat, lines=lines).sum()

    (found,) = torch.autograd.grad(value(), weight)
    for place in ((0, 0, 0, 1), (1, 0, 2, 2), (0, 0, 1, 1)):
        ends = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                weight[place] += step
                ends.append(float(value()))
                weight[place] -= step
        assert float(found[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-5)


class Functions(nn.Module):
    """As a person writes a network by hand; ``flat``: the way from maps to features."""

    def __init__(self, flat: Callable[[Tensor], Tensor], average: bool) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(8, 3)
        self.flat, self.average = flat, average

    def forward(self, z: Tensor) -> Tensor:
        z = F.relu(self.conv(z), inplace=True)
        z = F.avg_pool2d(z, (2, 3), 2, padding=0) if self.average else F.max_pool2d(z, 2)
        return self.out(self.flat(torch.relu(F.adaptive_avg_pool2d(z, 2))))


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(
    "flat",
    [
        lambda z: z.view(z.size(0), -1),
        lambda z: z.reshape(z.shape[0], -1),
        lambda z: z.view((z.size()[0], -1)),
        lambda z: torch.flatten(z, start_dim=1),
    ],
    ids=["view", "reshape", "view of a tuple", "torch.flatten"],
)
def test_functions_and_views_have_the_bounds_of_their_modules(
    flat: Callable[[Tensor], Tensor], average: bool
) -> None:
    torch.manual_seed(4)
    body = Functions(flat, average)
    pool = nn.AvgPool2d((2, 3), 2) if average else nn.MaxPool2d(2)
    tail = [nn.AdaptiveAvgPool2d(2), nn.ReLU(), nn.Flatten(), body.out]
    modules = nn.Sequential(body.conv, nn.ReLU(), pool, *tail)
    x, rows, threat = torch.rand(3, 1, 8, 9), torch.eye(3)[None], ThreatModel(0.05)
    found, expected = (
        certified(Normalized(net, [0.0], [1.0]), x, rows, threat) for net in (body, modules)
    )
    assert torch.equal(found, expected)


class Of(nn.Module):
    """Whatever a function does."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)


class Squared(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.flatten(1) * z.flatten(1)


class Branching(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.flatten(1) if z.sum() > 0 else -z.flatten(1)


class MyLinear(nn.Linear):
    """Is no Linear."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) + 1


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([nn.Flatten(), nn.Linear(4, 3), nn.Tanh()], r"no rule for layer 2 \(Tanh\)"),
        ([nn.Sequential(nn.Flatten(), nn.GELU()), nn.Linear(4, 3)], r"layer 0.1 \(GELU\)"),
        ([Squared(), nn.Linear(4, 3)], "no rule for mul"),
        ([Branching(), nn.Linear(4, 3)], "Sequential cannot be followed"),
        ([Of(lambda z: z.view(-1, 4)), nn.Linear(4, 3)], "no rule for view"),
        ([Of(lambda z: z.view(z.size(1), -1)), nn.Linear(4, 3)], "no rule for view"),
        ([Of(lambda z: z.view(z.size(0), 2, -1)), nn.Linear(4, 3)], "no rule for view"),
        ([Of(lambda z: z.view(z.size(0) * 2, -1)), nn.Linear(4, 3)], "no rule for mul"),
        ([Of(lambda z: torch.flatten(z, end_dim=1)), nn.Linear(4, 3)], "no rule for flatten"),
        ([Of(lambda z: F.max_pool2d(z, 2, ceil_mode=True))], "MaxPool2d with ceil_mode"),
        ([nn.Flatten(), MyLinear(4, 3)], "no rule for"),
        ([nn.Conv2d(1, 1, 1, padding_mode="circular", padding=1)], "Conv2d with padding"),
        ([nn.MaxPool2d(2, ceil_mode=True), nn.Flatten()], "MaxPool2d with ceil_mode"),
        ([nn.AvgPool2d(2, padding=1, count_include_pad=False)], "AvgPool2d with"),
        ([nn.BatchNorm2d(1, track_running_stats=False)], "without running statistics"),
        ([nn.Flatten(2), nn.Linear(4, 3)], r"Flatten\(2, -1\)"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(layers: list[nn.Module], says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        Bounds(Normalized(nn.Sequential(*layers), [0.0], [1.0]))
    assert "allowed" in str(refused.value) and len(str(refused.value)) < 300


def test_a_rule_of_ones_own() -> None:
    class Head(nn.Linear):
        pass

    rule(Head)(RULES[nn.Linear])
    model = Normalized(nn.Sequential(nn.Flatten(), Head(4, 2)), [0.0], [1.0])
    try:
        found = certified(model, torch.rand(1, 1, 2, 2), torch.eye(2)[None], ThreatModel(0.1))
    finally:
        del RULES[Head]
    assert found.shape == (1, 2)


def test_the_networks_mode_and_weights_stay_as_they_were() -> None:
    model = lenet().train()
    before = copy.deepcopy(model.state_dict())
    certified(model, torch.rand(2, 1, 12, 12), torch.eye(4)[None], ThreatModel(0.1))
    assert model.training and model.body.fc1.weight.dtype == torch.float32
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
