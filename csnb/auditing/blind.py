"""Attacks that ask for no gradient: they see through networks that hide theirs."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csnb.attacks.gradient import random_start
from csnb.attacks.threat import Target
from csnb.auditing.autoattack import AUDITED
from csnb.losses import others
from csnb.spec import Count, Real


def miss(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the likeliest other class leads the true one. (B,)."""
    return others(logits, labels).amax(1) - logits.gather(1, labels[:, None]).squeeze(1)


@AUDITED.register("SPSA", source="Uesato et al. 2018")
@torch.no_grad()
def spsa(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Annotated[Count, Field(ge=1, description="of ascent")] = 50,
    samples: Annotated[Count, Field(ge=1, description="pairs of images for each slope")] = 128,
    probe: Annotated[Real, Field(gt=0, le=1, description="how far these are apart, in eps")] = 0.2,
) -> Tensor:
    """Ascent on the lead of another class, its slope estimated from random pairs of images."""
    delta, best = torch.zeros_like(x), _Best(target, x, y)
    reach = probe * float(target.eps)
    for _ in range(steps):
        slope = torch.zeros_like(x)
        for _ in range(samples):
            way = torch.empty_like(x).bernoulli_(0.5).mul_(2).sub_(1)
            if target.order != math.inf:
                way /= math.sqrt(x[0].numel())
            ends = (miss(target.predict(x + delta + s * reach * way), y) for s in (1, -1))
            ahead, behind = ends
            slope += (ahead - behind).view(-1, 1, 1, 1) * way
        delta = into_ball(target, x, delta + 2.5 / steps * _longest(target, slope))
        best.look(x + delta)
    return best.images


@AUDITED.register("RANDOM", source="Carlini et al. 2019, section 5")
@torch.no_grad()
def random_search(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    tries: Annotated[
        Count, Field(ge=1, description="images of the ball, half of them corners")
    ] = 500,
) -> Tensor:
    """The worst of random images of the ball."""
    best = _Best(target, x, y)
    for number in range(tries):
        delta = random_start(x, target.eps, target.order)
        delta = _longest(target, delta) if number % 2 else delta
        best.look(x + into_ball(target, x, delta))
    return best.images


def into_ball(target: Target, x: Tensor, delta: Tensor) -> Tensor:
    """A perturbation brought back into the ball and, where images must be valid, the box."""
    if target.order == math.inf:
        delta = delta.clamp(-target.eps, target.eps)
    else:
        size = torch.linalg.vector_norm(delta.flatten(1), dim=1).clamp_min(1e-12)
        delta = delta * (target.eps / size).clamp_max(1).view(-1, 1, 1, 1)
    return torch.clamp(x + delta, *target.box) - x if target.bounded else delta


def _longest(target: Target, slope: Tensor) -> Tensor:
    """The perturbation of the ball's radius that goes furthest uphill."""
    if target.order == math.inf:
        return target.eps * slope.sign()
    size = torch.linalg.vector_norm(slope.flatten(1), dim=1).clamp_min(1e-30)
    return slope * (target.eps / size).view(-1, 1, 1, 1)


class _Best:
    """Of all images that were looked at, those with the largest `miss`."""

    def __init__(self, target: Target, x: Tensor, y: Tensor) -> None:
        self.target, self.y, self.images = target, y, x.clone()
        self.miss = miss(target.predict(x), y)

    def look(self, z: Tensor) -> None:
        found = miss(self.target.predict(z), self.y)
        better = found > self.miss
        self.miss = torch.where(better, found, self.miss)
        self.images[better] = z[better]
