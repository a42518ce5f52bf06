"""What the paper printed - the 552 accuracies of Tables II to IV - and our runs beside it."""

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from csnb.errors import InputError
from csnb.evaluation import difference, wilson
from csnb.training import METHODS

TEST_IMAGES = {  # of each class
    "mnist": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    "cifar10": (1000,) * 10,
    "cifar100": (100,) * 100,
}
ORDERINGS = (("CSE", "STD"), ("CSA", "STD"), ("CSE+ADV", "STD"), ("CSE+ADV", "CSA"), ("CSA", "ADV"))  # first above second
CELL = ["attack", "method", "protected_class"]
DIGITS = 5e-5  # half a unit in the last place that is printed


def published() -> pd.DataFrame:
    """Tables II to IV: ``table, dataset, attack, method, protected_class``, ``published`` accuracy, ``bold``, ``n``.

    A row is a cell: the accuracy on the ``n`` test images of class p of the model that protects it (STD: none).
    """
    frame = pd.read_csv(Path(__file__).with_name("published.csv"))
    frame = frame.rename(columns={"model": "method", "accuracy": "published"}).astype({"bold": bool})
    return frame.assign(n=[TEST_IMAGES[name][p] for name, p in frame[["dataset", "protected_class"]].itertuples(index=False)])


