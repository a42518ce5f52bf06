"""What the paper printed - the 552 accuracies of Tables II to IV - and our runs beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pandas.io.formats.style import Styler

from csnb.attacks import keeps_to_ball
from csnb.errors import InputError
from csnb.figures import table
from csnb.methods import METHODS
from csnb.spec import split
from csnb.statistics import half_width, wilson

TEST_IMAGES = {  # of each class
    "mnist": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    "cifar10": (1000,) * 10,
    "cifar100": (100,) * 100,
}
UNPROTECTING = (
    "STD",
    "ADV",
)  # methods of the paper that know no costs: a run of theirs has every p
FLOAT32 = "gradient=float32"  # of attacks: as the paper's library computed it
CELL = ["attack", "method", "protected_class"]
DIGITS = 5e-5  # half a unit in the last place that is printed


def published() -> pd.DataFrame:
    """Tables II to IV: ``table, dataset`` and a cell's attack, method, ``protected_class``.

    Its ``published`` accuracy is that on the ``n`` test images of class p of the model that
    protects it (STD: none); ``bold`` as printed. A row per cell. ``inferred``: the row in the text
    has no such column (Table III, CW, p = 5 to 9); it holds nothing but 0, which these are then.
    """
    frame = pd.read_csv(Path(__file__).with_name("published.csv"))
    frame = frame.rename(columns={"model": "method", "accuracy": "published"})
    places = frame[["dataset", "protected_class"]].itertuples(index=False)
    sizes = [TEST_IMAGES[name][p] for name, p in places]
    return frame.assign(bold=frame["bold"] == 1, inferred=frame["inferred"] == 1, n=sizes)


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
    return rows.assign(protected=_protects(rows))


def _protects(rows: pd.DataFrame) -> np.ndarray:
    """Whether the run of each row protects class ``p``. (N,) bool."""
    pairs = zip(rows["p"], rows["protected_class"].astype(str), strict=True)
    return np.array([str(p) in protected.split("+") for p, protected in pairs], dtype=bool)


def compare(scores: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Every published cell of ``dataset`` beside ours, then those of ours that were not published.

    ``scores``: of `read_runs`, whose runs differ in method, protected class and seed only, else
    InputError. Columns: attack, method, protected_class, ``n`` test images, ``published``,
    ``bold``, ``ours`` (mean over ``seeds``) with ``low`` and ``high``: Wilson's interval of drawing
    n images, or, where it is wider, Student's of drawing them and of training again (see
    `half_width`; one training says nothing of others). Where an attack was run with float32
    gradients, as the paper's library has them, ``ours`` is that, and ``exact`` with its ends the
    same with exact ones; ``gradient``: which ``ours`` is. ``difference`` (ours - published) with
    ``difference_low`` and ``difference_high`` (Newcombe, of these ends and Wilson's of the
    published), and ``verdict``: agrees (that interval holds 0), higher, lower, not run, not
    published.
    """
    theirs = published().query("dataset == @dataset").drop(columns=["table", "dataset"])
    frame = theirs.merge(_ours(scores, dataset), "outer", CELL, suffixes=("", "_ours"))
    frame["n"] = frame["n"].fillna(frame.pop("n_ours").astype(float)).astype(int)
    frame["difference"] = frame["ours"] - frame["published"]
    least, most = wilson(frame["published"] * frame["n"], frame["n"])
    below = np.hypot(frame["ours"] - frame["low"], most - frame["published"])
    above = np.hypot(frame["high"] - frame["ours"], frame["published"] - least)
    frame["difference_low"] = frame["difference"] - below
    frame["difference_high"] = frame["difference"] + above
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
    ours = protecting(rows[rows["attack"] != "clean"])
    if ours.duplicated([*CELL, "seed"]).any():
        twice = ours[ours.duplicated([*CELL, "seed"])].iloc[0]
        where = f"{twice['method']} for class {twice['protected_class']}, seed {twice['seed']}"
        raise InputError(f"runs: several of {where}; allowed: 1")
    of_cell = {"ours": ("value", "mean"), "n": ("total", "first"), "seeds": ("seed", "count")}
    cells = ours.groupby(CELL).agg(**of_cell, each=("value", list)).reset_index()
    cells = cells.astype({"protected_class": int, "ours": float})
    ends = [_ends(*cell) for cell in zip(cells.pop("each"), cells["n"], strict=True)]
    cells["low"], cells["high"] = np.array(ends, dtype=float).reshape(-1, 2).T
    return _by_gradient(cells)


