"""AutoAttack's four attacks, pyautoattack's own, under any threat model.

The only file that imports it.

pyautoattack knows valid pixels in [0, 1] and one radius in their units. Elsewhere it is shown the
threat model's units scaled so that every ball lies in [0, 1]; where images must stay valid and that
is another box, what it tries is cut to the box first.
"""

import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from csnb.attacks.gradient import recognised
from csnb.attacks.threat import Target
from csnb.errors import InputError
from csnb.spec import Count, Registry

AUDITED = Registry("attack")  # of audits: ways to be sure, too slow for training
LOGGER = logging.getLogger("csnb.autoattack")  # its warnings: audits have indicators of their own
LOGGER.addHandler(logging.NullHandler())
LOGGER.propagate = False
Steps = Annotated[Count, Field(ge=1, description="gradient steps of each start")]
Targets = Annotated[Count, Field(ge=1, description="likeliest other classes; no more than are")]


@AUDITED.register("APGD", source="Croce and Hein 2020")
def apgd(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    steps: Steps = 100,
    restarts: Annotated[Count, Field(ge=1, description="random starts")] = 1,
    loss: Annotated[
        Literal["ce", "dlr"], Field(description="cross-entropy, or difference of logits ratio")
    ] = "ce",
) -> Tensor:
    """Gradient ascent that chooses its own steps.

    DLR needs three classes; with two, cross-entropy depends on the margin alone.
    """
    from pyautoattack.autopgd_base import APGDAttack

    chosen = "ce" if classes(target, x) < 3 else loss
    options = {"n_iter": steps, "n_restarts": restarts, "loss": chosen, "logger": LOGGER}
    return _run(APGDAttack, target, x, y, **options)


@AUDITED.register("APGDT", source="Croce and Hein 2020")
def apgdt(
    target: Target, x: Tensor, y: Tensor, *, steps: Steps = 100, targets: Targets = 9
) -> Tensor:
    """The same towards each of the likeliest other classes, on targeted DLR.

    That needs four classes: with three it is DLR without a target, with two cross-entropy.
    """
    from pyautoattack.autopgd_base import APGDAttack_targeted

    m = classes(target, x)
    if m < 4:
        return apgd(target, x, y, steps=steps, restarts=min(targets, m - 1), loss="dlr")
    options = {"n_iter": steps, "n_target_classes": min(targets, m - 1), "logger": LOGGER}
    return _run(APGDAttack_targeted, target, x, y, **options)


@AUDITED.register("FAB", source="Croce and Hein 2020, Fast Adaptive Boundary")
def fab(
    target: Target, x: Tensor, y: Tensor, *, steps: Steps = 100, targets: Targets = 9
) -> Tensor:
    """The nearest image beyond the boundary of each of the likeliest other classes."""
    from pyautoattack.fab_pt import FABAttack_PT

    options = {"n_target_classes": min(targets, classes(target, x) - 1), "targeted": True}
    return _run(FABAttack_PT, target, x, y, n_iter=steps, **options)


@AUDITED.register("SQUARE", source="Andriushchenko et al. 2020")
def square(
    target: Target,
    x: Tensor,
    y: Tensor,
    *,
    queries: Annotated[Count, Field(ge=1, description="images shown to the network")] = 5000,
) -> Tensor:
    """Random search of squares, without gradients."""
    from pyautoattack.square import SquareAttack

    height = min(x.shape[2:])
    if target.order == 2 and height // (height // 5 or 1) != 5:
        raise InputError(f"SQUARE: no squares for {height} pixels a side in l2; allowed: linf")
    return _run(SquareAttack, target, x, y, n_queries=queries, resc_schedule=False)


@torch.no_grad()
def classes(target: Target, x: Tensor) -> int:
    """How many the network tells apart."""
    return target.predict(x[:1]).shape[1]


def _run(kind: Callable[..., Any], target: Target, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """What an attack of pyautoattack makes of the images that are recognised; the others stay."""
    start, scale = _scaling(target, x)
    cut = target.bounded and (start != 0 or scale != 1)

    def units(u: Tensor) -> Tensor:
        z = u if scale == 1 and start == 0 else start + scale * u
        return torch.clamp(z, *target.box) if cut else z

    def predict(u: Tensor) -> Tensor:
        return target.predict(units(_Contiguous.apply(u)))

    seed = int(torch.randint(2**31, ()))  # it seeds torch's generators
    norm = "Linf" if target.order == torch.inf else "L2"
    known = {"norm": norm, "eps": target.eps / scale, "seed": seed, "device": x.device}
    right, found = recognised(target, x, y), x.clone()
    if right.any():
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
            attack = kind(predict, **known, **options)
            moved = units(attack.perturb((x[right] - start) / scale, y[right]))
        delta = moved - x[right]
        if norm == "Linf" and scale != 1:  # there and back again may leave it by a rounding
            moved = x[right] + delta.clamp(-target.eps, target.eps)
        found[right] = moved
    return found


def _scaling(target: Target, x: Tensor) -> tuple[float, float]:
    """Where 0 lies in the threat model's units, and how long 1 is there."""
    if target.bounded:
        least, most = float(target.box[0].min()), float(target.box[1].max())
    else:
        least, most = float(x.min()) - target.eps, float(x.max()) + target.eps
    return least, most - least


class _Contiguous(torch.autograd.Function):
    """The images as they are; their gradient laid out as pyautoattack's ``view`` needs it."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()