def compare(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Every published cell of ``dataset`` beside ours, and cells of ours that were not published; a row each.

    ``scores``: of `read_runs`, whose runs differ in method, protected class and seed only. Columns: attack, method,
    protected_class, ``n`` test images, ``published``, ``bold``, ``ours`` (mean over ``seeds``) with Wilson ``low`` and
    ``high``, ``difference`` (ours - published) with ``difference_low`` and ``difference_high`` (Newcombe), and
    ``verdict``: agrees (that interval holds 0), higher, lower, not run, not published. Intervals are those of drawing n
    test images: another seed's training may differ by more.
    """
    theirs = published().query("dataset == @dataset").drop(columns=["table", "dataset"])
    frame = theirs.merge(_ours(scores, dataset), "outer", CELL, suffixes=("", "_ours"))
    frame["n"] = frame["n"].fillna(frame.pop("n_ours")).astype(int)
    frame["low"], frame["high"] = wilson(frame["ours"] * frame["n"], frame["n"])
    frame["difference"] = frame["ours"] - frame["published"]
    frame["difference_low"], frame["difference_high"] = difference(frame["ours"], frame["n"], frame["published"], frame["n"])
    kinds = [frame["ours"].isna(), frame["published"].isna(), frame["difference_low"] > 0, frame["difference_high"] < 0]
    frame["verdict"] = np.select(kinds, ["not run", "not published", "higher", "lower"], "agrees")
    return _sorted(frame)


def _ours(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Accuracy of the protected class of each run - of every class where the method protects none - over the seeds."""
    parts = []
    for _, run in scores[scores["dataset"] == dataset].groupby("run", observed=True):
        rows = run[run["measure"] == "accuracy"].astype({"class": str, "attack": str, "method": str})
        classes = rows.loc[rows["attack"] == "clean", "class"].tolist()  # clean images are of every class, in order
        rows = rows[rows["attack"] != "clean"]
        rows = rows.assign(protected_class=rows["class"].map(classes.index))
        if METHODS[rows["method"].iloc[0]].cost_sensitive:
            p = str(run["protected_class"].iloc[0])
            rows = rows[rows["protected_class"] == (int(p) if p.isdecimal() else classes.index(p))]
        parts.append(rows[[*CELL, "seed", "value", "total"]])
    if not parts:
        return pd.DataFrame({name: [] for name in (*CELL, "ours", "n", "seeds")}).astype(
            {"protected_class": int, "ours": float}
        )
    ours = pd.concat(parts)
    if ours.duplicated([*CELL, "seed"]).any():
        twice = ours[ours.duplicated([*CELL, "seed"])].iloc[0]
        raise InputError(
            f"runs: several of {twice['method']} for class {twice['protected_class']}, seed {twice['seed']}; allowed: 1"
        )
    return ours.groupby(CELL, as_index=False).agg(ours=("value", "mean"), n=("total", "first"), seeds=("seed", "count"))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """By attack, method and class in the paper's order; what it does not have comes last."""
    known = published()
    for name in ("attack", "method"):
        order = dict.fromkeys([*known[name], *METHODS, *frame[name]])
        frame[name] = pd.Categorical(frame[name], [x for x in order if x in set(frame[name])])
    return frame.sort_values(CELL, ignore_index=True)


def orderings(comparison: pd.DataFrame) -> pd.DataFrame:
    """What the paper says of its methods, class by class: in how many is the first of a pair above the second?

    Its tables have no ADV: whether costs protect more than adversarial training alone is for our runs to say.

    A row for each pair and attack; columns ``above``, ``below`` (the 95 % interval of the difference leaves 0 out) and
    ``unclear`` under ``published`` and under ``ours``; only classes that have both cells count.
    """
    rows = {}
    cells = comparison.set_index(["attack", "protected_class"])
    for first, second in ORDERINGS:
        left, right = (cells[cells["method"] == name] for name in (first, second))
        pair = left.merge(right, left_index=True, right_index=True, suffixes=("", "_second"))
        for attack, part in pair.groupby(level="attack", observed=True):
            rows[f"{first} > {second}", attack] = {
                (source, word): count
                for source in ("published", "ours")
                for word, count in _count(part.dropna(subset=[source, f"{source}_second"]), source).items()
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["pair", "attack"])


def _count(pairs: pd.DataFrame, source: str) -> dict[str, int]:
    low, high = difference(pairs[source], pairs["n"], pairs[f"{source}_second"], pairs["n_second"])
    above, below = int((low > 0).sum()), int((high < 0).sum())
    return {"above": above, "below": below, "unclear": len(pairs) - above - below}


def oddities(dataset: str) -> pd.DataFrame:
    """Published cells of ``dataset`` that do not fit each other, counted: ``what``, ``cells``, ``of``, ``example``.

    Bold is said to mark the better of STD and CSE and of CSA and CSE+ADV. An accuracy over n images is a multiple of 1/n.
    """
    cells = published().query("dataset == @dataset")
    wide = cells.pivot(index=["attack", "protected_class"], columns="method", values=["published", "bold"])
    value, bold = wide["published"].astype(float), wide["bold"].astype(bool)
    found = [_oddity("CSE equals STD to four digits, above 0", (value["CSE"] == value["STD"]) & (value["STD"] > 0))]
    for first, second in (("STD", "CSE"), ("CSA", "CSE+ADV")):
        wrong = (bold[first] & (value[first] < value[second])) | (bold[second] & (value[second] < value[first]))
        found.append(_oddity(f"bold is the lower of {first} and {second}", wrong))
    indexed = cells.set_index(["attack", "protected_class", "method"])
    off = (indexed["published"] * indexed["n"] - (indexed["published"] * indexed["n"]).round()).abs()
    found.append(_oddity("no multiple of 1/n", off > DIGITS * indexed["n"]))
    small = indexed.xs("L2BIA", drop_level=False)["published"]
    found.append(_oddity("below 0.05 under L2BIA, which hardly perturbs", small < 0.05))
    return pd.DataFrame(found)


def _oddity(what: str, wrong: pd.Series) -> dict[str, object]:
    first = list(wrong[wrong].index[0]) if wrong.any() else []
    example = ", ".join(part if isinstance(part, str) else f"p = {part}" for part in first)
    return {"what": what, "cells": int(wrong.sum()), "of": len(wrong), "example": example}


def printed(comparison: pd.DataFrame) -> Styler:
    """The published accuracies as the paper lays them out - attacks and methods down, classes across - with its bold ones."""
    cells = comparison[comparison["published"].notna()]
    bold = _wide(cells, "bold").map(lambda is_bold: "font-weight: bold" if is_bold is True else "")
    return _wide(cells, "published").style.format("{:.4f}").apply(lambda _: bold, axis=None).set_uuid("printed")


def measured(comparison: pd.DataFrame) -> pd.DataFrame:
    """Ours in the same layout, each with its 95 % interval as text; n under each class."""
    texts = [f"{ours:.3f} [{low:.3f}, {high:.3f}]" for ours, low, high in comparison[["ours", "low", "high"]].to_numpy()]
    table = _wide(comparison.assign(text=np.where(comparison["ours"].notna(), texts, "not run")), "text").fillna("not run")
    sizes = comparison.groupby("protected_class")["n"].first()
    return table.rename(columns={p: f"{p} (n = {n})" for p, n in sizes.items()})


def _wide(cells: pd.DataFrame, values: str) -> pd.DataFrame:
    wide = cells.pivot(index=["attack", "method"], columns="protected_class", values=values)
    return wide.rename_axis(columns="protected class")
