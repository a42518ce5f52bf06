"""The paper's six attacks as advertorch makes them, under one threat model. The only file that imports advertorch.

FGSM and CW are advertorch's own. The loop that PGD, BIA and MIA share is written again here, since advertorch's cannot stop
at the first image that fools the model; the tests hold its images to advertorch's.
"""

import math
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from csnb.errors import InputError
from csnb.models import Normalized


def _import_advertorch() -> tuple[types.ModuleType, types.ModuleType]:
    """advertorch 0.2.3 imports ``zero_gradients``, which torch dropped from this module in 1.9 (it uses it in FAB only)."""
    gradcheck = sys.modules["torch.autograd.gradcheck"]  # the attribute of that name is a function
    if not hasattr(gradcheck, "zero_gradients"):
        gradcheck.zero_gradients = lambda x: x.grad is not None and x.grad.detach_().zero_()
    from advertorch import attacks, utils

    return attacks, utils


advertorch_attacks, advertorch_utils = _import_advertorch()
clamp_by_pnorm, normalize_by_pnorm = advertorch_utils.clamp_by_pnorm, advertorch_utils.normalize_by_pnorm
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (B, m), labels (B,)) -> sum over the batch


@dataclass(frozen=True)
class ThreatModel:
    """How far an attacker may move an image.

    ``eps``: radius of the ball, >= 0, in units of ``space``: ``normalized`` (after the model's first layer, as the paper
    measured) or ``pixel``. ``norm``: of the ball for FGSM, PGD and MIA; L2BIA and LinfBIA have their own (all with the
    same ``eps``), CW has no ball. ``bounded``: adversarial images are valid images, pixels in [0, 1]; CW's always are.
    """

    eps: float
    norm: Literal["linf", "l2"] = "linf"
    space: Literal["normalized", "pixel"] = "normalized"
    bounded: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps: {self.eps} is not a radius; allowed: 0 or more")


@dataclass(frozen=True)
class _Target:
    """What advertorch attacks: a function from its own units to logits, with a box that images stay in (or none)."""

    predict: Callable[[Tensor], Tensor]
    box: tuple[Tensor, Tensor]  # valid images in these units, (C, H, W) each
    bounded: bool
    eps: float
    order: float  # 2 or inf
    loss: Loss
    stop: bool  # at the first iterate that fools the model

    @property
    def clip(self) -> dict[str, Tensor | None]:
        low, high = self.box if self.bounded else (None, None)
        return {"clip_min": low, "clip_max": high}


def _fgsm(target: _Target, x: Tensor, y: Tensor) -> Tensor:
    kind = advertorch_attacks.GradientSignAttack if target.order == math.inf else advertorch_attacks.GradientAttack
    return kind(target.predict, target.loss, eps=target.eps, **target.clip).perturb(x, y)


def _walk(
    target: _Target,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    order: float,
    steps: int,
    step_size: float,
    decay: float | None = None,
) -> Tensor:
    """The iterates of PGD, BIA and (with ``decay``) MIA from perturbation ``start``, as advertorch makes them, with less work.

    Returns the last; with ``target.stop``, each image's first that fools the model. Then the clean image comes first, and
    images that fool are attacked no more: at once, or on a GPU, where asking means waiting for it, every eighth step.
    """
    found = x.clone()
    standing = _recognised(target, x, y) if target.stop else torch.ones_like(y, dtype=torch.bool)
    at = torch.arange(len(x), device=x.device)  # where in `found` the images that are still attacked go
    delta, momentum = start, torch.zeros_like(x)
    for step in range(steps):
        if target.stop and (step % 8 == 0 or not x.is_cuda):
            at, x, y, delta, momentum, standing = (t[standing] for t in (at, x, y, delta, momentum, standing))
            if not len(x):
                return found
        z = (x + delta).requires_grad_()
        logits = target.predict(z)
        if target.stop:
            found[at] = torch.where(standing.view(-1, 1, 1, 1), z.detach(), found[at])
            standing = standing & (logits.argmax(1) == y)
        (gradient,) = torch.autograd.grad(target.loss(logits, y), z)
        if decay is not None:
            gradient = momentum = momentum.mul_(decay).add_(normalize_by_pnorm(gradient, p=1))
        delta = _move(target, x, delta, gradient, order, step_size)
    found[at] = torch.where(standing.view(-1, 1, 1, 1), x + delta, found[at])
    return found


@torch.no_grad()
def _recognised(target: _Target, x: Tensor, y: Tensor) -> Tensor:
    """Which images the model gets right, (B,) bool."""
    return target.predict(x).argmax(1) == y


def _move(target: _Target, x: Tensor, delta: Tensor, gradient: Tensor, order: float, step_size: float) -> Tensor:
    """One step uphill, back into the ball and the box."""
    if order == math.inf:
        delta = gradient.sign().mul_(step_size).add_(delta).clamp_(-target.eps, target.eps)
        return _boxed(target, x, delta)
    delta = normalize_by_pnorm(gradient).mul_(step_size).add_(delta)
    return clamp_by_pnorm(_boxed(target, x, delta), 2, target.eps)


def random_start(x: Tensor, eps: float, order: float) -> Tensor:
    """A perturbation drawn uniformly from the ball: of the cube (linf, as advertorch does) or of the sphere's inside."""
    if order == math.inf:
        return eps * torch.empty_like(x).uniform_(-1, 1)
    direction = torch.nn.functional.normalize(torch.randn_like(x).flatten(1)).view_as(x)
    radius = eps * torch.rand(len(x), device=x.device) ** (1 / x[0].numel())
    return direction * radius.view(-1, 1, 1, 1)


