"""Networks that attacks do not see, each caught by the sign that is meant for it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from auditing.conftest import QUICK, Planted, audit
from torch import Tensor, nn

import csnb
from csnb.auditing import BUDGETS, Audit

CLAIM = "PGD(steps=20, step_size=0, schedule=cosine)"
FROM_THE_IMAGE = ("momentum", "FAB-T")  # attacks whose first step is that of FGSM


class Turned(torch.autograd.Function):
    """Images as they are; their gradient points back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return -slope


class Lost(torch.autograd.Function):
    """Images as they are; the gradient of those that are not ``honest``, (B,), is noise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, honest: Tensor) -> Tensor:
        ctx.honest = honest.view(-1, 1, 1, 1)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return torch.where(ctx.honest, slope, torch.randn_like(slope)), None


def nowhere(x: Tensor) -> Tensor:
    return Lost.apply(x, torch.zeros(len(x), dtype=torch.bool))


def at_the_image(x: Tensor) -> Tensor:
    """Where nobody has changed it: the left edge is black."""
    return Lost.apply(x, (x[:, 0, :, 0] == 0).all(1))


PLANTED: Mapping[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "unbounded": {"before": Turned.apply},
    "transfer": {"before": nowhere},
    "black": {"before": nowhere},
    "one step": {"before": at_the_image},
    "saturation": {"after": lambda z: z + 1e6},
}


@pytest.fixture(scope="module")
def coarse(digits: csnb.Dataset) -> nn.Module:
    """A network of few inputs, which even an attack of few queries can move."""
    torch.manual_seed(0)
    pool, layer = nn.Sequential(nn.AvgPool2d(7), nn.Flatten()), nn.Linear(16, 10)
    adam, x = torch.optim.Adam(layer.parameters(), 0.1), pool(digits.x_train)
    for _ in range(150):
        adam.zero_grad()
        nn.functional.cross_entropy(layer(x), digits.y_train).backward()
        adam.step()
    return nn.Sequential(pool, layer)


@pytest.fixture(scope="module")
def honest(coarse: nn.Module, digits: csnb.Dataset) -> Audit:
    """Of the network in which nothing is planted, by the same attacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "quick", QUICK)
        return audit(coarse, digits, claim=CLAIM, transfer={"the same network": coarse})


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_caught_by_its_sign_and_the_honest_network_by_none(
    name: str, coarse: nn.Module, digits, honest: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "one step":
        others = tuple(a for a in QUICK.attacks if a.name not in FROM_THE_IMAGE)
        monkeypatch.setitem(BUDGETS, "quick", replace(QUICK, attacks=others))
    outside = {"the same network": coarse} if name == "transfer" else None
    found = audit(Planted(coarse, **PLANTED[name]), digits, claim=CLAIM, transfer=outside)
    sign = found.indicators.loc[name]
    assert sign["flagged"] and sign["value"] > sign["threshold"] and found.verdict == "masked"
    assert not honest.indicators["flagged"].any() and honest.verdict != "masked"
