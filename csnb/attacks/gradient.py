"""Attacks that follow the gradient: FGSM, PGD, MIA, L2BIA, LinfBIA.

One loop serves all. With ``gradient=float32`` it gives advertorch's images (the tests compare
them); advertorch's own cannot stop at the first image that fools the model, and in float32 its
gradients of a confident network point elsewhere: the true class's part of cross-entropy's rounds
to 0, and a norm's floor of 1e-6 makes steps in L2, and MIA's memory, shorter than they should be.
``gradient=exact``, the default, has neither.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from csnb.attacks.library import utils
from csnb.attacks.threat import Gradient, Target
from csnb.spec import Count, Real, attack

Steps = Annotated[Count, Field(ge=1, le=1_000_000, description="gradient steps")]
StepSize = Annotated[
    Real, Field(ge=0, description="of each, in units of space; 0: 2.5 eps / steps")
]
Schedule = Annotated[
    Literal["constant", "cosine"],
    Field(description="of the steps' size: constant, or falling to 0 from it (0: from eps)"),
]
Restarts = Annotated[Count, Field(ge=1, le=100_000, description="random starts")]
Kind = Annotated[
    Gradient, Field(description="of cross-entropy: exact, or float32 as advertorch computes it")
]
Decay = Annotated[Real, Field(ge=0, description="of the momentum")]


@attack("FGSM", source="Goodfellow et al. 2015; Eq. 5")
def fgsm(target: Target, x: Tensor, y: Tensor, *, gradient: Kind = "exact") -> Tensor:
    """One step of size eps."""
    walk = _Walk(target, gradient, target.order, steps=1, step_size=target.eps)
    return walk(x, y, torch.zeros_like(x))


@attack("PGD", source="Madry et al. 2018; section II-B")
def pgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 40,
    step_size: StepSize = 0.01,
    restarts: Restarts = 1,
    schedule: Schedule = "constant",
    gradient: Kind = "exact",
) -> Tensor:
    """Projected gradient ascent from a random point.

    Each restart attacks what the model still recognises.
    """
    falling = schedule == "cosine"
    walk = _Walk(target, gradient, target.order, steps, step_size, falling=falling)
    found = walk(x, y, _boxed(target, x, random_start(x, target.eps, target.order)))
    for _ in range(restarts - 1):
        # a start for all: no image's depends on others
        start = _boxed(target, x, random_start(x, target.eps, target.order))
        standing = recognised(target, found, y)
        if standing.any() and target.together:
            found = torch.where(standing.view(-1, 1, 1, 1), walk(x, y, start), found)
        elif standing.any():
            found[standing] = walk(x[standing], y[standing], start[standing])
    return found


@attack("MIA", source="Dong et al. 2018")
def mia(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 40,
    step_size: StepSize = 0.01,
    decay: Decay = 1.0,
    gradient: Kind = "exact",
) -> Tensor:
    """Gradient ascent with momentum, from the clean image.

    As advertorch's, but that its L2 projection divides by perturbations of 0 and spreads the NaN.
    """
    walk = _Walk(target, gradient, target.order, steps, step_size, decay)
    return walk(x, y, torch.zeros_like(x))


@attack("L2BIA", source="Kurakin et al. 2017")
def l2bia(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 10,
    step_size: StepSize = 0.05,
    gradient: Kind = "exact",
) -> Tensor:
    """Gradient ascent from the clean image in the L2 ball, whatever the threat model's norm."""
    return _Walk(target, gradient, 2, steps, step_size)(x, y, torch.zeros_like(x))


@attack("LinfBIA", source="Kurakin et al. 2017")
def linfbia(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 10,
    step_size: StepSize = 0.05,
    gradient: Kind = "exact",
) -> Tensor:
    """The same in the Linf ball."""
    return _Walk(target, gradient, math.inf, steps, step_size)(x, y, torch.zeros_like(x))


