"""The paper's methods and the one loop that trains them all."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from csnb.attacks import ThreatModel, cross_entropy_sum, perturb
from csnb.errors import InputError
from csnb.losses import REGULARISERS, example_loss, l2_norm
from csnb.models import Normalized, conv_weights


@dataclass(frozen=True)
class Method:
    """One of the paper's models: what it minimises and which examples it trains on.

    ``cost_sensitive``: the expected cost of Eq. 4 beside cross-entropy. ``adversarial``: trains on adversarial examples
    too, by the recipe's schedule. ``penalty``: on the weights, ``fuzziness`` (Eq. 10) or ``l2`` (Eq. 7).
    """

    objective: str
    cost_sensitive: bool
    adversarial: bool
    penalty: Literal["none", "fuzziness", "l2"] = "none"


METHODS: dict[str, Method] = {
    "STD": Method("Eq. 1: cross-entropy", False, False),
    "ADV": Method("Eq. 2: cross-entropy", False, True),
    "CSA": Method("Eq. 4: cross-entropy + expected cost", True, True),
    "CSA+L2": Method("Eq. 7: cross-entropy + expected cost + ||theta||_2", True, True, "l2"),
    "CSE": Method("Eq. 10: cross-entropy + expected cost + gamma fuzziness", True, False, "fuzziness"),
    "CSE+ADV": Method("Eq. 10: cross-entropy + expected cost + gamma fuzziness", True, True, "fuzziness"),
}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; fields as in `Experiment`, where units, ranges and defaults stand."""

    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam"]
    lr: float
    momentum: float
    halve_every: int
    schedule: Literal["halves", "both", "alternate"]
    gamma: float
    regulariser: Literal["fuzziness", "minmax", "l1_minus_l2"]
    regularised_convs: int
    train_steps: int
    train_step_size: float
    inner_loss: Literal["objective", "cross_entropy"]


def stages(method: Method, recipe: Recipe, epoch: int, batch: int) -> tuple[str, ...]:
    """The updates made on one batch, in order (epoch and batch count from 0).

    ``halves`` (MNIST, section IV-A): clean images for the first half of the epochs, adversarial ones for the rest.
    ``both`` (Algorithm 1, CIFAR-10): an update with the batch, then one with its adversarial images.
    ``alternate`` (CIFAR-100): clean and adversarial batches in turn.
    """
    if not method.adversarial:
        return ("clean",)
    if recipe.schedule == "both":
        return ("clean", "adversarial")
    clean = epoch < recipe.epochs // 2 if recipe.schedule == "halves" else batch % 2 == 0
    return ("clean",) if clean else ("adversarial",)


class Trainer:
    """A model, its optimiser and its objective: makes single updates and counts their loss terms without waiting."""

    def __init__(self, model: Normalized, method: Method, costs: np.ndarray, recipe: Recipe, threat: ThreatModel) -> None:
        device = next(model.parameters()).device
        self.model, self.method, self.recipe, self.threat = model, method, recipe, threat
        self.costs = torch.as_tensor(costs, dtype=torch.float32, device=device) if method.cost_sensitive else None
        self.convs = list(conv_weights(model).values())[: recipe.regularised_convs or None]
        if recipe.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
        else:
            self.optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
        self.sums = torch.zeros(4, device=device)  # loss, penalty, correct, images

    def penalty(self) -> Tensor:
        """The weights' part of the objective: 0, gamma times a fuzziness (Eq. 10), or the L2 norm (Eq. 7)."""
        if self.method.penalty == "fuzziness":
            return self.recipe.gamma * REGULARISERS[self.recipe.regulariser](self.convs)
        if self.method.penalty == "l2":
            return l2_norm(self.model.parameters())
        return torch.zeros((), device=self.sums.device)

    def adversarial(self, x: Tensor, y: Tensor) -> Tensor:
        """PGD on the method's own objective (the max of Eq. 4), or on cross-entropy alone."""
        own = self.recipe.inner_loss == "objective" and self.costs is not None
        return perturb(
            self.model,
            x,
            y,
            "PGD",
            self.threat,
            loss=(lambda logits, labels: example_loss(logits, labels, self.costs, "sum")) if own else cross_entropy_sum,
            steps=self.recipe.train_steps,
            step_size=self.recipe.train_step_size or 2.5 * self.threat.eps / self.recipe.train_steps,
        )

    def update(self, x: Tensor, y: Tensor) -> None:
        """One optimiser step on images ``x`` (B, C, H, W) with labels ``y`` (B,)."""
        logits = self.model(x)
        penalty = self.penalty()
        loss = example_loss(logits, y, self.costs) + penalty
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        correct = (logits.argmax(1) == y).sum()
        self.sums += torch.stack([loss.detach() * len(y), penalty.detach() * len(y), correct, torch.full_like(correct, len(y))])

    def take_means(self) -> dict[str, float]:
        """Mean loss, penalty and training accuracy since the last call."""
        loss, penalty, correct, images = self.sums.tolist()
        self.sums.zero_()
        return {"loss": loss / images, "penalty": penalty / images, "accuracy": correct / images}


