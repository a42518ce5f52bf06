"""Protection from both sides: how much of a class is recognised at how many false alarms into it.

For logits z let m(x) be the largest logit of the protected classes less the largest of the others.
A network whose last layer adds b to the protected ones says that x is of theirs where m(x) + b > 0.
Whatever b is, an attacker wants m small on their images and large on all others: the worst margins
of all test images give recall against false alarms for every b at once, even against somebody who
knows b - the robust ROC curve of the class.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from torch import Tensor, nn

from csnb.attacks import ATTACKS, ThreatModel, perturb
from csnb.attacks.threat import batch_of
from csnb.errors import InputError
from csnb.images import Images, in_turn
from csnb.losses import sides
from csnb.spec import Spec
from csnb.statistics import Z95, wilson

ATTACK = "PGD(steps=40, step_size=0, restarts=2)"
BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1)  # shares of other classes' images
DRAWS, CHUNK = 1000, 50  # of a bootstrap; so many in memory at once
EDGE = 1e-12  # of a share that is a sum


def class_margin(logits: Tensor, protected: Sequence[int]) -> Tensor:
    """m for logits (B, m): the protected classes' largest less the others' largest. (B,)."""
    mine, rest = sides(logits, protected)
    return mine.amax(1) - rest.amax(1)


def worst_margins(
    model: nn.Module,
    x: Tensor | Images,
    y: Tensor,
    protected: Sequence[int],
    threat: ThreatModel,
    *,
    attack: str | Spec = ATTACK,
    seed: int = 0,
) -> np.ndarray:
    """The worst margin that ``attack`` reaches of each image: least of p's, most of others'. (N,).

    ``x``: pixels (N, C, H, W) in [0, 1]; ``y``: labels (N,). ``attack``: of `ATTACKS`, climbs the
    margin itself; the best of all its iterates and restarts counts, the clean image among them.
    Raises InputError.
    """
    spec, model = ATTACKS.parse(attack), model.eval()
    restarts = int(spec.options.get("restarts", 1))
    once = Spec(spec.entry, spec.options | ({"restarts": 1} if restarts > 1 else {}))
    own, found = torch.as_tensor(list(protected), device=y.device), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size = batch_of(x)
        for images, labels in zip(in_turn(x, size), y.split(size), strict=True):
            worst = _Worst(protected, torch.isin(labels, own))
            worst.keep(model, images)
            for _ in range(restarts):
                worst.keep(model, perturb(model, images, labels, once, threat, loss=worst))
            found.append(worst.margins())
    return torch.cat(found).cpu().numpy() if found else np.zeros(0)


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
    alarms, recall = _Roc(margins, own).rates(np.ones((1, own.size)))
    offsets = -np.unique(margins)[::-1]  # at each b, what is above -b is called p
    frame = {"false_alarms": alarms[0], "recall": recall[0], "offset": [*offsets, np.inf]}
    return pd.DataFrame(frame)


def protection(
    margins: ArrayLike,
    own: ArrayLike,
    *,
    against: ArrayLike | None = None,
    budgets: Sequence[float] = BUDGETS,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall at given false alarms, and the area under the curve, with 95 % intervals.

    ``margins``: worst margins (N,), or (S, N) of S trainings on the same images, whose mean counts.
    ``own``: (N,) bool, which images are of a protected class. ``against``: another method's, of the
    same shape: what is reported is then the first less the second, paired by image and by training.

    A row per ``measure``: "recall" at each of ``budgets`` (``false_alarms``, shares of the other
    images in (0, 1)), and "area"; ``value`` with ``low`` and ``high``, a bootstrap over images of
    either kind and over trainings: its percentiles, a recall's never narrower than Wilson's; an
    area's by the deviation of its logit, which percentiles near 1 fall short of. ``seed``: of the
    bootstrap. Raises InputError.
    """
    first, own = _checked(margins, own)
    groups = [first] if against is None else [first, _checked(against, own)[0]]
    if groups[-1].shape != first.shape:
        shapes = f"shaped {groups[-1].shape}; allowed: {first.shape}, the same images and trainings"
        raise InputError(f"against: margins {shapes}")
    wrong = [share for share in budgets if not 0 < share < 1]
    if wrong:
        raise InputError(f"budgets: {wrong[0]!r} is not allowed; allowed: shares between 0 and 1")
    rocs = [[_Roc(margins, own) for margins in group] for group in groups]
    all_once = np.ones((1, own.size)), np.ones((1, len(first)))
    value = _means(rocs, budgets, *all_once)[0]
    random, draws = np.random.default_rng(seed), []
    for _ in range(DRAWS // CHUNK):
        draws.append(_means(rocs, budgets, *_redrawn(random, own, len(first))))
    drawn = np.concatenate(draws)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    if against is None:
        ends = wilson(value[:-1] * own.sum(), own.sum())
        low[:-1], high[:-1] = np.minimum(low[:-1], ends[0]), np.maximum(high[:-1], ends[1])
        least = 1 / (2 * own.sum() * (~own).sum())  # half of what one exchanged pair makes
        heights = logit(np.clip([value[-1], *drawn[:, -1]], least, 1 - least))
        low[-1], high[-1] = expit(heights[0] + Z95 * heights[1:].std() * np.array([-1, 1]))
    frame = pd.DataFrame({"measure": ["recall"] * len(budgets) + ["area"]})
    counts = {"n": int(own.sum()), "others": int((~own).sum()), "trainings": len(first)}
    return frame.assign(false_alarms=[*budgets, np.nan], value=value, low=low, high=high, **counts)


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
    """The order of a network's margins, in which any weights of the images give a curve."""

    def __init__(self, margins: np.ndarray, own: np.ndarray) -> None:
        self.order, self.own = np.argsort(-margins, kind="stable"), own
        descending = margins[self.order]
        # equal margins are called p together
        self.starts = np.flatnonzero(np.r_[True, descending[1:] < descending[:-1]])

    def rates(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """False alarms and recall (D, G + 1) of weights (D, N), from none called p to all."""
        found = []
        for kind in (~self.own, self.own):
            part = np.add.reduceat((weights * kind)[:, self.order], self.starts, axis=1)
            sums = np.cumsum(part, axis=1)
            found.append(np.c_[np.zeros(len(weights)), sums / sums[:, -1:]])
        return found[0], found[1]

    def measures(self, weights: np.ndarray, budgets: Sequence[float]) -> np.ndarray:
        """Recall at each budget, then the area, for each row of weights. (D, K + 1)."""
        alarms, recall = self.rates(weights)
        rows = np.arange(len(weights))
        last = [(alarms <= budget + EDGE).sum(1) - 1 for budget in budgets]
        area = np.trapezoid(recall, alarms, axis=1)
        return np.stack([*(recall[rows, place] for place in last), area], 1)


def _means(
    rocs: list[list[_Roc]], budgets: Sequence[float], weights: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """The measures' mean over trainings, each counted ``times`` (D, S); of two, the difference."""
    share = times / times.sum(1, keepdims=True)
    found = []
    for group in rocs:
        each = np.stack([roc.measures(weights, budgets) for roc in group], 1)  # (D, S, K + 1)
        found.append((each * share[:, :, None]).sum(1))
    return found[0] if len(found) == 1 else found[0] - found[1]


def _redrawn(
    random: np.random.Generator, own: np.ndarray, trainings: int
) -> tuple[np.ndarray, np.ndarray]:
    """How often each image (CHUNK, N) and each training (CHUNK, S) is drawn."""
    weights = np.zeros((CHUNK, own.size))
    for kind in (own, ~own):
        n = int(kind.sum())
        weights[:, kind] = random.multinomial(n, np.full(n, 1 / n), CHUNK)
    return weights, random.multinomial(trainings, np.full(trainings, 1 / trainings), CHUNK)


def _checked(margins: ArrayLike, own: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Margins as (S, N) and ``own`` as (N,) bool. Raises InputError."""
    margins, own = np.atleast_2d(np.asarray(margins, dtype=float)), np.asarray(own)
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
