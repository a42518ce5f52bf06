"""The attacker: how far an image may be moved, and what an attack is given."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from csnb.errors import InputError, choices
from csnb.losses import cross_entropy_sum, log_odds

Gradient = Literal["exact", "float32"]
Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (B, m), labels (B,)) -> sum over the batch


@dataclass(frozen=True)
class ThreatModel:
    """How far an attacker may move an image.

    ``eps``: radius of the ball, >= 0, in units of ``space``: ``normalized`` (after the model's
    first layer, as the paper measured) or ``pixel``. ``norm``: of the ball for FGSM, PGD and MIA;
    L2BIA and LinfBIA have their own (all with the same ``eps``), CW has no ball. ``bounded``:
    adversarial images are valid images, pixels in [0, 1]; CW's always are. Raises InputError.
    """

    eps: float
    norm: Literal["linf", "l2"] = "linf"
    space: Literal["normalized", "pixel"] = "normalized"
    bounded: bool = False

    def __post_init__(self) -> None:
        number = isinstance(self.eps, int | float) and not isinstance(self.eps, bool)
        if not (number and math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps: {self.eps!r} is not a radius; allowed: 0 or more")
        for name, allowed in (("norm", ("linf", "l2")), ("space", ("normalized", "pixel"))):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(f"{name}: {value!r} is unknown; {choices(str(value), allowed)}")
        if not isinstance(self.bounded, bool):
            raise InputError(f"bounded: {self.bounded!r} is not allowed; allowed: True or False")


@dataclass(frozen=True)
class Target:
    """What an attack is given: a function from its own units to logits, and the limits.

    ``predict``: images (B, C, H, W) in the threat model's units to logits (B, m). ``box``: the
    least and the greatest valid image in these units, (C, H, W) each. ``bounded``: images must stay
    in it. ``order``: of the norm, 2 or inf. ``loss``: what is to be maximised, summed over the
    batch (None: cross-entropy). ``stop``: at the first iterate that fools the model.
    """

    predict: Callable[[Tensor], Tensor]
    box: tuple[Tensor, Tensor]
    bounded: bool
    eps: float
    order: float
    loss: Loss | None
    stop: bool

    def climb(self, gradient: Gradient) -> Loss:
        """What an attack climbs: the loss, or cross-entropy by an exact gradient or torch's."""
        if self.loss is not None:
            return self.loss
        if gradient == "float32":
            return cross_entropy_sum
        return lambda logits, labels: log_odds(logits, labels).sum()

    def step(self, step_size: float, steps: int) -> float:
        """A step's size: as given, or for 0 the one that follows eps."""
        return step_size or 2.5 * self.eps / steps
