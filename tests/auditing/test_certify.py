"""What is certified beside what is claimed and audited; and attacks that bounds contradict."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from auditing.conftest import SHORT, THREAT, audit
from torch import Tensor, nn

import csnb
from csnb.auditing import certify, work
from csnb.auditing.of_model import sample
from csnb.models import Normalized

Trained = Callable[[str], Normalized]


def accuracies(found: csnb.auditing.Audit, level: str) -> list[float]:
    """Of the protected class, of the others, of all."""
    rows = found.rows[found.rows["part"].isin(["accuracy", "average"])]
    return rows["value"][rows["name"] == level].tolist()


def closed_form(layer: nn.Linear, x: Tensor, y: Tensor) -> np.ndarray:
    """Of a linear network, the least lead of the true class in the ball: each pixel by itself."""
    slopes = layer.weight[y][:, None] - layer.weight  # (N, m, pixels)
    clean = (slopes * x.flatten(1)[:, None]).sum(2) + layer.bias[y][:, None] - layer.bias
    up = (x.flatten(1) + THREAT.eps).clamp(max=1) - x.flatten(1)
    down = (x.flatten(1) - THREAT.eps).clamp(min=0) - x.flatten(1)
    moved = torch.minimum(slopes * up[:, None], slopes * down[:, None]).sum(2)
    leads = (clean + moved).scatter(1, y[:, None], torch.inf)
    return leads.amin(1).detach().numpy()


@pytest.mark.parametrize("protected", [3, (3, 8)])
def test_of_a_linear_network_exactly_what_stands_is_certified(protected: Any, digits) -> None:
    torch.manual_seed(0)
    x, y = digits.x_train[:600], digits.y_train[:600]
    layer = nn.Linear(784, 10)
    adam = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(40):
        adam.zero_grad()
        nn.functional.cross_entropy(layer(x.flatten(1)), y).backward()
        adam.step()
    found = audit(nn.Sequential(nn.Flatten(), layer), digits, protected=protected)
    own = (protected,) if isinstance(protected, int) else protected
    chosen = sample(digits.y_test, own, 36, 0)
    leads = closed_form(layer, digits.x_test[chosen], digits.y_test[chosen])
    assert 0.1 < (leads > 0).mean() < 0.9 and np.abs(leads).min() > 1e-3
    shares = [(leads > 0)[found.own == kind].mean() for kind in (True, False)]
    assert accuracies(found, "certified")[:2] == accuracies(found, "audited")[:2] == shares
    text = found.rows["text"].iloc[0]
    assert text.endswith(f" At least {shares[0]:.1%} stand whatever the attack.")
    certified, audited = (found.margins[level] for level in ("certified", "audited"))
    assert np.where(found.own, certified <= audited, certified >= audited).all()
    if protected == 3:
        gap = leads[found.own] - certified[found.own]
        assert gap.min() >= 0 and gap.max() < 0.005  # what float32 may round
    assert "certified at least" in found.table() and "bounds" in found.indicators.index
    assert list(found.curves()) == ["claimed", "audited", "certified"]


def test_what_bounds_cannot_follow_is_audited_without(trained: Trained, digits) -> None:
    leaky = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.LeakyReLU(), nn.Linear(8, 10))
    found = audit(leaky, digits, images=20)
    said = "Nothing is certified: no rule for layer 2 (LeakyReLU)."
    assert said in found._repr_markdown_().splitlines()
    assert "certified" not in {*found.curves(), *found.rows["name"], *found.table()}
    assert "bounds" not in found.indicators.index and "whatever" not in found.rows["text"].iloc[0]


def far(case: work.Case, attack: Any, x: Tensor, *rest: Any) -> Tensor:
    """Images that leave the ball."""
    return (1 - x) if attack.name == "PGD on the margin" else x


def test_an_attack_that_crosses_a_bound_is_a_contradiction(
    trained: Trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "adversarial", far)
    threat = csnb.ThreatModel(0.001, space="pixel", bounded=True)  # nearly all is certified
    found = csnb.audit(trained("ADV"), digits, threat, 3, images=20, claim=SHORT)
    assert found.verdict == "not auditable" and found.indicators["flagged"]["bounds"]
    text = found.rows["text"].iloc[0]
    assert (
        "A contradiction: " in text and "(by PGD on the margin)" in text and "whatever" not in text
    )


def test_bounds_that_do_not_hold_are_a_contradiction(
    trained: Trained, digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loose(model: Any, x: Tensor, y: Tensor, *rest: Any) -> np.ndarray:
        return np.where(y == 3, 9, -9).astype(np.float32)

    monkeypatch.setattr(certify, "certified_margins", loose)
    found = audit(trained("STD"), digits, images=20)
    assert found.verdict == "not auditable"
    assert "the claim" in found.indicators["text"]["bounds"]
