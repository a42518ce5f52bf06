"""Methods that train what no attack can undo: on bounds over the whole ball, not on attacks.

L is the lower bound on z_y - z_j, logit by logit; -L are the worst logits.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from csnb.bounds import Bounds
from csnb.errors import InputError
from csnb.methods.method import Batch, Method, Task
from csnb.spec import Real, method

Term = Annotated[Real, Field(ge=0, description="weight of the term for the dear mistakes")]
Clean = Annotated[
    Real, Field(ge=0, le=1, description="share of clean cross-entropy at the end; rest: certified")
]
Radius = Annotated[Real, Field(gt=0, le=10, description="of the ball in training, in eps")]
Ramp = Annotated[
    Real, Field(ge=0, le=1, description="share of training over which radius and weights rise")
]
Lines = Annotated[
    Real, Field(ge=0, le=1, description="share of CROWN's bounds at the end; it falls from 1")
]

TERMS = (
    r"cross-entropy of f(x) and y, and of the worst logits $-\underline{L}$",
    r"weight $\log(1 + \sum_j C_j e^{-\underline{L}_j})$ over the dear mistakes",
)


@method("IBP", source="Gowal et al. 2018; term: Zhang and Evans 2019")
def ibp(
    task: Task,
    *,
    weight: Term = 3.0,
    clean: Clean = 0.5,
    radius: Radius = 1.0,
    ramp: Ramp = 0.5,
) -> Method:
    """certified cross-entropy by intervals + weight on certified dear mistakes"""
    return _Certified(task, weight, clean, radius, ramp).method(None)


@method("CROWN-IBP", source="Zhang et al. 2020; term: Zhang and Evans 2019")
def crown_ibp(
    task: Task,
    *,
    weight: Term = 3.0,
    clean: Clean = 0.5,
    radius: Radius = 1.0,
    ramp: Ramp = 0.5,
    lines: Lines = 0.0,
) -> Method:
    """as IBP, by tighter bounds while the radius rises"""
    return _Certified(task, weight, clean, radius, ramp).method(lines)


class _Certified:
    """The loss of both, at a moment of training."""

    def __init__(self, task: Task, weight: float, clean: float, radius: float, ramp: float) -> None:
        if task.threat is None:
            raise InputError("threat: None; allowed: a ThreatModel, for bounds to hold against")
        self.threat, self.dear = task.threat, dear(task.costs)
        self.bounds = Bounds(task.model)
        self.weight, self.clean, self.radius, self.ramp = weight, clean, radius, ramp

    def method(self, lines: float | None) -> Method:
        """``lines``: share of CROWN's bounds at the end; None: never any."""

        def loss(batch: Batch) -> tuple[Tensor, Tensor]:
            risen = batch.risen(self.ramp)
            logits = batch.model(batch.examples)
            share = 0.0 if lines is None else 1 - risen * (1 - lines)
            least = self._least(batch, len(self.dear), risen, share)
            certain = risen * (1 - self.clean)
            value = (1 - certain) * cross_entropy(logits, batch.y)
            value = value + certain * cross_entropy(-least, batch.y)
            term = log_cost(least, self.dear.T[batch.y]).mean()
            return value + risen * self.weight * term, logits

        return Method(loss, TERMS)

    def _least(self, batch: Batch, classes: int, risen: float, share: float) -> Tensor:
        """L (B, m), 0 for the true class itself; ``share`` of it by CROWN's lines."""
        eye = torch.eye(classes, dtype=batch.x.dtype, device=batch.x.device)
        rows = eye[batch.y][:, None] - eye
        eps = risen * self.radius * self.threat.eps
        boxes = self.bounds.boxes(batch.examples, self.threat, eps=eps)
        least = share * self.bounds.back(boxes, rows, lines=True) if share else 0.0
        if share < 1:
            least = least + (1 - share) * self.bounds.back(boxes, rows, lines=False)
        return least


def dear(costs: Tensor) -> Tensor:
    """What each mistake costs beyond the cheapest, the dearest being 1; (m, m), predicted by true.

    Of Eq. 3: 1 where p is missed or another taken for it, else 0. Where all mistakes cost the
    same, none is dear.
    """
    wrong = ~torch.eye(len(costs), dtype=torch.bool, device=costs.device)
    beyond = (costs - costs[wrong].min()).masked_fill(~wrong, 0)
    return beyond / beyond.max() if bool(beyond.max() > 0) else beyond


def log_cost(least: Tensor, costs: Tensor) -> Tensor:
    """The certified cost of each image, softly, (B,): c log(1 + sum_j C_j / c exp(-L_j)).

    ``least``: L (B, m). ``costs``: C (B, m) of taking the image for each class; c: their largest.
    After Zhang and Evans 2019.
    """
    top = costs.amax(1)
    tiny = torch.finfo(costs.dtype).tiny
    shares = (costs / top.clamp_min(tiny)[:, None]).clamp_min(tiny).log()
    return top * softplus((shares - least).logsumexp(1))
