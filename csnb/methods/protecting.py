"""Methods that protect a class, of others and of ours, on one base: adversarial training.

Every one sees the same images, batches and attack steps; the attack inside climbs the loss of its
method. m is `soft_margin`, the log-odds of the protected classes.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, softplus

from csnb.costs import check_protected
from csnb.errors import InputError
from csnb.losses import log_odds, log_softplus, soft_margin
from csnb.methods.method import Batch, Loss, Method, Task, on_examples
from csnb.models import evaluating
from csnb.spec import Real, method

Weight = Annotated[Real, Field(gt=0, description="of an image of a protected class; others: 1")]
Beta = Annotated[Real, Field(ge=0, description="weight of the divergence")]
Term = Annotated[Real, Field(ge=0, description="weight of the term for the protected classes")]
Ramp = Annotated[
    Real, Field(ge=0, le=1, description="share of training over which that weight rises from 0")
]

ENTROPY = "cross-entropy of f(x) and y"
WEIGHTED = "weighted cross-entropy of f(x) and y"
DIVERGENCE = r"$\beta$ KL(f(x), f(x + $\delta$))"


@method("WEIGHT", source="class weights on Eq. 2; Benz et al. 2021")
def weight(task: Task, *, weight: Weight = 5.0) -> Method:
    """cross-entropy, weighted"""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return _mean(cross_entropy(logits, y, reduction="none"), _raised(task, y, weight))

    return Method(on_examples(loss), (WEIGHTED,), adversarial=True)


@method("RADIUS", source="class margin: Xu et al. 2021; Wei et al. 2023")
def radius(
    task: Task,
    *,
    factor: Annotated[
        Real, Field(gt=0, le=10, description="radius of the attack on images of p, in eps")
    ] = 1.1,
) -> Method:
    """cross-entropy"""
    return Method(
        on_examples(cross_entropy),
        (ENTROPY,),
        adversarial=True,
        radius=lambda batch: _raised(task, batch.y, factor),
    )


@method("MARGIN", source="costs in the logits: Menon et al. 2021; Khan et al. 2018")
def margin(task: Task) -> Method:
    """cross-entropy of the logits + log C"""
    diagonal = torch.eye(len(task.costs), device=task.costs.device)
    # being right moves no logit; a mistake that costs nothing is as good as left out
    gaps = (task.costs + diagonal).clamp_min(torch.finfo(task.costs.dtype).tiny).log()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits + gaps.T[y], y)

    def climb(logits: Tensor, labels: Tensor) -> Tensor:
        return log_odds(logits + gaps.T[labels], labels).sum()

    terms = ("cross-entropy of f(x) + log C(., y) and y",)
    return Method(on_examples(loss), terms, adversarial=True, maximise=lambda batch: climb)


@method("REST", source="ours: p against the rest")
def rest(task: Task, *, weight: Term = 3.0, ramp: Ramp = 0.7) -> Method:
    """cross-entropy + weight softplus(-+m)"""
    _check(task)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = batch.model(batch.examples)
        term = softplus(_height(task, logits, batch.y)).mean()
        return cross_entropy(logits, batch.y) + weight * batch.risen(ramp) * term, logits

    terms = (ENTROPY, "weight softplus(-m) for p, softplus(m) for the others")
    return Method(loss, terms, adversarial=True, maximise=_climb(task, weight, ramp))


@method("BUDGET", source="multipliers: Cotter et al. 2019; Xu et al. 2021")
def budget(
    task: Task,
    *,
    alarms: Annotated[
        Real, Field(gt=0, lt=1, description="share of other images that may be called p")
    ] = 0.01,
    weight: Term = 1.0,
    rate: Annotated[Real, Field(ge=0, description="by which the multiplier follows")] = 0.1,
    ramp: Ramp = 0.7,
) -> Method:
    """cross-entropy + weight softplus(-m) of p + multiplier softplus(m) of the others"""
    _check(task)
    multiplier = torch.full((), weight, device=task.costs.device)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = batch.model(batch.examples)
        m, own = soft_margin(logits, task.protected), _own(task, batch.y)
        misses, over = _average(softplus(-m), own), _average(softplus(m), ~own)
        term = batch.risen(ramp) * (weight * misses + multiplier.clone() * over)
        if batch.adversarial is not None:  # on the true rate; the loss above is its bound
            excess = _average((m > 0).float(), ~own) - alarms
            multiplier.add_(rate * excess).clamp_(min=0)
        return cross_entropy(logits, batch.y) + term, logits

    terms = (ENTROPY, "weight softplus(-m) of p", "multiplier softplus(m) of the others")
    return Method(loss, terms, adversarial=True, maximise=_climb(task, weight, ramp))


@method("TRADES", source="Zhang et al. 2019")
def trades(task: Task, *, beta: Beta = 6.0, weight: Weight = 1.0) -> Method:
    """cross-entropy of clean images + beta KL of these and the attacked"""

    def weights(batch: Batch) -> Tensor:
        return _raised(task, batch.y, weight)

    terms = (WEIGHTED, DIVERGENCE) if weight != 1 else (ENTROPY, DIVERGENCE)
    return Method(_trades(beta, weights), terms, adversarial=True, maximise=_divergence)


@method("DAFA", source="Lee et al. 2024, its TRADES branch; p fixed")
def dafa(
    task: Task,
    *,
    beta: Beta = 6.0,
    strength: Annotated[Real, Field(ge=0, description="of what moves to p from its rivals")] = 1.0,
    warm_up: Annotated[
        Real, Field(ge=0, lt=1, description="share of training after which it moves")
    ] = 0.65,
) -> Method:
    """TRADES with weight and radius moved to p from classes that it is taken for"""
    m = len(task.costs)
    seen = torch.zeros(m, m, device=task.costs.device)  # sums of f(x + delta) by true class

    def moved(batch: Batch) -> Tensor:
        """Weight and radius of each image: 1 until it is known what p is taken for."""
        shares = torch.ones(m, device=seen.device)
        if batch.progress >= warm_up > 0 and not seen.any():
            raise InputError(
                f"warm_up: {warm_up:g}, but no image is attacked in that share of training; "
                "allowed: more, or 0 for TRADES"
            )
        if batch.progress >= warm_up and bool((seen[list(task.protected)].sum(1) > 0).all()):
            for p in task.protected:
                taken = seen[p] / seen[p].sum()
                taken[list(task.protected)] = 0
                shares = shares - strength * taken
                shares[p] += strength * taken.sum()
        return shares.clamp_min(0)[batch.y]

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        value, logits = _trades(beta, moved)(batch)
        if batch.adversarial is not None and batch.progress < warm_up:
            seen.index_add_(0, batch.y, logits.detach().softmax(1).to(seen.dtype))
        return value, logits

    terms = (WEIGHTED, DIVERGENCE)
    return Method(loss, terms, adversarial=True, maximise=_divergence, radius=moved)


def _trades(
    beta: float, weights: Callable[[Batch], Tensor]
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """The loss of TRADES; cross-entropy alone where nothing is attacked."""

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        clean, weight = batch.model(batch.x), weights(batch)
        value = _mean(cross_entropy(clean, batch.y, reduction="none"), weight)
        if batch.adversarial is None:
            return value, clean
        logits = batch.model(batch.adversarial)
        return value + beta * _mean(_kl(clean, logits), weight), logits

    return loss


def _divergence(batch: Batch) -> Loss:
    """KL(f(x), f(x + delta)); it is flat at x itself, so that the attack must start elsewhere."""
    with torch.no_grad(), evaluating(batch.model):  # as the attack meets it
        clean = batch.model(batch.x)
    return lambda logits, labels: _kl(clean, logits).sum()


def _kl(clean: Tensor, attacked: Tensor) -> Tensor:
    """Of each image. (B,)."""
    logs = (attacked.log_softmax(1), clean.log_softmax(1))
    return kl_div(*logs, reduction="none", log_target=True).sum(1)


def _check(task: Task) -> None:
    """Raises InputError where there is no class to protect, or none to protect it from."""
    check_protected(task.protected, len(task.costs), most=len(task.costs) - 1)


def _own(task: Task, y: Tensor) -> Tensor:
    """Which images are of a protected class, (B,) bool."""
    return torch.isin(y, torch.tensor(list(task.protected), dtype=y.dtype, device=y.device))


def _raised(task: Task, y: Tensor, factor: float) -> Tensor:
    """``factor`` for images of a protected class, 1 for others. (B,)."""
    return torch.where(_own(task, y), factor, 1.0)


def _height(task: Task, logits: Tensor, y: Tensor) -> Tensor:
    """What an attacker wants of m: -m of an image of p, m of another. (B,)."""
    return torch.where(_own(task, y), -1.0, 1.0) * soft_margin(logits, task.protected)


def _climb(task: Task, weight: float, ramp: float) -> Callable[[Batch], Loss]:
    """Each image's log(cross-entropy + weight softplus(-+m)): its maxima, without underflow."""

    def of_batch(batch: Batch) -> Loss:
        gain = torch.tensor(weight * batch.risen(ramp), device=batch.x.device).log()

        def climb(logits: Tensor, labels: Tensor) -> Tensor:
            first = log_softplus(log_odds(logits, labels))
            second = gain + log_softplus(_height(task, logits, labels))
            return torch.logaddexp(first, second).sum()

        return climb

    return of_batch


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the batch."""
    return (weights * values).sum() / weights.sum()


def _average(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen ones; 0 where there are none."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