def _ends(each: Sequence[float], n: int) -> tuple[float, float]:
    """Of the mean accuracy of trainings, (S,), on the same ``n`` images."""
    mean = float(np.mean(each))
    low, high = map(float, wilson(mean * n, n))
    half = half_width([mean * (1 - mean) / n], np.array(each, dtype=float)[:, None])[0]
    return (
        (low, high)
        if len(each) == 1
        else (
            min(low, max(0.0, mean - half)),
            max(high, min(1.0, mean + half)),
        )
    )


def _by_gradient(ours: pd.DataFrame) -> pd.DataFrame:
    """A row per attack instead of one for each of its gradients: ``ours`` and ``exact``.

    ``gradient``: of ``ours``.
    """
    rounded = ours["attack"].str.contains(FLOAT32, regex=False)
    names = {"ours": "exact", "low": "exact_low", "high": "exact_high"}
    exact = ours.loc[~rounded, [*CELL, *names]].rename(columns=names)
    float32 = ours[rounded].assign(attack=ours.loc[rounded, "attack"].map(plain_attack))
    only = ours[~rounded].merge(float32[CELL], "left", CELL, indicator=True)
    only = only[only.pop("_merge") == "left_only"]
    float32 = float32.merge(exact, "left", CELL).assign(gradient="float32")
    return pd.concat([float32, only.assign(exact=np.nan, gradient="exact")])


def plain_attack(attack: str) -> str:
    """An attack's label without its gradient."""
    name, _, options = attack.partition("(")
    kept = [option for option in split(options.removesuffix(")")) if option != FLOAT32]
    return f"{name}({', '.join(kept)})" if kept else name


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """By attack, method and class in the paper's order; what it does not have comes last."""
    known = published()
    for name in ("attack", "method"):
        order = dict.fromkeys([*known[name], *METHODS, *frame[name]])
        frame[name] = pd.Categorical(frame[name], [x for x in order if x in set(frame[name])])
    return frame.sort_values(CELL, ignore_index=True)


