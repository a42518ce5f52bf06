"""Certified training: its loss by hand on linear networks, and what it trains."""

import numpy as np
import pytest
import torch
from making import linear
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import csnb
from csnb import METHODS, InputError, Recipe, ThreatModel
from csnb.bounds import Bounds
from csnb.certified import certified_pairs, certified_score
from csnb.methods import Batch, Task
from csnb.methods.proving import dear, log_cost
from csnb.models import Normalized, small_cnn

THREAT = ThreatModel(0.2, space="pixel")
COSTS = torch.tensor(csnb.protect(4, 1, 10.0, 4.0), dtype=torch.float32)


def batch(progress: float, n: int = 6) -> tuple[Normalized, Batch]:
    torch.manual_seed(3)
    model = linear(torch.randn(4, 4), torch.randn(4))
    x = torch.rand(n, 1, 2, 2)
    return model, Batch(model, x, torch.arange(n) % 4, progress=progress)


def least(model: Normalized, x: Tensor, y: int, eps: float) -> Tensor:
    """z_y - z_j in the worst case of a linear network, one image."""
    weights, z = model.body[1].weight, model(x[None])[0]
    return torch.stack([
        z[y] - z[j] - eps * (weights[y] - weights[j]).abs().sum() for j in range(4)
    ])  # fmt: skip


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
@pytest.mark.parametrize(("progress", "risen"), [(0.0, 0.0), (0.2, 0.5), (0.9, 1.0)])
def test_the_loss_is_what_it_says_image_by_image(
    method: str, progress: float, risen: float
) -> None:
    model, b = batch(progress)
    spec = f"{method}(weight=2, clean=0.25, radius=1.5, ramp=0.4)"
    loss, logits = METHODS.parse(spec)(Task(model, COSTS, (1,), THREAT)).loss(b)
    torch.testing.assert_close(logits, model(b.x))
    expected = []
    for x, y in zip(b.x, b.y.tolist(), strict=True):
        bound = least(model, x, y, risen * 1.5 * 0.2)
        certain = risen * 0.75
        value = (1 - certain) * cross_entropy(model(x[None]), torch.tensor([y]))
        value = value + certain * (1 + (-bound[[j for j in range(4) if j != y]]).exp().sum()).log()
        beyond = {  # of 10 and 4, less 1, by the dearest
            1: sum((-bound[j]).exp() for j in (0, 2, 3)),
        }.get(y, (-bound[1]).exp())
        charge = 1.0 if y == 1 else 3 / 9
        expected.append(value + risen * 2 * charge * (1 + beyond).log())
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_crowns_share_falls_from_one_to_what_is_left() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    model, x, y = Normalized(body, [0.0], [1.0]), torch.rand(5, 1, 2, 2), torch.arange(5) % 4
    rows = torch.eye(4)[y][:, None] - torch.eye(4)
    spec = "CROWN-IBP(weight=0, clean=0, ramp=0.8, lines=0.5)"
    method = METHODS.parse(spec)(Task(model, COSTS, (1,), THREAT))
    for progress, risen, share in ((0.4, 0.5, 0.75), (0.8, 1.0, 0.5)):
        lines, boxes = (
            Bounds(model).lower(x, rows, THREAT, eps=risen * 0.2, lines=lines)
            for lines in (True, False)
        )
        assert (lines - boxes).abs().max() > 1e-3
        worst = -(share * lines + (1 - share) * boxes)
        expected = (1 - risen) * cross_entropy(model(x), y) + risen * cross_entropy(worst, y)
        found = method.loss(Batch(model, x, y, progress=progress))[0]
        torch.testing.assert_close(found, expected)


def test_ibp_asks_intervals_alone() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    model, x, y = Normalized(body, [0.0], [1.0]), torch.rand(5, 1, 2, 2), torch.arange(5) % 4
    method = METHODS.parse("IBP(weight=0, clean=0, ramp=0)")(Task(model, COSTS, (1,), THREAT))
    boxes = Bounds(model).lower(x, torch.eye(4)[y][:, None] - torch.eye(4), THREAT, lines=False)
    found = method.loss(Batch(model, x, y, progress=0.1))[0]
    torch.testing.assert_close(found, cross_entropy(-boxes, y))
    assert "worst logits" in method.terms[0] and "dear mistakes" in method.terms[1]


def test_what_is_dear() -> None:
    np.testing.assert_allclose(
        dear(COSTS), [[0, 1, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3], [0, 1, 0, 0], [0, 1, 0, 0]]
    )
    assert not dear(torch.ones(3, 3) - torch.eye(3)).any(), "equal costs: nothing"
    pair = torch.zeros(3, 3)
    pair[2, 0] = 7.0
    assert dear(pair)[2, 0] == 1 and dear(pair).sum() == 1
    assert torch.equal(dear(pair / 14), dear(pair)), "by the dearest, whatever its unit"


def test_the_cost_of_what_costs_nothing_is_zero_and_so_is_its_gradient() -> None:
    bounds = torch.tensor([[0.0, -5, 100], [3, 0, -200]], requires_grad=True)
    value = log_cost(bounds, torch.tensor([[0.0, 0, 0], [0, 0, 2]]))
    value.sum().backward()
    assert value.tolist() == [0, pytest.approx(400)]
    assert bounds.grad.tolist() == [[0, 0, 0], [0, 0, -2]]


def test_without_an_attacker_there_is_nothing_to_hold_against() -> None:
    with pytest.raises(InputError, match="threat: None; allowed: a ThreatModel"):
        METHODS.parse("IBP")(Task(batch(0)[0], COSTS))


def stripes(n: int = 144) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % 3
    x = 0.4 * torch.rand(n, 1, 12, 12)
    for image, label in zip(x, y.tolist(), strict=True):
        image[0, 4 * label : 4 * label + 4] += 0.5
    return x, y


def test_it_trains_networks_that_can_be_certified() -> None:
    x, y = stripes()
    recipe = Recipe(epochs=12, batch_size=12, optimizer="adam", lr=0.005)
    threat, costs = ThreatModel(0.1, "linf", "pixel", True), csnb.protect(3, 1)
    held = {}
    for method in ("STD", "IBP", "CROWN-IBP"):
        torch.manual_seed(0)
        model = Normalized(small_cnn((1, 12, 12), 3, kernels=2, hidden=12), [0.4], [0.3])
        csnb.fit(
            model, x, y, method=method, costs=costs, protected=[1], recipe=recipe, threat=threat,
            seed=0,
        )  # fmt: skip
        pairs = certified_pairs(model, x[:60], y[:60], threat)
        scores = certified_score(pairs > 0, y[:60].numpy(), classes="abc", costs=costs)
        held[method] = scores.set_index("measure").loc["average", "value"]
    assert held["STD"] < 0.75 < 0.9 <= min(held["IBP"], held["CROWN-IBP"]), held
