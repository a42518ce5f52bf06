"""What the paper printed - the 552 accuracies of Tables II to IV - and our runs beside it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from csnb.errors import InputError
from csnb.figures import table
from csnb.methods import METHODS
from csnb.statistics import difference, wilson

TEST_IMAGES = {  # of each class
    "mnist": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    "cifar10": (1000,) * 10,
    "cifar100": (100,) * 100,
}
UNPROTECTING = (
    "STD",
    "ADV",
)  # methods of the paper that know no costs: a run of theirs has every p
ORDERINGS = (  # pairs of which the first is said to be above the second
    ("CSE", "STD"),
    ("CSA", "STD"),
    ("CSE+ADV", "STD"),
    ("CSE+ADV", "CSA"),
    ("CSA", "ADV"),
)
SOURCES = ("published", "ours")
CELL = ["attack", "method", "protected_class"]
DIGITS = 5e-5  # half a unit in the last place that is printed


def published() -> pd.DataFrame:
    """Tables II to IV: ``table, dataset`` and a cell's attack, method, ``protected_class``.

    Its ``published`` accuracy is that on the ``n`` test images of class p of the model that
    protects it (STD: none); ``bold`` as printed. A row per cell.
    """
    frame = pd.read_csv(Path(__file__).with_name("published.csv"))
    frame = frame.rename(columns={"model": "method", "accuracy": "published"})
    places = frame[["dataset", "protected_class"]].itertuples(index=False)
    return frame.assign(bold=frame["bold"] == 1, n=[TEST_IMAGES[name][p] for name, p in places])


def accuracies(scores: pd.DataFrame) -> pd.DataFrame:
    """The accuracy rows of ``scores`` (of `read_runs`) with ``p``, the index of their class.

    ``protected``: whether the run protects that class. Indices count the classes that have test
    images, in order: all of them in the data sets of the paper.
    """
    texts = dict.fromkeys(["run", "attack", "method", "class"], str)
    rows = scores[scores["measure"] == "accuracy"].astype(texts)
    clean = rows[rows["attack"] == "clean"]  # of every class
    places = clean[["run", "class"]].assign(p=clean.groupby("run").cumcount())
    rows = rows.merge(places, on=["run", "class"], validate="many_to_one")
    pairs = zip(rows["p"], rows["protected_class"].astype(str), strict=True)
    return rows.assign(protected=[str(p) in protected.split("+") for p, protected in pairs])


def compare(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Every published cell of ``dataset`` beside ours, then those of ours that were not published.

    ``scores``: of `read_runs`, whose runs differ in method, protected class and seed only, else
    InputError. Columns: attack, method, protected_class, ``n`` test images, ``published``,
    ``bold``, ``ours`` (mean over ``seeds``) with Wilson ``low`` and ``high``, ``difference`` (ours
    - published) with ``difference_low`` and ``difference_high`` (Newcombe), and ``verdict``: agrees
    (that interval holds 0), higher, lower, not run, not published. Intervals are those of drawing n
    test images: another seed's training may differ by more.
    """
    theirs = published().query("dataset == @dataset").drop(columns=["table", "dataset"])
    frame = theirs.merge(_ours(scores, dataset), "outer", CELL, suffixes=("", "_ours"))
    frame["n"] = frame["n"].fillna(frame.pop("n_ours")).astype(int)
    frame["low"], frame["high"] = wilson(frame["ours"] * frame["n"], frame["n"])
    frame["difference"] = frame["ours"] - frame["published"]
    ends = difference(frame["ours"], frame["n"], frame["published"], frame["n"])
    frame["difference_low"], frame["difference_high"] = ends
    kinds = {
        "not run": frame["ours"].isna(),
        "not published": frame["published"].isna(),
        "higher": frame["difference_low"] > 0,
        "lower": frame["difference_high"] < 0,
    }
    frame["verdict"] = np.select(list(kinds.values()), list(kinds), "agrees")
    return _sorted(frame)


