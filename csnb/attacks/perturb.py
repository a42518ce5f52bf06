"""From pixels to adversarial pixels, under any threat model, for any attack of the registry."""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from csnb.attacks.gradient import recognised
from csnb.attacks.threat import Loss, Robust, Target, ThreatModel
from csnb.errors import InputError
from csnb.images import Images, batches
from csnb.models import Normalized, body_of, evaluating, watched
from csnb.spec import ATTACKS, Seed, Spec, checker

_check = checker(threat=ThreatModel, robust=Robust, seed=Seed | None)
NO_BALL = ("CW",)  # attacks that know no eps
LEAVE = {"linf": NO_BALL, "l2": (*NO_BALL, "LinfBIA")}  # by norm, those that leave its ball
LEAST = torch.finfo(torch.float32).tiny  # a smaller eps is 0 in float32


def perturb(
    model: nn.Module,
    x: Tensor | Images,
    y: Tensor,
    attack: str | Spec,
    threat: ThreatModel,
    *,
    loss: Loss | None = None,
    robust: Literal["last", "worst"] = "last",
    seed: int | None = None,
) -> Tensor:
    """Adversarial images (B, C, H, W) for pixels ``x`` (B, C, H, W) in [0, 1], labels ``y`` (B,).

    ``model``: any network from pixels to logits (B, m), m of two or more.
    ``attack``: of `ATTACKS`, such as ``"PGD(steps=100, restarts=5)"``. ``loss``: what is maximised
    (not by CW), default cross-entropy. ``robust``: ``last`` gives the images that the attack
    returns; ``worst`` gives each image's first iterate that fools the model, the clean image
    included, and stops there (on a GPU, up to 7 steps later): no image that ``last`` fools stands.
    ``seed``: of random starts; None continues torch's global generator. The model is attacked in
    evaluation mode and left as it was: mode, gradients, requires_grad. Raises InputError for an
    unknown attack or option, for pixels outside [0, 1], for labels of other than the model's
    classes, and where the images come out not finite.
    """
    _check(threat=threat, robust=robust, seed=seed)
    spec = ATTACKS.parse(attack)
    if isinstance(x, Images):
        x = next(batches(x, [torch.arange(len(x))]))
    with watched(model, x, y):
        images = moved(model, x, y, spec, threat, loss=loss, robust=robust, seed=seed)
    if not images.isfinite().all():
        raise InputError(
            f"{spec}: gives pixels that are not finite; "
            "allowed: a model with finite gradients, and smaller steps or options"
        )
    return images


def moved(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: Spec,
    threat: ThreatModel,
    *,
    loss: Loss | None = None,
    robust: Literal["last", "worst"] = "last",
    seed: int | None = None,
    radius: Tensor | None = None,
    together: bool = False,
) -> Tensor:
    """As `perturb`, without a look at the numbers: for the batches of a training.

    ``radius``: each image's own, in eps, (B,); default: 1. ``together``: see `Target`.
    """
    x = x.detach()
    if not len(x) or (threat.eps < LEAST and spec.name not in NO_BALL):
        return x.clone()
    with _frozen(model), _seeded(seed):
        target, units = _aim(model, x, threat, loss, robust == "worst")
        target = replace(target, together=together)
        if radius is not None:
            own = (target.eps * radius).clamp_min(LEAST)  # 0 / 0 is no projection
            target = replace(target, eps=own.view(-1, 1, 1, 1))
        found = spec(target, units, y).detach()
        if target.stop:
            found = torch.where(recognised(target, units, y).view(-1, 1, 1, 1), found, units)
        images = model.denormalize(found) if threat.space == "normalized" else found
    if threat.bounded:
        images = images.clamp(0, 1)  # there and back again may leave it by a rounding
    return torch.where(found == units, x, images)  # what did not move is x to the bit


def keeps_to_ball(attack: str, norm: Literal["linf", "l2"] = "linf") -> bool:
    """Whether an attack, by its label, stays in the ball of a threat model of this norm."""
    return attack.partition("(")[0] not in LEAVE[norm]


def warn_short(specs: Iterable[Spec], threat: ThreatModel) -> None:
    """Warns of attacks of csnb's whose steps, all in one direction, stay within the ball.

    Robustness under them is of a smaller radius than the one that is asked for.
    """
    for spec in specs:
        steps, size = (spec.options.get(name) for name in ("steps", "step_size"))
        if spec.entry.file or spec.name in NO_BALL or not (steps and size):
            continue
        halves = 2 if spec.options.get("schedule") == "cosine" else 1  # of its mean step
        if steps * size < halves * threat.eps * (1 - 1e-9):
            warnings.warn(
                f"{spec}: {steps} steps of {size:g} cannot reach eps {threat.eps:g}; "
                "step_size=0 follows eps",
                stacklevel=3,
            )


def _aim(
    model: nn.Module, x: Tensor, threat: ThreatModel, loss: Loss | None, stop: bool
) -> tuple[Target, Tensor]:
    """The target in the threat model's units, and the images in these."""
    normalized = threat.space == "normalized"
    if normalized and not isinstance(model, Normalized):
        raise InputError(
            f"space: normalized, but {type(model).__name__} has no normalisation of csnb's; "
            "allowed: pixel, or csnb.models.Normalized(model, mean, std)"
        )
    corners = [torch.full_like(x[:1], value) for value in (0.0, 1.0)]
    target = Target(
        predict=body_of(model) if normalized else model,
        box=tuple((model.normalize(c) if normalized else c)[0] for c in corners),
        bounded=threat.bounded,
        eps=float(threat.eps),
        order=math.inf if threat.norm == "linf" else 2,
        objective=loss,
        stop=stop,
    )
    return target, model.normalize(x) if normalized else x


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, parameters without gradients (a sixth faster); as before at the end."""
    needed = {p: p.requires_grad for p in model.parameters()}
    model.requires_grad_(False)
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
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
