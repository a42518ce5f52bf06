"""Protection from both sides: how much of a class is recognised at how many false alarms into it.

For logits z let m(x) be the largest logit of the protected classes less the largest of the others.
A network whose last layer adds b to the protected ones says that x is of theirs where m(x) + b > 0.
Whatever b is, an attacker wants m small on their images and large on all others: the worst margins
of all test images give recall against false alarms for every b at once, even against somebody who
knows b - the robust ROC curve of the class.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pydantic import AfterValidator
from scipy.special import expit, logit
from torch import Tensor, nn

from csnb.attacks import ATTACKS, ThreatModel, perturb
from csnb.costs import check_protected
from csnb.errors import InputError, one_line
from csnb.images import Images, batch_of, in_turn
from csnb.losses import sides
from csnb.models import check_answers
from csnb.models.normalized import check_images
from csnb.spec import Real, Seed, Spec, checker
from csnb.statistics import correlated_difference, half_width, wilson

ATTACK = "PGD(steps=40, step_size=0, restarts=2, schedule=cosine)"
BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1)  # shares of other classes' images
DRAWS, CHUNK = 400, 50  # of a bootstrap, for its variance; so many in memory at once
EDGE = 1e-12  # of a share that is a sum


def _is_share(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError("Input should be a share between 0 and 1")
    return value


Share = Annotated[Real, AfterValidator(_is_share)]

_check = checker(threat=ThreatModel, seed=Seed)
_check_shares = checker(budgets=Sequence[Share], level=Share, seed=Seed)


def class_margin(logits: Tensor, protected: Sequence[int]) -> Tensor:
    """m for logits (B, m): the protected classes' largest less the others' largest. (B,)."""
    mine, rest = sides(logits, protected)
    return mine.amax(1) - rest.amax(1)


def worst_margins(
    model: nn.Module,
    x: Tensor | Images,
    y: Tensor,
    protected: int | Sequence[int],
    threat: ThreatModel,
    *,
    attack: str | Spec = ATTACK,
    seed: int = 0,
) -> np.ndarray:
    """The worst margin that ``attack`` reaches of each image: least of p's, most of others'. (N,).

    ``x``: pixels (N, C, H, W) in [0, 1]; ``y``: labels (N,). ``protected``: indices of some of the
    classes, not all. ``attack``: of `ATTACKS`, climbs the margin itself; the best of all its
    iterates and restarts counts, the clean image among them. Raises InputError, for logits that
    are not finite too.
    """
    _check(threat=threat, seed=seed)
    spec = ATTACKS.parse(attack)
    check_images(x, y)
    if not len(x):
        return np.zeros(0)
    classes = check_answers(model, x, y)
    protected, model = check_protected(protected, classes, most=classes - 1), model.eval()
    restarts = int(spec.options.get("restarts", 1))
    once = Spec(spec.entry, spec.options | ({"restarts": 1} if restarts > 1 else {}))
    own, found = torch.tensor(protected, device=y.device), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = batch_of(x)
        for images, labels in zip(in_turn(x, size), y.split(size), strict=True):
            worst = _Worst(protected, torch.isin(labels, own))
            worst.keep(model, images)
            for _ in range(restarts):
                worst.keep(model, perturb(model, images, labels, once, threat, loss=worst))
            found.append(worst.margins())
    margins = torch.cat(found)
    if not margins.isfinite().all():
        raise InputError("model: gives logits that are not finite; allowed: finite ones")
    return margins.cpu().numpy()


class _Worst:
    """What the attack climbs, and the highest that each image of a batch came to."""

    def __init__(self, protected: Sequence[int], own: Tensor) -> None:
        self.protected, self.sign = protected, torch.where(own, -1.0, 1.0)
        self.best = torch.full_like(self.sign, -torch.inf)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        height = self.sign * class_margin(logits, self.protected)
        self.best = torch.maximum(self.best, height.detach())
        return height.sum()

    @torch.no_grad()
    def keep(self, model: nn.Module, images: Tensor) -> None:
        """Look at these images, too."""
        self(model(images), images)

    def margins(self) -> Tensor:
        return self.sign * self.best


def protection_curve(margins: ArrayLike, own: ArrayLike) -> pd.DataFrame:
    """The curve of worst margins (N,): a row per offset, from none called p to all.

    ``own``: (N,) bool, which images are of a protected class. Columns: ``false_alarms`` (share of
    the others called p), ``recall``, and the largest ``offset`` b with no more of either. Raises
    InputError.
    """
    (margins,), own = _checked(margins, own)
    levels = np.unique(margins)[::-1]  # at the offset -v, what is above v is called p
    frame = {}
    for name, kind in (("false_alarms", ~own), ("recall", own)):
        below = np.searchsorted(np.sort(margins[kind]), levels)
        frame[name] = [0.0, *(1 - below / kind.sum())]
    return pd.DataFrame(frame).assign(offset=[*-levels, np.inf])


def protection(
    margins: ArrayLike,
    own: ArrayLike,
    *,
    against: ArrayLike | None = None,
    budgets: Sequence[float] = BUDGETS,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall at given false alarms, and the area under the curve, with intervals.

    ``margins``: worst margins (N,), or (S, N) of S trainings on the same images, whose mean counts.
    ``own``: (N,) bool, which images are of a protected class. ``against``: another method's, of the
    same shape: what is reported is then the first less the second, paired by image and by training.

    A row per ``measure``: "recall" at each of ``budgets`` (``false_alarms``, shares of the other
    images in (0, 1)), and "area"; ``value`` with ``low`` and ``high``, which hold the mean over all
    images and all trainings in ``level`` of cases. Their width is Student's: the variance of a
    bootstrap over images of either kind, and that of the trainings' values, with Satterthwaite's
    degrees of freedom; one training says nothing of others. A recall's is never narrower than
    Wilson's, a gain's in recall than Newcombe's of paired shares; an area's is that of its logit.
    ``seed``: of the bootstrap. Raises InputError.
    """
    first, own = _checked(margins, own)
    second = None if against is None else _checked(against, own)[0]
    if second is not None and second.shape != first.shape:
        shapes = f"shaped {second.shape}; allowed: {first.shape}, the same images and trainings"
        raise InputError(f"against: margins {shapes}")
    budgets = budgets.tolist() if isinstance(budgets, np.ndarray) else budgets
    _check_shares(budgets=budgets, level=level, seed=seed)
    reached = Reached(first, own, budgets, seed)
    rival = None if second is None else Reached(second, own, budgets, seed)
    return reached.frame(rival, level)