def fit(
    model: Normalized,
    x: Tensor,
    y: Tensor,
    *,
    method: str,
    costs: np.ndarray,
    recipe: Recipe,
    threat: ThreatModel,
    seed: int,
    measure: Callable[[], dict[str, float]] = dict,
    on_epoch: Callable[[dict[str, float | str]], None] = lambda row: None,
) -> pd.DataFrame:
    """Train ``model`` in place on pixels ``x`` (N, C, H, W) and labels ``y`` (N,), on one device (Algorithms 1 and 2).

    Returns one row per epoch, also given to ``on_epoch``: ``epoch`` (from 1), ``lr``, ``examples``, mean ``loss`` and
    ``penalty``, training ``accuracy`` on the examples seen, ``fuzziness.<layer>`` (Eq. 8) of each convolution,
    ``seconds``, and what ``measure`` says of the model after the epoch (the training is the same without it). Raises
    InputError where training diverges. The global random generators are left as they were.
    """
    trainer = Trainer(model, METHODS[method], costs, recipe, threat)
    order = torch.Generator().manual_seed(seed)
    history = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(recipe.epochs):
            start = time.perf_counter()
            lr = recipe.lr * 0.5 ** (epoch // recipe.halve_every if recipe.halve_every else 0)
            for group in trainer.optimizer.param_groups:
                group["lr"] = lr
            seen = _train_epoch(trainer, x, y, epoch, order)
            row = {"epoch": epoch + 1, "lr": lr, "examples": "+".join(seen)} | trainer.take_means() | _fuzziness_by_layer(model)
            if not np.isfinite(row["loss"]):
                raise InputError(f"lr: {recipe.lr:g} makes the loss {row['loss']} in epoch {epoch + 1}; allowed: less")
            history.append(row | {"seconds": time.perf_counter() - start} | measure())
            on_epoch(history[-1])
    model.eval()
    return pd.DataFrame(history)


def _train_epoch(trainer: Trainer, x: Tensor, y: Tensor, epoch: int, order: torch.Generator) -> list[str]:
    """One pass over the images in a random order; returns the kinds of examples seen."""
    seen: dict[str, None] = {}
    trainer.model.train()
    indices = torch.randperm(len(x), generator=order).to(x.device)
    for batch, index in enumerate(indices.split(trainer.recipe.batch_size)):
        images, labels = x[index], y[index]
        todo = stages(trainer.method, trainer.recipe, epoch, batch)
        adversarial = trainer.adversarial(images, labels) if "adversarial" in todo else None  # before stage 1: Algorithm 1
        for stage in todo:
            trainer.update(images if stage == "clean" else adversarial, labels)
        seen |= dict.fromkeys(todo)
    return list(seen)


@torch.no_grad()
def _fuzziness_by_layer(model: nn.Module) -> dict[str, float]:
    return {f"fuzziness.{name}": float(REGULARISERS["fuzziness"]([w])) for name, w in conv_weights(model).items()}
