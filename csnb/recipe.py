"""How a model is trained, whatever the method."""

from dataclasses import dataclass
from typing import Literal

from csnb.spec import Spec


@dataclass(frozen=True)
class Recipe:
    """A training's settings, with the paper's defaults; see `Experiment` for units and ranges.

    ``schedule``, of methods that train on adversarial examples: ``halves`` (MNIST, section IV-A):
    clean images for the first half of the epochs, adversarial ones for the rest. ``both``
    (Algorithm 1, CIFAR-10): an update with the batch, then one with its adversarial images.
    ``alternate`` (CIFAR-100): clean and adversarial batches in turn. ``adversary``: the attack
    inside training.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    halve_every: int = 0
    schedule: Literal["halves", "both", "alternate"] = "halves"
    adversary: str | Spec = "PGD(steps=7, step_size=0)"

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
