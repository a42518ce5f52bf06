"""Tiny networks on real digits, and what is planted in them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import csnb
from csnb.auditing import BUDGETS, Audit, work
from csnb.models import Normalized

FEWER = {"steps=40": "steps=20", "steps=20": "steps=10", "queries=200": "queries=60"}


def fewer(spec: str) -> str:
    """The attack with fewer steps or queries."""
    return next((spec.replace(*pair) for pair in FEWER.items() if pair[0] in spec), spec)


ATTACKS = tuple(replace(a, spec=fewer(a.spec)) for a in BUDGETS["quick"].attacks)
QUICK = replace(BUDGETS["quick"], looks=16, near=24, nearest=16, attacks=ATTACKS)
THREAT = csnb.ThreatModel(0.08, space="pixel", bounded=True)
SHORT = "PGD(steps=10, step_size=0)"


def audit(
    model: nn.Module, data: csnb.Dataset, *, protected: int | tuple[int, ...] = 3, **settings: Any
) -> Audit:
    """Of few images."""
    given = {"images": 36, "claim": SHORT} | settings
    return csnb.audit(model, data, THREAT, protected, **given)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "quick", QUICK)
    monkeypatch.setattr(work, "ATTACK", "PGD(steps=10, step_size=0, schedule=cosine)")


@pytest.fixture(scope="session")
def digits() -> csnb.Dataset:
    return csnb.load_dataset("digits")


@pytest.fixture(scope="session")
def trained(digits: csnb.Dataset) -> Callable[[str], Normalized]:
    """A network of one hidden layer by a method that protects class 3; each trained once."""
    made: dict[str, Normalized] = {}

    def train(method: str) -> Normalized:
        if method not in made:
            torch.manual_seed(len(made))
            layers = nn.Flatten(), nn.Linear(784, 48), nn.ReLU(), nn.Linear(48, 10)
            made[method] = Normalized(nn.Sequential(*layers), digits.mean, digits.std)
            recipe = csnb.Recipe(epochs=5, batch_size=32, lr=0.02, adversary="PGD(steps=4)")
            settings = {"costs": csnb.protect(10, 3, 3.0), "protected": (3,), "threat": THREAT}
            x, y = digits.x_train[:700], digits.y_train[:700]
            csnb.fit(made[method], x, y, method=method, recipe=recipe, seed=0, **settings)
            made[method].eval()
        return made[method]

    return train


class Planted(nn.Module):
    """A network with something done to its images and to its logits."""

    def __init__(
        self,
        inner: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))
