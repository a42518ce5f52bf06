"""The one loop that trains all methods."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from csnb.attacks import ATTACKS, ThreatModel, moved
from csnb.augment import augmented
from csnb.costs import check_costs, check_protected
from csnb.errors import InputError
from csnb.images import Images, batches
from csnb.losses import fuzziness
from csnb.methods import METHODS, Batch, Method, Task
from csnb.models import conv_weights, watched
from csnb.recipe import Recipe
from csnb.spec import Seed, Spec, checker

_check = checker(recipe=Recipe, threat=ThreatModel, seed=Seed)


@dataclass(frozen=True)
class Update:
    """One update, as `fit` tells ``on_update`` of it, before it is made.

    ``epoch`` and ``batch`` count from 1; ``examples``: "clean" or "adversarial"; ``images``: (B, C,
    H, W).
    """

    epoch: int
    batch: int
    examples: str
    images: Tensor


class Trainer:
    """A model, its optimiser and its method: makes single updates and counts without waiting."""

    def __init__(
        self, model: nn.Module, method: Method, recipe: Recipe, threat: ThreatModel, seed: int = 0
    ) -> None:
        self.changes = torch.Generator().manual_seed(seed)
        self.model, self.method, self.recipe, self.threat = model, method, recipe, threat
        self.adversary = ATTACKS.parse(recipe.adversary)
        settings = {"lr": recipe.lr, "foreach": True}  # the same numbers in fewer calls
        if recipe.optimizer == "sgd":
            momentum = recipe.momentum
            self.optimizer = torch.optim.SGD(model.parameters(), **settings, momentum=momentum)
        else:
            self.optimizer = torch.optim.Adam(model.parameters(), **settings)
        device = next(model.parameters()).device
        self.sums = torch.zeros(4, device=device)  # loss, penalty, correct, images

    def changed(self, x: Tensor) -> Tensor:
        """A batch's images as the recipe's augmentation leaves them."""
        return augmented(x, self.recipe.augment, self.changes) if self.recipe.augment else x

    def adversarial(self, batch: Batch) -> Tensor:
        """A batch's adversarial images, by the recipe's attack on what the method maximises."""
        radius = self.method.radius(batch) if self.method.radius else None
        return moved(
            self.model, batch.x, batch.y, self.adversary, self.threat,
            loss=self.method.maximise(batch), radius=radius, together=True,
        )  # fmt: skip

    def update(self, batch: Batch) -> None:
        """One optimiser step."""
        loss, logits = self.method.loss(batch)
        penalty = self.method.penalty() if self.method.penalty else torch.zeros_like(loss)
        loss = loss + penalty
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        correct = (logits.argmax(1) == batch.y).sum()
        n = len(batch.y)
        counts = [loss.detach() * n, penalty.detach() * n, correct, torch.full_like(correct, n)]
        self.sums += torch.stack(counts)

    def take_means(self) -> dict[str, float]:
        """Mean loss, penalty and training accuracy since the last call."""
        loss, penalty, correct, images = self.sums.tolist()
        self.sums.zero_()
        return {"loss": loss / images, "penalty": penalty / images, "accuracy": correct / images}


def fit(
    model: nn.Module,
    x: Tensor | Images,
    y: Tensor,
    *,
    method: str | Spec,
    costs: np.ndarray,
    protected: int | Sequence[int] = (),
    recipe: Recipe = Recipe(),  # noqa: B008 - it cannot change
    threat: ThreatModel,
    seed: int = 0,
    measure: Callable[[], dict[str, float]] = dict,
    on_update: Callable[[Update], None] = lambda update: None,
    on_epoch: Callable[[dict[str, float | str]], None] = lambda row: None,
) -> pd.DataFrame:
    """Train ``model`` in place on pixels ``x`` (N, C, H, W) and labels ``y`` (N,), on one device.

    Algorithms 1 and 2. ``model``: any network from pixels to logits (B, m), m of two or more;
    without a normalisation of csnb's the threat model's space is pixel. ``method``: of `METHODS`,
    such as ``"CSE(gamma=10)"``. ``costs``: (m, m), predicted by true. ``protected``: indices.

    Returns one row per epoch, also given to ``on_epoch``: ``epoch`` (from 1), ``lr``, ``examples``,
    mean ``loss`` and ``penalty``, training ``accuracy`` on the examples seen, ``fuzziness.<layer>``
    (Eq. 8) of each convolution, ``seconds``, and what ``measure`` says of the model after the epoch
    (the training is the same without it). Raises InputError where training diverges. The global
    random generators are left as they were.
    """
    _check(recipe=recipe, threat=threat, seed=seed)
    costs = check_costs(costs)
    protected = check_protected(protected, len(costs), least=0)
    device = next(model.parameters()).device
    matrix = torch.as_tensor(costs, dtype=torch.float32, device=device)
    trainer = Trainer(
        model,
        METHODS.parse(method)(Task(model, matrix, protected, threat)),
        recipe,
        threat,
        seed,
    )
    order = torch.Generator().manual_seed(seed)
    history, weights = [], list(model.parameters())
    with watched(model, x, y, len(costs)), torch.random.fork_rng():
        if not len(x):
            raise InputError("x: no images; allowed: one or more")
        torch.manual_seed(seed)
        for epoch in range(recipe.epochs):
            start = time.perf_counter()
            for group in trainer.optimizer.param_groups:
                group["lr"] = recipe.rate(epoch)
            seen = _train_epoch(trainer, x, y, epoch, order, on_update)
            row = {"epoch": epoch + 1, "lr": recipe.rate(epoch), "examples": "+".join(seen)}
            row |= trainer.take_means() | _fuzziness_by_layer(model)
            if not (np.isfinite(row["loss"]) and all(p.isfinite().all() for p in weights)):
                raise InputError(
                    f"training: loss {row['loss']:g} or weights not finite in epoch {epoch + 1}; "
                    "allowed: finite first weights, a smaller lr, cost, gamma, eps or attack option"
                )
            history.append(row | {"seconds": time.perf_counter() - start} | measure())
            on_epoch(history[-1])
    model.eval()
    return pd.DataFrame(history)


def _train_epoch(
    trainer: Trainer,
    x: Tensor | Images,
    y: Tensor,
    epoch: int,
    order: torch.Generator,
    on_update: Callable[[Update], None],
) -> list[str]:
    """One pass over the images in a random order; returns the kinds of examples seen."""
    seen: dict[str, None] = {}
    trainer.model.train()
    indices = torch.randperm(len(x), generator=order).to(x.device)
    parts = indices.split(trainer.recipe.batch_size)
    for number, (index, images) in enumerate(zip(parts, batches(x, parts), strict=True)):
        done = (epoch + number / len(parts)) / trainer.recipe.epochs
        clean = Batch(trainer.model, trainer.changed(images), y[index], progress=done)
        todo = trainer.recipe.stages(trainer.method.adversarial, epoch, number)
        made = None
        if "adversarial" in todo:  # before the clean update: Algorithm 1, line 7
            made = replace(clean, adversarial=trainer.adversarial(clean))
        for stage in todo:
            batch = made if stage == "adversarial" else clean
            on_update(Update(epoch + 1, number + 1, stage, batch.examples))
            trainer.update(batch)
        seen |= dict.fromkeys(todo)
    return list(seen)


@torch.no_grad()
def _fuzziness_by_layer(model: nn.Module) -> dict[str, float]:
    return {f"fuzziness.{name}": float(fuzziness([w])) for name, w in conv_weights(model).items()}
