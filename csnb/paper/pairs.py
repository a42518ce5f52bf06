"""Does one method protect more than another? As printed, and by tests on the same images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.attacks import keeps_to_ball
from csnb.paper.tables import FLOAT32, plain_attack, protecting
from csnb.statistics import difference, half_width, holm, mcnemar, mean_is_zero

ORDERINGS = (  # pairs of which the first is said to be above the second
    ("CSE", "STD"),
    ("CSA", "STD"),
    ("CSE+ADV", "STD"),
    ("CSE+ADV", "CSA"),
    ("CSA", "ADV"),
    ("CSE+ADV", "ADV"),
)
SOURCES = ("published", "float32", "exact")
LEVEL = 0.05  # of tests
VERDICTS = ["above", "below", "unclear"]
PLACE = ["attack", "protected_class"]


def paired(hits: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Do two methods of `ORDERINGS` differ on the same images of the class that both protect?

    ``hits``: of `read_hits`. A row per pair, attack, ``gradient`` (exact, float32), class and seed:
    ``n`` images, the accuracies ``first`` and ``second``, how many images ``only_first`` and
    ``only_second`` get right, ``p`` of McNemar's exact test, ``holm`` (p adjusted for all rows of
    the same gradient) and ``verdict``: above, below or unclear at 5 %. The tests are of these
    networks: they know nothing of another seed's.
    """
    places = [*PLACE, "seed"]
    own = hits["dataset"].astype(str) == Path(dataset).name
    ours = protecting(hits[own & (hits["attack"] != "clean")])
    parts = []
    for first, second in ORDERINGS:
        left, right = (ours[ours["method"] == name] for name in (first, second))
        parts.append(left.merge(right, on=places, suffixes=("", "_second")))
        parts[-1]["pair"] = f"{first} > {second}"
    pairs = pd.concat(parts, ignore_index=True)
    images = list(zip(pairs["hits"], pairs["hits_second"], strict=True))
    frame = pairs[["pair", *places]].assign(
        attack=pairs["attack"].map(plain_attack),
        gradient=np.where(pairs["attack"].str.contains(FLOAT32, regex=False), "float32", "exact"),
        n=[len(a) for a, _ in images],
        first=[a.mean() for a, _ in images],
        second=[b.mean() for _, b in images],
        only_first=[int((a & ~b).sum()) for a, b in images],
        only_second=[int((b & ~a).sum()) for a, b in images],
        p=[mcnemar(a, b) for a, b in images],
    )
    families = frame.groupby("gradient")["p"]
    frame["holm"] = families.transform(holm) if len(frame) else frame["p"]
    clear, up = frame["holm"] < LEVEL, frame["only_first"] > frame["only_second"]
    frame["verdict"] = np.select([clear & up, clear & ~up], ["above", "below"], "unclear")
    return frame


def complete(tests: pd.DataFrame) -> list[pd.DataFrame]:
    """The parts of ``tests`` in which every class has the same seeds.

    ``tests``: rows of `paired` of one pair and gradient. Those of the seeds that all classes have,
    then those of the classes that have all seeds; all of them where these are the same.
    """
    seeds = tests.groupby("protected_class")["seed"].agg(frozenset)
    shared, most = frozenset.intersection(*seeds), tests["seed"].nunique()
    of_seeds = tests[tests["seed"].isin(shared)]
    of_classes = tests[tests["protected_class"].isin(seeds.index[seeds.map(len) == most])]
    parts = [of_seeds, of_classes] if len(of_seeds) < len(tests) else [tests]
    return [part for part in parts if len(part)]


def mean_gap(tests: pd.DataFrame) -> dict[str, float]:
    """How far the first is above the second, over classes that have the same seeds.

    ``tests``: one of `complete`. ``gap``: mean difference in accuracy, over attacks and seeds, then
    over ``classes``; ``low`` and ``high``: its 95 % interval over images and ``trainings`` (see
    `half_width`), ``p``: of "it is 0". Attacks and trainings share a class's images: each counts as
    if the others were the same, which is on the safe side.
    """
    gap = tests["first"] - tests["second"]
    share = (tests["only_first"] + tests["only_second"]) / tests["n"]
    rows = tests.assign(gap=gap, variance=(share - gap**2) / tests["n"])
    of_class = rows.groupby(["protected_class", "seed"])[["gap", "variance"]].mean().unstack()
    classes, each = len(of_class), of_class["gap"].mean().to_numpy()
    variance = of_class["variance"].mean(axis=1).sum() / classes**2
    of_mean = [variance], each[:, None]
    mean, half, p = each.mean(), half_width(*of_mean)[0], mean_is_zero(*of_mean)[0]
    found = {"classes": classes, "trainings": len(each), "gap": mean}
    return found | {"low": mean - half, "high": mean + half, "p": p}