class Reached:
    """What `protection` reports of margins (S, N) of S trainings, as measured and as drawn again.

    ``each``: recall at each budget, then the area, (S, K + 1). ``drawn``: their mean over trainings
    for other images, (DRAWS, K + 1), the same ones for equal seeds.
    """

    def __init__(
        self, margins: np.ndarray, own: np.ndarray, budgets: Sequence[float], seed: int = 0
    ) -> None:
        self.own, self.budgets = own, budgets
        self.rocs = rocs = [_Roc(row, own) for row in margins]
        random = np.random.default_rng(seed)
        once = [np.ones((1, int(kind.sum()))) for kind in (own, ~own)]
        self.each = np.concatenate([roc.measures(*once, budgets) for roc in rocs])
        drawn = []
        for _ in range(DRAWS // CHUNK):
            weights = [_redrawn(random, int(kind.sum())) for kind in (own, ~own)]
            drawn.append(np.mean([roc.measures(*weights, budgets) for roc in rocs], axis=0))
        self.drawn = np.concatenate(drawn)

    def frame(self, against: "Reached | None" = None, level: float = 0.95) -> pd.DataFrame:
        """The frame of `protection`; ``against``: of the same images and trainings."""
        own, each, drawn = self.own, self.each.copy(), self.drawn.copy()
        if against is not None:
            each, drawn = each - against.each, drawn - against.drawn
        value = each.mean(0)
        if against is None:
            least = 1 / (2 * own.sum() * (~own).sum())  # half of what one exchanged pair makes
            for areas in (each, drawn, value[None]):
                areas[:, -1] = logit(np.clip(areas[:, -1], least, 1 - least))
        half = half_width(drawn.var(0), each, level)
        low, high = value - half, value + half
        if against is None:
            value[-1], low[-1], high[-1] = expit([value[-1], low[-1], high[-1]])
            ends = wilson(value[:-1] * own.sum(), own.sum(), level)
            low[:-1] = np.clip(low[:-1], 0, ends[0])
            high[:-1] = np.clip(high[:-1], ends[1], 1)
        elif any(a != b for a, b in zip(self.rocs, against.rocs, strict=True)):
            ends = self._least(against, level)
            low[:-1] = np.clip(low[:-1], -1, ends[0])
            high[:-1] = np.clip(high[:-1], ends[1], 1)
        measures = ["recall"] * len(self.budgets) + ["area"]
        counts = {"n": int(own.sum()), "others": int((~own).sum()), "trainings": len(each)}
        alarms = [*self.budgets, np.nan]
        frame = {"measure": measures, "false_alarms": alarms, "value": value}
        return pd.DataFrame(frame | {"low": low, "high": high} | counts)

    def _least(self, against: "Reached", level: float) -> tuple[np.ndarray, np.ndarray]:
        """The interval of each gain in recall that drawing p's images makes at least."""
        recalls = [reached.each.mean(0)[:-1] for reached in (self, against)]
        first, second = (reached.drawn[:, :-1] for reached in (self, against))
        together = ((first - first.mean(0)) * (second - second.mean(0))).mean(0)
        spread = first.std(0) * second.std(0)
        phi = np.divide(together, spread, where=spread > 0, out=np.zeros_like(spread))
        return correlated_difference(*recalls, int(self.own.sum()), phi, level)


def choose_offset(
    margins: ArrayLike,
    y: ArrayLike,
    protected: Sequence[int],
    *,
    costs: np.ndarray,
    budget: float | None = None,
) -> float:
    """The offset b of the protected classes' logits, from worst margins (N,) and labels (N,).

    With a ``budget``: the largest b whose false alarms under attack stay within that share of the
    other images. Without: the b of the least cost under attack, where a missed image costs the
    dearest mistake of its class and a false alarm the dearest protected class it can be called, of
    ``costs`` (m, m), predicted by true; of several the smallest. It lies half-way between two
    margins, or 1 beyond the last. Raises InputError.
    """
    y = np.asarray(y)
    (margins,), own = _checked(margins, np.isin(y, list(protected)))
    order = np.argsort(-margins, kind="stable")
    descending, mine = margins[order], own[order]
    called = np.r_[0, np.flatnonzero(np.r_[descending[1:] < descending[:-1], True]) + 1]
    if budget is None:
        others = [i for i in range(len(costs)) if i not in protected]
        miss, alarm = costs[others].max(0)[y[order]], costs[list(protected)].max(0)[y[order]]
        charged = np.cumsum(np.r_[miss[mine].sum(), np.where(mine, -miss, alarm)])[called]
        first = called[int(np.argmin(np.round(charged, 9)))]  # sums in another order are equal
    else:
        alarms = np.cumsum(np.r_[0, ~mine])[called] / (~mine).sum()
        first = called[int((alarms <= budget + EDGE).sum()) - 1]
    edges = np.r_[descending[0] + 2, descending, descending[-1] - 2]
    return float(-(edges[first] + edges[first + 1]) / 2)


class _Roc:
    """The order of a network's margins, in which any weights of the images give a curve.

    Two are equal where all weights give the same.
    """

    def __init__(self, margins: np.ndarray, own: np.ndarray) -> None:
        mine, others = margins[own], margins[~own]
        self.mine, self.others = np.argsort(-mine), np.argsort(-others)
        mine, others = -mine[self.mine], -others[self.others]  # both rise
        # how many of the others lie above each of p's, and with those level with it
        self.above = np.searchsorted(others, mine), np.searchsorted(others, mine, side="right")
        self.better = np.searchsorted(mine, others)  # how many of p's lie above each of the others

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Roc):
            return NotImplemented
        pairs = zip(self._orders(), other._orders(), strict=True)
        return all(np.array_equal(a, b) for a, b in pairs)

    def _orders(self) -> tuple[np.ndarray, ...]:
        return (self.mine, self.others, *self.above, self.better)

    def measures(
        self, mine: np.ndarray, others: np.ndarray, budgets: Sequence[float]
    ) -> np.ndarray:
        """Recall at each budget, then the area, for rows of weights of p's images and the others'.

        (D, n), (D, N - n) to (D, K + 1).
        """
        mine, others = mine[:, self.mine], others[:, self.others]
        alarms, recall = (np.cumsum(w, 1) / w.sum(1, keepdims=True) for w in (mine, others)[::-1])
        recall, rows = np.pad(recall, ((0, 0), (1, 0))), np.arange(len(mine))
        # the first of the others who would be one too many: p's below it are not called p
        first = [(alarms > budget + EDGE).argmax(1) for budget in budgets]
        reached = [recall[rows, self.better[place]] for place in first]
        alarms = np.pad(alarms, ((0, 0), (1, 0)))
        below = 1 - (alarms[:, self.above[0]] + alarms[:, self.above[1]]) / 2
        return np.stack([*reached, (mine * below).sum(1) / mine.sum(1)], 1)


def _redrawn(random: np.random.Generator, n: int) -> np.ndarray:
    """How often each of n images is drawn. (CHUNK, n)."""
    return random.multinomial(n, np.full(n, 1 / n), CHUNK).astype(float)


def _checked(margins: ArrayLike, own: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Margins as (S, N) and ``own`` as (N,) bool. Raises InputError."""
    try:
        margins, own = np.atleast_2d(np.asarray(margins, dtype=float)), np.asarray(own)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"margins: {one_line(error)}; allowed: numbers") from None
    if own.dtype != bool or margins.ndim != 2 or own.shape != margins.shape[1:]:
        raise InputError(
            f"margins: shaped {margins.shape} with own {own.dtype} {own.shape}; "
            "allowed: (N,) or (S, N) with (N,) bool"
        )
    if not np.isfinite(margins).all():
        raise InputError("margins: hold values that are not finite; allowed: finite ones")
    if own.all() or not own.any():
        raise InputError(
            f"own: {int(own.sum())} of {own.size} images; allowed: some of either kind"
        )
    return margins, own
