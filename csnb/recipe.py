"""How a model is trained, whatever the method."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from csnb.spec import Count, Real, Spec, checker

Epochs = Annotated[Count, Field(ge=1, le=100_000, description="passes over the training images")]
BatchSize = Annotated[Count, Field(ge=1, description="images per update")]
Optimizer = Annotated[Literal["sgd", "adam"], Field(description="sgd or adam")]
Rate = Annotated[Real, Field(gt=0, le=1e12, description="learning rate")]  # Adam takes ten times it
Momentum = Annotated[Real, Field(ge=0, lt=1, description="momentum of sgd, in [0, 1)")]
HalveEvery = Annotated[Count, Field(ge=0, description="epochs until the rate halves; 0: never")]
Schedule = Annotated[
    Literal["halves", "both", "alternate"],
    Field(description="adversarial: halves (of epochs), both (each batch), alternate"),
]


def _changes(text: str) -> str:
    """In one order and spelling."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if len({*found}) < len(found) or not {*found} <= {*CHANGES}:
        raise ValueError("Input should be empty, crop, flip, or crop, flip")
    return ", ".join(name for name in CHANGES if name in found)


CHANGES = ("crop", "flip")
Augment = Annotated[
    str,
    AfterValidator(_changes),
    Field(description="training images changed by chance: crop, flip, or both; empty: none"),
]


@dataclass(frozen=True)
class Recipe:
    """A training's settings, with the paper's defaults; see `Experiment` for units and ranges.

    ``schedule``, of methods that train on adversarial examples: ``halves`` (MNIST, section IV-A):
    clean images for the first half of the epochs, adversarial ones for the rest. ``both``
    (Algorithm 1, CIFAR-10): an update with the batch, then one with its adversarial images.
    ``alternate`` (CIFAR-100): clean and adversarial batches in turn. ``adversary``: the attack
    inside training. ``augment``: changes of the training images, drawn anew each time: ``crop``
    moves them by up to an eighth of their sides, black coming in; ``flip`` mirrors half of them.
    Raises InputError.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    halve_every: int = 0
    schedule: Literal["halves", "both", "alternate"] = "halves"
    adversary: str | Spec = "PGD(steps=7, step_size=0)"
    augment: str = ""

    def __post_init__(self) -> None:
        for name, value in _check(**vars(self)).items():
            object.__setattr__(self, name, value)

    def stages(self, adversarial: bool, epoch: int, batch: int) -> tuple[str, ...]:
        """The updates made on one batch, in order.

        "clean", "adversarial" (epoch and batch count from 0).
        """
        if not adversarial:
            return ("clean",)
        if self.schedule == "both":
            return ("clean", "adversarial")
        clean = epoch < self.epochs // 2 if self.schedule == "halves" else batch % 2 == 0
        return ("clean",) if clean else ("adversarial",)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * 0.5 ** (epoch // self.halve_every if self.halve_every else 0)


_check = checker(
    epochs=Epochs,
    batch_size=BatchSize,
    optimizer=Optimizer,
    lr=Rate,
    momentum=Momentum,
    halve_every=HalveEvery,
    schedule=Schedule,
    augment=Augment,
    adversary=Annotated[str | Spec, Field(description="attack inside training")],
)