def over_trainings(tests: pd.DataFrame) -> pd.DataFrame:
    """`mean_gap` of ``tests`` (of `paired`), a row for each pair, attack and gradient.

    Two where not all classes have all seeds (see `complete`). CW is left out. The columns of
    `mean_gap` after ``pair, attack, gradient``.
    """
    inside = tests[tests["attack"].map(keeps_to_ball).astype(bool)]
    places = ["pair", "attack", "gradient"]
    groups = inside.groupby(places, observed=True, sort=False)
    rows = [
        dict(zip(places, place, strict=True)) | mean_gap(part)
        for place, group in groups
        for part in complete(group)
    ]
    columns = [*places, "classes", "trainings", "gap", "low", "high", "p"]
    return pd.DataFrame(rows, columns=columns)


def claimed(comparison: pd.DataFrame) -> pd.DataFrame:
    """What the printed accuracies say of `ORDERINGS`: a row per pair, attack and class.

    ``comparison``: of `csnb.paper.compare`. ``claimed``: above, below, or unclear where Newcombe's
    95 % interval of the difference holds 0; the images are not known.
    """
    known = comparison.dropna(subset=["published"]).set_index(PLACE)
    parts = []
    for first, second in ORDERINGS:
        left, right = (known[known["method"] == name] for name in (first, second))
        pair = left.merge(right, left_index=True, right_index=True, suffixes=("", "_second"))
        sizes = (pair["n"], pair["n_second"])
        low, high = difference(pair["published"], sizes[0], pair["published_second"], sizes[1])
        said = np.select([low > 0, high < 0], ["above", "below"], "unclear")
        parts.append(pair[[]].assign(pair=f"{first} > {second}", claimed=said).reset_index())
    return pd.concat(parts, ignore_index=True)


def upheld(comparison: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Of the orderings that are printed, how many do our networks have?

    ``comparison``: of `csnb.paper.compare`; ``tests``: of `paired`. A row per ``gradient``, of the
    cells (and seeds) whose printed accuracies say that the first of a pair is above the second and
    of which both networks were run: in how many ours are above, below or unclear. CW, whose budget
    decides its numbers, is left out.
    """
    said = claimed(comparison).astype({"attack": str})
    said = said[(said["claimed"] == "above") & said["attack"].map(keeps_to_ball).astype(bool)]
    both = tests.astype({"attack": str}).merge(said, on=["pair", *PLACE])
    return pd.crosstab(both["gradient"], both["verdict"]).reindex(columns=VERDICTS, fill_value=0)


def orderings(comparison: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """What the paper says of its methods: in how many classes is one of a pair above the other?

    Its tables have no ADV: whether costs protect more than adversarial training alone is for our
    runs to say. A row for each pair and attack; columns ``above``, ``below`` and ``unclear`` under
    ``published`` (by Newcombe's interval of the difference: its images are not known), ``float32``
    and ``exact`` (of ``tests``, see `paired`; classes times seeds).
    """
    counts = {}
    for place, part in claimed(comparison).groupby(["pair", "attack"], observed=True):
        counts[*place, "published"] = part["claimed"].value_counts()
    for place, part in tests.groupby(["pair", "attack", "gradient"], observed=True):
        counts[place] = part["verdict"].value_counts()
    pairs = [f"{first} > {second}" for first, second in ORDERINGS]
    order = {name: k for k, name in enumerate([*comparison["attack"].cat.categories])}
    places = sorted({key[:2] for key in counts}, key=lambda k: (pairs.index(k[0]), order[k[1]]))
    index = pd.MultiIndex.from_tuples(places, names=["pair", "attack"])
    columns = pd.MultiIndex.from_product([SOURCES, VERDICTS])
    values = [[counts.get((*k, s), {}).get(v, 0) for s, v in columns] for k in places]
    return pd.DataFrame(values, index, columns, dtype=int)


def findings(tests: pd.DataFrame) -> list[str]:
    """What `paired` tests say of the paper's orderings: a line per pair and gradient."""
    lines = []
    for (pair, gradient), part in tests.groupby(["pair", "gradient"], sort=False):
        counts = pd.crosstab(part["attack"], part["verdict"]).reindex(columns=VERDICTS)
        order = dict.fromkeys(part["attack"])
        said = "; ".join(_grouped(counts.fillna(0).astype(int).loc[list(order)]))
        lines.append(f"**{pair}**, {gradient} gradients: {said}")
    return lines


def _grouped(counts: pd.DataFrame) -> Iterable[str]:
    """``counts``, a row per attack, in words: attacks of equal counts together."""
    for (above, below, unclear), rows in counts.groupby(list(counts), sort=False):
        total, attacks = above + below + unclear, ", ".join(rows.index)
        words = {"holds": above, "reversed": below, "unclear": unclear}
        said = ", ".join(f"{word} in {count}" for word, count in words.items() if count)
        yield f"{said} of {total} {'comparison' if total == 1 else 'comparisons'} under {attacks}"
