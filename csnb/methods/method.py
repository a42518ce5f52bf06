"""What a training method is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from csnb.bounds import Threat

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits (B, m), labels (B,)) -> a number


@dataclass(frozen=True)
class Task:
    """What a method may know.

    The network, the costs (m, m; predicted by true), the classes to protect, the attacker.
    """

    model: nn.Module
    costs: Tensor
    protected: Sequence[int] = ()
    threat: Threat | None = None


@dataclass(frozen=True)
class Batch:
    """Images ``x`` (B, C, H, W) with labels ``y`` (B,), and their adversarial images in an
    adversarial update.

    ``progress``: the share of the training's batches that came before, in [0, 1).
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    adversarial: Tensor | None = None
    progress: float = 0.0

    @property
    def examples(self) -> Tensor:
        """The images of this update: the adversarial ones where there are some, else the clean."""
        return self.x if self.adversarial is None else self.adversarial

    def risen(self, ramp: float) -> float:
        """How far what rises over a share ``ramp`` of training has come, in [0, 1]."""
        return min(1.0, self.progress / ramp) if ramp else 1.0


@dataclass(frozen=True)
class Method:
    """What one update minimises, and what the attack inside training maximises.

    ``loss``: of a batch, its mean loss and the logits that count for training accuracy.
    ``adversarial``: trains on adversarial examples too, by the recipe's schedule. ``maximise``:
    what their attack maximises (None: cross-entropy), summed over the batch; it is made once for
    each batch, so that it may look at the clean images. ``radius``: how far that attack may go, in
    eps, (B,); None: as far for every image. ``penalty``: on the weights, added to the
    loss; ``penalised``: on which. ``terms``: the parts of the loss, as Fig. 1 shows them.
    """

    loss: Callable[[Batch], tuple[Tensor, Tensor]]
    terms: tuple[str, ...]
    adversarial: bool = False
    maximise: Callable[[Batch], Loss | None] = lambda batch: None
    radius: Callable[[Batch], Tensor] | None = None
    penalty: Callable[[], Tensor] | None = None
    penalised: Literal["", "convs", "all"] = ""


def on_examples(loss: Loss) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """The loss of one set of images.

    The batch's adversarial ones where it has them, else the clean ones.
    """

    def of_batch(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = batch.model(batch.examples)
        return loss(logits, batch.y), logits

    return of_batch