@dataclass(frozen=True)
class _Walk:
    """The iterates of FGSM, PGD, BIA and (with ``decay``) MIA from a perturbation."""

    target: Target
    gradient: Gradient
    order: float
    steps: int
    step_size: float | Tensor
    decay: float | None = None
    falling: bool = False

    def __call__(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """The last iterate; with ``target.stop``, each image's first that fools the model.

        Then the clean image comes first, and images that fool are attacked no more: at once, or on
        a GPU, where asking means waiting for it, every eighth step. NaN where a gradient is not
        finite.
        """
        target, climb = self.target, self.target.climb(self.gradient)
        found = x.clone()
        standing = recognised(target, x, y) if target.stop else torch.ones_like(y, dtype=torch.bool)
        at = torch.arange(len(x), device=x.device)  # where in `found` what is still attacked goes
        delta, momentum = start, torch.zeros_like(x)
        nothing = x.new_zeros(())  # NaN once a slope is not finite: its sign would be 0
        for step in range(self.steps):
            if target.stop and (step % 8 == 0 or not x.is_cuda):
                kept = (t[standing] for t in (at, x, y, delta, momentum, standing))
                at, x, y, delta, momentum, standing = kept
                if not len(x):
                    break
            z = (x + delta).requires_grad_()
            logits = target.predict(z)
            if target.stop:
                found[at] = torch.where(standing.view(-1, 1, 1, 1), z.detach(), found[at])
                standing = standing & (logits.argmax(1) == y)
            (slope,) = torch.autograd.grad(climb(logits, y), z)
            slope = slope.contiguous()  # for advertorch's norms; weights may lie channels_last
            nothing = nothing + (slope * 0).sum()
            if self.decay is not None:
                slope = momentum = momentum.mul_(self.decay).add_(self._unit(slope, 1))
            delta = self._move(x, delta, slope, step)
        found[at] = torch.where(standing.view(-1, 1, 1, 1), x + delta, found[at])
        return found.add_(nothing)

    def _size(self, step: int) -> float | Tensor:
        """Of a step, counted from 0."""
        if not self.falling:
            return self.target.step(self.step_size, self.steps)
        share = (1 + math.cos(math.pi * step / self.steps)) / 2
        return (self.step_size or self.target.eps) * share

    def _move(self, x: Tensor, delta: Tensor, slope: Tensor, step: int) -> Tensor:
        """One step uphill, back into the ball and the box."""
        eps, step_size = self.target.eps, self._size(step)
        if self.order == math.inf:
            delta = slope.sign().mul_(step_size).add_(delta).clamp_(-eps, eps)
            return _boxed(self.target, x, delta)
        delta = self._unit(slope, 2).mul_(step_size).add_(delta)
        limit = eps.flatten() if isinstance(eps, Tensor) else eps
        return utils.clamp_by_pnorm(_boxed(self.target, x, delta), 2, limit)

    def _unit(self, slope: Tensor, order: int) -> Tensor:
        """The slopes (B, C, H, W) divided by their norms; 0 stays 0."""
        if self.gradient == "float32":
            return utils.normalize_by_pnorm(slope, p=order)
        top = slope.flatten(1).abs().amax(1).view(-1, 1, 1, 1)  # first: squares of 1e-30 are 0
        scaled = torch.where(top > 0, slope / top, slope)
        norm = torch.linalg.vector_norm(scaled.flatten(1), order, dim=1).view(-1, 1, 1, 1)
        return torch.where(norm > 0, scaled / norm, scaled)


@torch.no_grad()
def recognised(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Which images the model gets right, (B,) bool."""
    return target.predict(x).argmax(1) == y


def random_start(x: Tensor, eps: float | Tensor, order: float) -> Tensor:
    """A perturbation drawn uniformly from the ball.

    Of the cube (linf, as advertorch does) or of the sphere's inside.
    """
    if order == math.inf:
        return eps * torch.empty_like(x).uniform_(-1, 1)
    direction = torch.nn.functional.normalize(torch.randn_like(x).flatten(1)).view_as(x)
    share = torch.rand(len(x), device=x.device) ** (1 / x[0].numel())
    return direction * (eps * share.view(-1, 1, 1, 1))


def _boxed(target: Target, x: Tensor, delta: Tensor) -> Tensor:
    """The perturbation cut so that ``x + delta`` keeps to the box, if there is one."""
    return torch.clamp(x + delta, *target.box).sub_(x) if target.bounded else delta
