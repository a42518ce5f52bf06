"""The Min-Max property of section III-C in numbers: small and large weights, and models' order."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.paper.pairs import LEVEL
from csnb.paper.tables import UNPROTECTING, accuracies, protecting
from csnb.runs import read_run, read_weights
from csnb.statistics import holm, mcnemar, of_repeats, paired_difference, wilson

CONV1 = "body.conv1.weight"  # of LeNet, whose first convolution the paper's figures show
NEAR = (0.01, 0.05, 0.1)  # |w| below this is near zero; so is |w| below this part of the largest
STEEPEST = 0.22387  # largest |d/dw| of one term of Eq. 8: |w| rho (1 - rho), at |w| = 1.543


def near_zero(size: np.ndarray) -> dict[str, np.ndarray]:
    """How many of the magnitudes ``size`` (..., N) are near zero, by each threshold: (...,)."""
    top = size.max(-1, keepdims=True)
    absolute = {f"|w| < {t:g}": (size < t).sum(-1) for t in NEAR}
    return absolute | {f"|w| < {t:g} max|w|": (size < t * top).sum(-1) for t in NEAR}


def large(size: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, least and largest of the largest tenth of the magnitudes ``size`` (..., N): (...,)."""
    tenth = np.sort(size, -1)[..., -max(1, size.shape[-1] // 10) :]
    return {
        "mean of the largest tenth": tenth.mean(-1),
        "least of the largest tenth": tenth[..., 0],
        "largest": tenth[..., -1],
    }


def measures(weights: pd.DataFrame) -> pd.DataFrame:
    """`near_zero` and `large` of each model: a row per measure, a column per model.

    ``weights``: (N, models), a column per model.
    """
    return pd.DataFrame({name: _measure(size) for name, size in weights.abs().items()}).astype(
        float
    )


def compare(weights: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Is each model's measure below that of the next? ``weights``: (N, models), in claimed order.

    A row per measure and pair of neighbours, with both values, their ``difference`` (second -
    first), its 95 % percentile bootstrap interval (positions drawn with replacement, the same for
    all models) and the `verdict`. Such an interval takes the weights for independent draws from
    what one training gave: it says nothing of another seed.
    """
    drawn = np.random.default_rng(seed).integers(len(weights), size=(resamples, len(weights)))
    size = weights.abs()
    once, again = measures(weights), {name: _measure(size[name].to_numpy()[drawn]) for name in size}
    rows = []
    for measure in once.index:
        for first, second in pairwise(list(size)):
            gaps = again[second][measure] - again[first][measure]
            values = once.loc[measure, [first, second]]
            rows.append(
                [measure, f"{first} < {second}", *values, *np.percentile(gaps, [2.5, 97.5])]
            )
    frame = _compared(rows, "measure")
    return frame.assign(verdict=list(map(verdict, frame["low"], frame["high"])))


def networks(folders: Iterable[str | Path]) -> pd.DataFrame:
    """`measures` of the first convolution of finished runs: a row per run, a column per measure.

    The index: method, class (the protected one), seed; in these alone runs differ.
    """
    weights = {}
    for folder in folders:
        result = read_run(folder)
        classes = "+".join(map(str, result["protected"]))
        key = (result["parameters"]["method"], classes, result["parameters"]["seed"])
        weights[key] = read_weights(folder)[CONV1].ravel()
    index = pd.MultiIndex.from_tuples(list(weights), names=["method", "class", "seed"])
    return measures(pd.DataFrame(dict(enumerate(weights.values())))).T.set_index(index)


def over_trainings(found: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Is each method's measure below that of the next, over trainings?

    ``found``: of `networks`. Two networks of one seed began with the same weights; of one class,
    where both methods know classes. A row per measure and pair of neighbours: both values and
    their ``difference`` (second - first), means over the classes of a seed, then over the
    ``trainings``, its 95 % interval (Student's), ``p``, ``holm`` (for the rows of a pair) and
    ``verdict``, which follows it at 5 %: holds, reversed or unclear. Neither one training nor
    several of the same difference tell by how much others would vary: nothing is clear then.
    """
    parts = []
    for first, second in pairwise(methods):
        by_seed = _of_pair(found, first, second)
        gaps = (by_seed[second] - by_seed[first]).to_numpy()
        _, low, high, p = of_repeats(gaps)
        means, claims = by_seed.mean(), [f"{first} < {second}"] * len(p)
        rows = zip(found.columns, claims, means[first], means[second], low, high, strict=True)
        compared = _compared(list(map(list, rows)), "measure").assign(trainings=len(gaps))
        parts.append(_tested(compared, p))
    return pd.concat(parts, ignore_index=True)


def with_recall(
    found: pd.DataFrame, scores: pd.DataFrame, methods: Sequence[str], *, attack: str = "PGD"
) -> pd.DataFrame:
    """Do networks of these ``methods`` with more of a measure recognise more of their class?

    ``found``: of `networks`; ``scores``: of `read_runs`, of the same runs. A row per measure:
    Spearman's correlation with the accuracy of the class under ``attack`` among the networks of a
    class, mean over ``classes``, its 95 % interval (Student's, of classes), ``p``, ``holm`` and
    ``verdict`` at 5 %: holds above 0, reversed below, unclear.
    """
    rows = protecting(accuracies(scores)).query("attack == @attack")
    rows = rows.astype({"method": str, "protected_class": str})
    parts = []
    for name, own in rows[rows["method"].isin(methods)].groupby("method"):
        on = ["seed"] if name in UNPROTECTING else ["seed", "class"]
        measured = found.xs(name, level="method").reset_index()[[*on, *found.columns]]
        recall = own[["protected_class", "seed", "value"]].set_axis(
            ["class", "seed", "recall"], axis=1
        )
        parts.append(recall.merge(measured, on=on))
    each = pd.DataFrame(
        {p: of[found.columns].corrwith(of["recall"], method="spearman")
         for p, of in pd.concat(parts).groupby("class")}
    ).T.dropna()  # fmt: skip
    *ends, p = of_repeats(each)
    names = ["difference", "low", "high"]
    frame = pd.DataFrame(dict(zip(names, ends, strict=True)), index=each.columns)
    frame = _tested(frame.assign(classes=len(each)), p)
    frame = frame.rename(columns={"difference": "correlation"})
    return frame.rename_axis("measure").reset_index()


def _of_pair(found: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Both methods' measures by seed, where both have one: a column per method and measure."""
    on = ["seed"] if {first, second} & {*UNPROTECTING} else ["seed", "class"]
    left, right = (found.xs(name, level="method").reset_index() for name in (first, second))
    both = left[on].reset_index().merge(right[on].reset_index(), on=on)
    parts = {
        name: rows[found.columns].loc[both[place]].set_axis(both["seed"]).groupby(level=0).mean()
        for name, rows, place in ((first, left, "index_x"), (second, right, "index_y"))
    }
    return pd.concat(parts, axis=1)


def at_positions(weights: pd.DataFrame) -> pd.DataFrame:
    """At how many positions of large weights is each model's |w| below the next one's?

    Positions: those at which any model has one of its largest tenth. ``weights``: (N, models) by
    position. A row per pair of neighbours and one for the whole order, with the counts ``in_order``
    of ``positions``, the ``share``, its Wilson ``low`` and ``high``, and ``chance``, the share of a
    random order.
    """
    size = weights.abs()
    seen = size[(size >= size.quantile(0.9)).any(axis=1)]
    orders = dict.fromkeys([*pairwise(list(size)), tuple(size)])
    rows = []
    for order in orders:
        held = int((seen[list(order)].diff(axis=1).iloc[:, 1:] > 0).all(axis=1).sum())
        low, high = map(float, wilson(held, len(seen)))
        chance = 1 / np.prod(range(1, len(order) + 1))
        rows.append([" < ".join(order), held, len(seen), held / len(seen), low, high, chance])
    columns = ["order", "in_order", "positions", "share", "low", "high", "chance"]
    return pd.DataFrame(rows, columns=columns)


def protection(hits: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Does each method protect the protected class less than the next, on the same images?

    ``hits``: of `read_hits`, a run per method, all of one protected class. A row per attack and
    pair of neighbours, with both accuracies of that class, their ``difference`` (second - first),
    its 95 % interval, which knows that the images are the same (see `paired_difference`), ``p`` of
    McNemar's exact test, ``holm`` (p adjusted for all rows) and ``verdict``, which follows it at
    5 %: holds, reversed or unclear. They are of these networks: another seed's may differ by more.
    """
    own = hits[hits["p"] == hits["protected_class"]]
    images = own.set_index(["attack", "method"])["hits"]
    rows, p = [], []
    for attack in own["attack"].unique():
        for first, second in pairwise(methods):
            a, b = images[attack, first], images[attack, second]
            p.append(mcnemar(a, b))
            ends = paired_difference(a, b)
            rows.append([attack, f"{first} < {second}", a.mean(), b.mean(), *ends])
    return _tested(_compared(rows, "attack"), p)


def convergence(histories: pd.DataFrame) -> pd.DataFrame:
    """How many epochs does each method take to the same training accuracy?

    ``histories``: of `read_histories`. The ``level`` is 99 % of the lowest final training accuracy
    of a data set's methods. A row per data set and method, in their order.
    """
    names = {"accuracy": "training accuracy", "test_accuracy": "test accuracy"}
    groups = histories.groupby(["dataset", "method"], sort=False)
    final = groups[[name for name in names if name in histories]].last()
    level = 0.99 * final["accuracy"].groupby("dataset").min()
    there = histories[histories["accuracy"] >= histories["dataset"].map(level)]
    reached = there.groupby(["dataset", "method"], sort=False)["epoch"].min()
    final = final.rename(columns=names).assign(level=level.reindex(final.index, level="dataset"))
    return final.assign(**{"epochs to the level": reached})


def later(histories: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """How many epochs more ``second`` takes to the level of `convergence` than ``first``.

    ``histories``: of `read_histories`, of one data set; ``first`` knows no class. Networks of a
    seed are compared: a row per seed, a column per class.
    """
    found: dict[str, dict[int, int]] = {}
    for seed, of_seed in histories.groupby("seed"):
        plain = of_seed[of_seed["method"] == first]
        own = of_seed[of_seed["method"] == second]
        for p, course in own.groupby("protected_class", observed=True):
            both = convergence(pd.concat([plain, course])).droplevel("dataset")
            took = both["epochs to the level"]
            found.setdefault(str(p), {})[int(seed)] = int(took[second] - took[first])
    return pd.DataFrame(found)


def verdict(low: float, high: float) -> str:
    """Of a claimed increase whose 95 % interval this is: holds, reversed, or unclear around 0."""
    return "holds" if low > 0 else "reversed" if high < 0 else "unclear"


def reach(count: int, rates: float, *, gamma: float = 1.0, momentum: float = 0.0) -> float:
    """How far the gradient of gamma times Eq. 8 alone moves one of ``count`` weights at most.

    ``rates``: SGD's learning rates of all updates, summed. Eq. 8 is a mean: a weight's own part is
    1 / ``count`` of it.
    """
    return rates * gamma * STEEPEST / count / (1 - momentum)


def _measure(size: np.ndarray) -> dict[str, np.ndarray]:
    size = np.asarray(size)
    return near_zero(size) | large(size)


def _tested(frame: pd.DataFrame, p: Sequence[float]) -> pd.DataFrame:
    """With ``p``, ``holm`` and a verdict at 5 %: holds where the difference is above 0."""
    adjusted = holm(p)
    clear, up = adjusted < LEVEL, frame["difference"] > 0
    said = np.select([clear & up, clear & ~up], ["holds", "reversed"], "unclear")
    return frame.assign(p=p, holm=adjusted, verdict=said)


def _compared(rows: list[list[object]], kind: str) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[kind, "claim", "first", "second", "low", "high"])
    frame.insert(4, "difference", frame["second"] - frame["first"])
    return frame
