"""The attacker: how far an image may be moved, and what an attack is given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from csnb.losses import cross_entropy_sum, log_odds
from csnb.spec import Real, checker

Radius = Annotated[Real, Field(ge=0, description="radius of the threat model, in units of space")]
Norm = Annotated[Literal["linf", "l2"], Field(description="of FGSM, PGD and MIA: linf or l2")]
Space = Annotated[
    Literal["normalized", "pixel"],
    Field(description="normalized (as the paper measured) or pixel"),
]
Bounded = Annotated[bool, Field(description="attacks keep to valid pixels (the paper's do not)")]
Robust = Annotated[
    Literal["last", "worst"],
    Field(description="image that counts: last (as the paper) or worst (the first that fools)"),
]
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
        for name, value in _check(**vars(self)).items():
            object.__setattr__(self, name, value)

    def __str__(self) -> str:
        """For titles and tables: "eps 0.2 (pixel)"; of valid images where that is said beside."""
        return f"eps {self.eps:.3g} ({self.space}{', l2' if self.norm == 'l2' else ''})"


_check = checker(eps=Radius, norm=Norm, space=Space, bounded=Bounded)


@dataclass(frozen=True)
class Target:
    """What an attack is given: a function from its own units to logits, and the limits.

    ``predict``: images (B, C, H, W) in the threat model's units to logits (B, m). ``box``: the
    least and the greatest valid image in these units, (C, H, W) each. ``bounded``: images must stay
    in it. ``order``: of the norm, 2 or inf. ``objective``: what is to be maximised, summed over the
    batch (None: cross-entropy). ``stop``: at the first iterate that fools the model. ``together``:
    the objective or eps, (B, 1, 1, 1), knows these images, so that none may be left out.
    """

    predict: Callable[[Tensor], Tensor]
    box: tuple[Tensor, Tensor]
    bounded: bool
    eps: float | Tensor
    order: float
    objective: Loss | None
    stop: bool
    together: bool = False

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is to be maximised: the objective, else the `log_odds` of being wrong; summed."""
        return self.climb("exact")(logits, labels)

    def climb(self, gradient: Gradient) -> Loss:
        """The same as a function; cross-entropy by an exact gradient or as torch computes it."""
        if self.objective is not None:
            return self.objective
        if gradient == "float32":
            return cross_entropy_sum
        return lambda logits, labels: log_odds(logits, labels).sum()

    def step(self, step_size: float, steps: int) -> float | Tensor:
        """A step's size: as given, or for 0 the one that follows eps."""
        return step_size or 2.5 * self.eps / steps