def protecting(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of a class that the run protects, or of any where it protects none."""
    names = rows["method"].astype(str).str.partition("(")[0] if len(rows) else rows["method"]
    kept = rows[_protects(rows) | names.isin(UNPROTECTING)]
    return kept.drop(columns="protected_class").rename(columns={"p": "protected_class"})


def gradients(comparison: pd.DataFrame) -> pd.DataFrame:
    """Where float32 gradients protect: float32 less exact accuracy, by attack and method.

    Columns: ``cells`` that have both, mean ``float32`` and ``exact``, and the largest gap, with the
    class that has it.
    """
    both = comparison.dropna(subset=["ours", "exact"])
    both = both.assign(gap=both["ours"] - both["exact"])
    rows = {}
    for place, part in both.groupby(["attack", "method"], observed=True):
        worst = part.loc[part["gap"].idxmax()]
        means = {"float32": part["ours"].mean(), "exact": part["exact"].mean()}
        rows[place] = {"cells": len(part)} | means
        rows[place] |= {"largest gap": worst["gap"], "of class": worst["protected_class"]}
    index = pd.MultiIndex.from_tuples(rows, names=["attack", "method"])
    columns = ["cells", "float32", "exact", "largest gap", "of class"]
    return pd.DataFrame(list(rows.values()), index, columns)


def _of_level(rows: pd.DataFrame, level: str) -> str:
    """What an audit says, with its interval; nothing where it does not."""
    value, n = rows[level].iloc[0], rows[f"{level}_n"].iloc[0]
    if pd.isna(n):
        return ""
    low, high = wilson(value * n, n)
    return f"{value:.3f} [{low:.3f}, {high:.3f}], n = {n}"


def audits(scores: pd.DataFrame) -> pd.DataFrame:
    """What attacks of the paper left of a class, and what an audit left (see `csnb.audit`).

    ``scores``: of `read_runs`. A row for each class, seed and method that was audited: the least
    accuracy under the attacks that keep to the ball, by ``float32`` and by ``exact`` gradients, of
    all test images, and ``audited``, with n and Wilson interval as text, of those that the audit
    drew; ``certified``, likewise, where an audit has bounds: at least so much stands.
    """
    rows = scores[scores["audited"].notna()] if "audited" in scores else scores[:0]
    rows = rows.astype({"method": str, "class": str, "attack": str})
    rows = rows[rows["attack"].map(keeps_to_ball).astype(bool)]
    levels = [level for level in ("audited", "certified") if level in scores]
    found, places = {}, ["class", "seed", "method"]
    for place, part in rows.groupby(places, observed=True):
        rounded = part["attack"].str.contains(FLOAT32, regex=False)
        cells = {"float32": part["value"][rounded].min(), "exact": part["value"][~rounded].min()}
        found[place] = cells | {level: _of_level(part, level) for level in levels}
    order = {name: k for k, name in enumerate(METHODS)}
    kept = sorted(found, key=lambda place: (*place[:2], order.get(place[2], len(order)), place))
    index = pd.MultiIndex.from_tuples(kept, names=places) if kept else None
    columns = ["float32", "exact", *levels]
    return pd.DataFrame([found[place] for place in kept], index, columns)


def other_side(scores: pd.DataFrame, alarms: pd.DataFrame) -> pd.DataFrame:
    """What a method's protection costs on clean images: a row per method, in the paper's order.

    ``scores``: of `read_runs`. ``alarms``: method, protected_class, seed and value, the share of
    the other classes' images that are taken for that class. Columns: the ``average`` accuracy of
    all classes, that ``less STD's`` of the same seed, that of the ``worst`` class, and ``false
    alarms``: means over the seeds of each class, then over the ``classes``; ``trainings``, of all.
    """
    places = ["method", "protected_class", "seed"]
    wanted = (scores["attack"] == "clean") & scores["measure"].isin(["average", "worst"])
    rows = scores[wanted].astype({"method": str, "measure": str, "protected_class": str})
    runs = rows.pivot_table(index=places, columns="measure", values="value")
    runs = runs.reindex(columns=["average", "less STD's", "worst"])
    standard = runs["average"][runs.index.get_level_values("method") == "STD"]
    of_seed = standard.groupby("seed").mean().to_dict()
    less = [row["average"] - of_seed.get(place[-1], np.nan) for place, row in runs.iterrows()]
    found = _by_class(runs.assign(**{"less STD's": less}))
    said = alarms.astype({"protected_class": str}).groupby(places[:2])["value"].mean()
    by_method = said.groupby("method")
    order = [*METHODS, *found.index, *by_method.groups]
    known = [m for m in dict.fromkeys(order) if m in found.index or m in by_method.groups]
    counts = {"classes": by_method.size(), "trainings": runs.groupby("method").size()}
    return found.reindex(known).assign(**{"false alarms": by_method.mean()} | counts)


def _by_class(runs: pd.DataFrame) -> pd.DataFrame:
    """Means by method of rows by method, class and seed: over seeds, then over classes."""
    return runs.groupby(["method", "protected_class"]).mean().groupby("method").mean()


def agreement(comparison: pd.DataFrame) -> pd.DataFrame:
    """How near ours are to the published cells, by method and of all.

    ``comparison``: of `compare`. Columns: ``cells`` that have both, the share of them whose
    published value lies ``inside`` our interval, the mean ``distance``, and Spearman's rank
    ``correlation`` over these cells (none where all of either are equal).
    """
    both = comparison.dropna(subset=["published", "ours"])
    parts = {str(name): part for name, part in both.groupby("method", observed=True)}
    rows = {}
    for name, part in (parts | {"all": both}).items():
        published, ranks = part["published"], part[["published", "ours"]].rank()
        inside = (part["low"] <= published) & (published <= part["high"])
        varied = len(part) > 1 and (ranks.nunique() > 1).all()
        rows[name] = {
            "cells": len(part),
            "inside": inside.mean(),
            "distance": part["difference"].abs().mean(),
            "correlation": ranks["published"].corr(ranks["ours"]) if varied else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def oddities(dataset: str) -> pd.DataFrame:
    """Published cells of ``dataset`` that do not fit each other.

    Columns: ``what``, how many ``cells`` of how many (``of``), ``by chance`` - how many there would
    be if the digits were random, where that can be said - and the first as an ``example``. Bold is
    said to mark the better of STD and CSE and of CSA and CSE+ADV. An accuracy over n images is a
    multiple of 1/n; it counts as one if some k/n gives it when rounded to four digits or cut off.
    """
    cells = published().query("dataset == @dataset")
    place = {"index": ["attack", "protected_class"], "columns": "method"}
    wide = cells.pivot(**place, values=["published", "bold"])
    value, bold = wide["published"].astype(float), wide["bold"].astype(bool)
    equal = (value["CSE"] == value["STD"]) & (value["STD"] > 0)
    found: dict[str, tuple[pd.Series, float | None]] = {
        "CSE equals STD to four digits, above 0": (equal, None)
    }
    for a, b in (("STD", "CSE"), ("CSA", "CSE+ADV")):
        wrong = (bold[a] & (value[a] < value[b])) | (bold[b] & (value[b] < value[a]))
        found[f"bold is the lower of {a} and {b}"] = wrong, None
    indexed = cells.set_index(["attack", "protected_class", "method"])
    above = indexed[indexed["published"] > 0]  # 0 is a multiple of anything
    none = ~_is_multiple(above["published"], above["n"])
    any_digits = np.arange(1, 10_001) / 10_000
    chance = sum((~_is_multiple(any_digits, n)).mean() for n in above["n"])
    what = "no multiple of 1/n to four digits, rounded or cut off (cells above 0)"
    found[what] = none, chance
    small = indexed.xs("L2BIA", drop_level=False)["published"]
    found["below 0.05 under L2BIA, which hardly perturbs"] = small < 0.05, None
    rows = [_oddity(what, wrong, chance) for what, (wrong, chance) in found.items()]
    return pd.DataFrame(rows).astype({"by chance": "Int64"})


def _is_multiple(printed: ArrayLike, n: ArrayLike) -> ArrayLike:
    """Whether some k/n gives what is ``printed`` when it is rounded to four digits or cut off."""
    least, most = (printed - DIGITS) * n, (printed + 2 * DIGITS) * n  # of k; most is too much
    return np.ceil(least - 1e-9) < most - 1e-9


def _oddity(what: str, wrong: pd.Series, chance: float | None) -> Mapping[str, object]:
    first = list(wrong[wrong].index[0]) if wrong.any() else []
    example = ", ".join(part if isinstance(part, str) else f"p = {part}" for part in first)
    expected = None if chance is None else round(chance)
    counts = {"cells": int(wrong.sum()), "of": len(wrong), "by chance": expected}
    return {"what": what} | counts | {"example": example}


def printed(comparison: pd.DataFrame) -> Styler:
    """The published accuracies as the paper lays them out, with its bold ones.

    Attacks and methods down, classes across; in brackets what is ``inferred`` (see `published`).
    """
    cells = comparison[comparison["published"].notna()]
    marks = np.where(cells["inferred"].astype(bool), "({:.4f})", "{:.4f}")
    texts = [mark.format(v) for mark, v in zip(marks, cells["published"], strict=True)]
    inferred = cells["inferred"].any()
    caption = "(0.0000): inferred; the row in the text has no such column" if inferred else ""
    layout = _wide(cells.assign(text=texts), "text")
    return table(layout, caption=caption, bold=_wide(cells, "bold"), name="printed")


def measured(comparison: pd.DataFrame) -> pd.DataFrame:
    """Ours in the same layout, each with its 95 % interval as text; n under each class.

    What was run with both gradients has a row for each. A mean over several trainings says so.
    """
    named = comparison.assign(attack=comparison["attack"].astype(str))
    rounded = np.where(comparison["gradient"] == "float32", " (float32)", "")
    first = named.assign(attack=named["attack"] + rounded)
    second = named[comparison["exact"].notna()].drop(columns=["ours", "low", "high"])
    second = second.rename(columns={"exact": "ours", "exact_low": "low", "exact_high": "high"})
    cells = pd.concat([first, second])
    seeds = cells["seeds"].fillna(0).astype(int)
    numbers = zip(*(cells[name] for name in ("ours", "low", "high")), seeds, strict=True)
    texts = [
        f"{ours:.3f} [{lo:.3f}, {hi:.3f}]" + (f", {count} trainings" if count > 1 else "")
        for ours, lo, hi, count in numbers
    ]
    cells["text"] = np.where(cells["ours"].notna(), texts, "not run")
    order = [t for a in comparison["attack"].cat.categories for t in (f"{a} (float32)", a)]
    cells["attack"] = pd.Categorical(cells["attack"], [t for t in order if t in set(cells.attack)])
    sizes = comparison.groupby("protected_class")["n"].first()
    layout = _wide(cells, "text").fillna("not run")
    return layout.rename(columns={p: f"{p} (n = {n})" for p, n in sizes.items()})


def _wide(cells: pd.DataFrame, values: str) -> pd.DataFrame:
    wide = cells.pivot(index=["attack", "method"], columns="protected_class", values=values)
    return wide.rename_axis(columns="protected class")