def _ours(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Accuracy over the seeds of what each run protects, of every class where it protects none."""
    rows = accuracies(scores[scores["dataset"].astype(str) == Path(dataset).name])
    names = rows["method"].str.partition("(")[0] if len(rows) else rows["method"]
    counts = (rows["attack"] != "clean") & (rows["protected"] | names.isin(UNPROTECTING))
    ours = rows[counts].drop(columns="protected_class").rename(columns={"p": "protected_class"})
    if ours.duplicated([*CELL, "seed"]).any():
        twice = ours[ours.duplicated([*CELL, "seed"])].iloc[0]
        where = f"{twice['method']} for class {twice['protected_class']}, seed {twice['seed']}"
        raise InputError(f"runs: several of {where}; allowed: 1")
    means = {"ours": ("value", "mean"), "n": ("total", "first"), "seeds": ("seed", "count")}
    ours = ours.groupby(CELL, as_index=False).agg(**means)
    return ours.astype({"protected_class": int, "ours": float})


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """By attack, method and class in the paper's order; what it does not have comes last."""
    known = published()
    for name in ("attack", "method"):
        order = dict.fromkeys([*known[name], *METHODS, *frame[name]])
        frame[name] = pd.Categorical(frame[name], [x for x in order if x in set(frame[name])])
    return frame.sort_values(CELL, ignore_index=True)


def orderings(comparison: pd.DataFrame) -> pd.DataFrame:
    """What the paper says of its methods: in how many classes is one of a pair above the other?

    Its tables have no ADV: whether costs protect more than adversarial training alone is for our
    runs to say. A row for each pair and attack; columns ``above``, ``below`` (the 95 % interval of
    the difference leaves 0 out) and ``unclear`` under ``published`` and under ``ours``; only
    classes that have both cells count.
    """
    places, counts = [], []
    cells = comparison.set_index(["attack", "protected_class"])
    for first, second in ORDERINGS:
        left, right = (cells[cells["method"] == name] for name in (first, second))
        pair = left.merge(right, left_index=True, right_index=True, suffixes=("", "_second"))
        for attack, part in pair.groupby(level="attack", observed=True):
            places.append((f"{first} > {second}", attack))
            counts.append([count for source in SOURCES for count in _count(part, source)])
    index = pd.MultiIndex.from_tuples(places, names=["pair", "attack"])
    columns = pd.MultiIndex.from_product([SOURCES, ["above", "below", "unclear"]])
    return pd.DataFrame(counts, index, columns, dtype=int)


def _count(pairs: pd.DataFrame, source: str) -> tuple[int, int, int]:
    """How many of the pairs of cells are above, below, unclear."""
    pairs = pairs.dropna(subset=[source, f"{source}_second"])
    other, sizes = pairs[f"{source}_second"], (pairs["n"], pairs["n_second"])
    low, high = difference(pairs[source], sizes[0], other, sizes[1])
    above, below = int((low > 0).sum()), int((high < 0).sum())
    return above, below, len(pairs) - above - below


def findings(comparison: pd.DataFrame) -> list[str]:
    """What our runs say of the paper's orderings, by classes: a line per pair that was run."""
    ours = orderings(comparison)["ours"]
    ours = ours[ours.sum(axis=1) > 0]
    return [
        f"**{pair}**: {'; '.join(_grouped(counts.droplevel('pair')))}"
        for pair, counts in ours.groupby(level="pair", sort=False)
    ]


def _grouped(counts: pd.DataFrame) -> Iterable[str]:
    """``counts``, a row per attack, in words: attacks of equal counts together."""
    for (above, below, unclear), rows in counts.groupby(list(counts), sort=False):
        total, attacks = above + below + unclear, ", ".join(rows.index)
        words = {"holds": above, "reversed": below, "unclear": unclear}
        said = ", ".join(f"{word} in {count}" for word, count in words.items() if count)
        yield f"{said} of {total} {'class' if total == 1 else 'classes'} under {attacks}"


def oddities(dataset: str) -> pd.DataFrame:
    """Published cells of ``dataset`` that do not fit each other: ``what, cells, of, example``.

    Bold is said to mark the better of STD and CSE and of CSA and CSE+ADV. An accuracy over n images
    is a multiple of 1/n.
    """
    cells = published().query("dataset == @dataset")
    place = {"index": ["attack", "protected_class"], "columns": "method"}
    wide = cells.pivot(**place, values=["published", "bold"])
    value, bold = wide["published"].astype(float), wide["bold"].astype(bool)
    equal = (value["CSE"] == value["STD"]) & (value["STD"] > 0)
    found = {"CSE equals STD to four digits, above 0": equal}
    for a, b in (("STD", "CSE"), ("CSA", "CSE+ADV")):
        wrong = (bold[a] & (value[a] < value[b])) | (bold[b] & (value[b] < value[a]))
        found[f"bold is the lower of {a} and {b}"] = wrong
    indexed = cells.set_index(["attack", "protected_class", "method"])
    correct = indexed["published"] * indexed["n"]
    found["no multiple of 1/n"] = (correct - correct.round()).abs() > DIGITS * indexed["n"]
    small = indexed.xs("L2BIA", drop_level=False)["published"]
    found["below 0.05 under L2BIA, which hardly perturbs"] = small < 0.05
    return pd.DataFrame([_oddity(what, wrong) for what, wrong in found.items()])


def _oddity(what: str, wrong: pd.Series) -> Mapping[str, object]:
    first = list(wrong[wrong].index[0]) if wrong.any() else []
    example = ", ".join(part if isinstance(part, str) else f"p = {part}" for part in first)
    return {"what": what, "cells": int(wrong.sum()), "of": len(wrong), "example": example}


def printed(comparison: pd.DataFrame) -> Styler:
    """The published accuracies as the paper lays them out, with its bold ones.

    Attacks and methods down, classes across.
    """
    cells = comparison[comparison["published"].notna()]
    layout = _wide(cells, "published")
    return table(layout, precision=4, bold=_wide(cells, "bold"), name="printed")


def measured(comparison: pd.DataFrame) -> pd.DataFrame:
    """Ours in the same layout, each with its 95 % interval as text; n under each class."""
    texts = [
        f"{ours:.3f} [{low:.3f}, {high:.3f}]"
        for ours, low, high in comparison[["ours", "low", "high"]].to_numpy()
    ]
    cells = comparison.assign(text=np.where(comparison["ours"].notna(), texts, "not run"))
    sizes = comparison.groupby("protected_class")["n"].first()
    layout = _wide(cells, "text").fillna("not run")
    return layout.rename(columns={p: f"{p} (n = {n})" for p, n in sizes.items()})


def _wide(cells: pd.DataFrame, values: str) -> pd.DataFrame:
    wide = cells.pivot(index=["attack", "method"], columns="protected_class", values=values)
    return wide.rename_axis(columns="protected class")
