"""Attacks that follow the gradient: FGSM, PGD, MIA, L2BIA, LinfBIA.

FGSM is advertorch's own. The loop that the others share is written again here, since advertorch's
cannot stop at the first image that fools the model; the tests hold its images to advertorch's.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from csnb.attacks.library import attacks, utils
from csnb.attacks.threat import Target
from csnb.spec import Count, Real, attack

Steps = Annotated[Count, Field(ge=1, le=1_000_000, description="gradient steps")]
StepSize = Annotated[
    Real, Field(ge=0, description="of each, in units of space; 0: 2.5 eps / steps")
]
Restarts = Annotated[Count, Field(ge=1, le=100_000, description="random starts")]
Decay = Annotated[Real, Field(ge=0, description="of the momentum")]


@attack("FGSM", source="Goodfellow et al. 2015; Eq. 5")
def fgsm(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """One step of size eps."""
    linf = target.order == math.inf
    kind = attacks.GradientSignAttack if linf else attacks.GradientAttack
    return kind(target.predict, target.loss, eps=target.eps, **target.clip).perturb(x, y)


@attack("PGD", source="Madry et al. 2018; section II-B")
def pgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 40,
    step_size: StepSize = 0.01,
    restarts: Restarts = 1,
) -> Tensor:
    """Projected gradient ascent from a random point.

    Each restart attacks what the model still recognises.
    """
    options = {"order": target.order, "steps": steps, "step_size": step_size}
    found = _walk(
        target, x, y, _boxed(target, x, random_start(x, target.eps, target.order)), **options
    )
    for _ in range(restarts - 1):
        # a start for all: no image's depends on others
        start = _boxed(target, x, random_start(x, target.eps, target.order))
        standing = recognised(target, found, y)
        if standing.any():
            found[standing] = _walk(target, x[standing], y[standing], start[standing], **options)
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
) -> Tensor:
    """Gradient ascent with momentum, from the clean image.

    As advertorch's, but that its L2 projection divides by perturbations of 0 and spreads the NaN.
    """
    options = {"order": target.order, "steps": steps, "step_size": step_size, "decay": decay}
    return _walk(target, x, y, torch.zeros_like(x), **options)


@attack("L2BIA", source="Kurakin et al. 2017")
def l2bia(
    target: Target, x: Tensor, y: Tensor, *, steps: Steps = 10, step_size: StepSize = 0.05
) -> Tensor:
    """Gradient ascent from the clean image in the L2 ball, whatever the threat model's norm."""
    return _walk(target, x, y, torch.zeros_like(x), order=2, steps=steps, step_size=step_size)


@attack("LinfBIA", source="Kurakin et al. 2017")
def linfbia(
    target: Target, x: Tensor, y: Tensor, *, steps: Steps = 10, step_size: StepSize = 0.05
) -> Tensor:
    """The same in the Linf ball."""
    return _walk(
        target, x, y, torch.zeros_like(x), order=math.inf, steps=steps, step_size=step_size
    )


def _walk(
    target: Target,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    order: float,
    steps: int,
    step_size: float,
    decay: float | None = None,
) -> Tensor:
    """The iterates of PGD, BIA and (with ``decay``) MIA from perturbation ``start``, as advertorch
    makes them, with less work.

    Returns the last; with ``target.stop``, each image's first that fools the model. Then the clean
    image comes first, and images that fool are attacked no more: at once, or on a GPU, where asking
    means waiting for it, every eighth step.
    """
    step_size = target.step(step_size, steps)
    found = x.clone()
    standing = recognised(target, x, y) if target.stop else torch.ones_like(y, dtype=torch.bool)
    at = torch.arange(
        len(x), device=x.device
    )  # where in `found` the images that are still attacked go
    delta, momentum = start, torch.zeros_like(x)
    for step in range(steps):
        if target.stop and (step % 8 == 0 or not x.is_cuda):
            at, x, y, delta, momentum, standing = (
                t[standing] for t in (at, x, y, delta, momentum, standing)
            )
            if not len(x):
                return found
        z = (x + delta).requires_grad_()
        logits = target.predict(z)
        if target.stop:
            found[at] = torch.where(standing.view(-1, 1, 1, 1), z.detach(), found[at])
            standing = standing & (logits.argmax(1) == y)
        (gradient,) = torch.autograd.grad(target.loss(logits, y), z)
        if decay is not None:
            gradient = momentum = momentum.mul_(decay).add_(utils.normalize_by_pnorm(gradient, p=1))
        delta = _move(target, x, delta, gradient, order, step_size)
    found[at] = torch.where(standing.view(-1, 1, 1, 1), x + delta, found[at])
    return found


@torch.no_grad()
def recognised(target: Target, x: Tensor, y: Tensor) -> Tensor:
    """Which images the model gets right, (B,) bool."""
    return target.predict(x).argmax(1) == y


def _move(
    target: Target, x: Tensor, delta: Tensor, gradient: Tensor, order: float, step_size: float
) -> Tensor:
    """One step uphill, back into the ball and the box."""
    if order == math.inf:
        delta = gradient.sign().mul_(step_size).add_(delta).clamp_(-target.eps, target.eps)
        return _boxed(target, x, delta)
    delta = utils.normalize_by_pnorm(gradient).mul_(step_size).add_(delta)
    return utils.clamp_by_pnorm(_boxed(target, x, delta), 2, target.eps)


def random_start(x: Tensor, eps: float, order: float) -> Tensor:
    """A perturbation drawn uniformly from the ball.

    Of the cube (linf, as advertorch does) or of the sphere's inside.
    """
    if order == math.inf:
        return eps * torch.empty_like(x).uniform_(-1, 1)
    direction = torch.nn.functional.normalize(torch.randn_like(x).flatten(1)).view_as(x)
    radius = eps * torch.rand(len(x), device=x.device) ** (1 / x[0].numel())
    return direction * radius.view(-1, 1, 1, 1)


def _boxed(target: Target, x: Tensor, delta: Tensor) -> Tensor:
    """The perturbation cut so that ``x + delta`` keeps to the box, if there is one."""
    return torch.clamp(x + delta, *target.box).sub_(x) if target.bounded else delta