def _pgd(target: _Target, x: Tensor, y: Tensor, *, steps: int, step_size: float, restarts: int) -> Tensor:
    """Each restart attacks, from a fresh random point, the images that the model still recognises."""
    options = {"order": target.order, "steps": steps, "step_size": step_size}
    found = _walk(target, x, y, _boxed(target, x, random_start(x, target.eps, target.order)), **options)
    for _ in range(restarts - 1):
        start = _boxed(target, x, random_start(x, target.eps, target.order))  # for all: no image's start depends on others
        standing = _recognised(target, found, y)
        if standing.any():
            found[standing] = _walk(target, x[standing], y[standing], start[standing], **options)
    return found


def _boxed(target: _Target, x: Tensor, delta: Tensor) -> Tensor:
    """The perturbation cut so that ``x + delta`` keeps to the box, if there is one."""
    return torch.clamp(x + delta, *target.box).sub_(x) if target.bounded else delta


def _bia(target: _Target, x: Tensor, y: Tensor, *, order: float, steps: int, step_size: float) -> Tensor:
    return _walk(target, x, y, torch.zeros_like(x), order=order, steps=steps, step_size=step_size)


def _mia(target: _Target, x: Tensor, y: Tensor, *, steps: int, step_size: float, decay: float) -> Tensor:
    """As advertorch's, but that its L2 projection divides by perturbations of 0 and spreads the NaN."""
    return _walk(target, x, y, torch.zeros_like(x), order=target.order, steps=steps, step_size=step_size, decay=decay)


def _cw(
    target: _Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    searches: int,
    step_size: float,
    initial_const: float,
    confidence: float,
) -> Tensor:
    """Minimal L2 perturbation that fools the model, without a ball; an image that it cannot fool comes back unchanged."""
    low, high = target.box
    classes = target.predict(x[:1]).shape[1]
    return advertorch_attacks.CarliniWagnerL2Attack(
        target.predict,
        classes,
        confidence=confidence,
        learning_rate=step_size,
        binary_search_steps=searches,
        max_iterations=steps,
        initial_const=initial_const,
        clip_min=low,
        clip_max=high,
    ).perturb(x, y)


# Each attack's options and their defaults: advertorch's own, but for CW's `steps` (there 10,000; see Experiment).
ATTACKS: dict[str, dict[str, int | float]] = {
    "FGSM": {},
    "PGD": {"steps": 40, "step_size": 0.01, "restarts": 1},
    "CW": {"steps": 100, "searches": 9, "step_size": 0.01, "initial_const": 1e-3, "confidence": 0.0},
    "MIA": {"steps": 40, "step_size": 0.01, "decay": 1.0},
    "L2BIA": {"steps": 10, "step_size": 0.05},
    "LinfBIA": {"steps": 10, "step_size": 0.05},
}
_RUN: dict[str, Callable[..., Tensor]] = {
    "FGSM": _fgsm,
    "PGD": _pgd,
    "CW": _cw,
    "MIA": _mia,
    "L2BIA": partial(_bia, order=2),
    "LinfBIA": partial(_bia, order=math.inf),
}


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """What the paper's attacks maximise."""
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def perturb(
    model: Normalized,
    x: Tensor,
    y: Tensor,
    attack: str,
    threat: ThreatModel,
    *,
    loss: Loss = cross_entropy_sum,
    robust: Literal["last", "worst"] = "last",
    seed: int | None = None,
    **options: int | float,
) -> Tensor:
    """Adversarial images (B, C, H, W) for pixels ``x`` (B, C, H, W) in [0, 1] with labels ``y`` (B,).

    ``attack``: a key of `ATTACKS`, whose ``options`` default to that table. ``loss``: what is maximised (not by CW).
    ``robust``: ``last`` gives the images that advertorch returns; ``worst`` gives each image's first iterate that fools the
    model, the clean image included, and stops there (on a GPU, up to 7 steps later): no image that ``last`` fools stands.
    ``seed``: of random starts; None continues torch's global generator. A pixel whose value is not finite (a model with
    non-finite gradients) is left as it was. The model is attacked in evaluation mode and left as it was: mode, gradients,
    requires_grad.
    """
    if attack not in ATTACKS:
        raise InputError(f"attacks: {attack!r} is unknown; allowed: {', '.join(ATTACKS)}")
    unknown = set(options) - set(ATTACKS[attack])
    if unknown:
        raise InputError(f"{attack}: no option {', '.join(sorted(unknown))}; allowed: {', '.join(ATTACKS[attack]) or 'none'}")
    if not len(x) or (threat.eps == 0 and attack != "CW"):
        return x.clone()
    normalized = threat.space == "normalized"
    corners = [torch.full_like(x[:1], value) for value in (0.0, 1.0)]
    with _frozen(model), _seeded(seed):
        target = _Target(
            predict=model.body if normalized else model,
            box=tuple((model.normalize(c) if normalized else c)[0] for c in corners),
            bounded=threat.bounded,
            eps=float(threat.eps),
            order=math.inf if threat.norm == "linf" else 2,
            loss=loss,
            stop=robust == "worst",
        )
        call = partial(_RUN[attack], target, **(ATTACKS[attack] | options))
        units = model.normalize(x) if normalized else x
        found = call(units, y).detach()
        if target.stop:
            found = torch.where(_recognised(target, units, y).view(-1, 1, 1, 1), found, units)
        images = model.denormalize(found) if normalized else found
    return torch.where(torch.isfinite(images) & (found != units), images, x)  # what did not move is x to the bit


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, parameters without gradients (a sixth faster), and everything as before at the end."""
    modes = {module: module.training for module in model.modules()}
    needed = {p: p.requires_grad for p in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in needed.items():
            parameter.requires_grad_(requires_grad)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Random numbers from ``seed`` inside, the global generators untouched outside."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
