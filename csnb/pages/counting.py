"""Comparisons, counted: what finished runs say of a claim."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from csnb import auditing
from csnb.attacks import keeps_to_ball
from csnb.auditing.kept import PLACE
from csnb.markdown import signed_ends
from csnb.pages.evidence import Evidence
from csnb.paper import Table
from csnb.paper.pairs import LEVEL, VERDICTS, complete, mean_gap
from csnb.paper.tables import accuracies, protecting
from csnb.statistics import holm


@dataclass(frozen=True)
class Finding:
    """A ``verdict`` of `csnb.pages.claims.HEAD` and its ``numbers``, in words."""

    verdict: str
    numbers: str


def judged(above: int, below: int, unclear: int) -> str:
    """The verdict of so many comparisons, of which those ``above`` are as claimed."""
    if above + below + unclear == 0:
        return "not run"
    if above and below:
        return "mixed"
    if above:
        return "in part" if unclear else "holds"
    return "contradicted" if below > unclear else "not shown"


def mostly(above: int, below: int, unclear: int) -> str:
    """The same of a claim that speaks of most comparisons: more than half of them decide."""
    half = (above + below + unclear) / 2
    if half == 0:
        return "not run"
    return "holds" if above > half else "contradicted" if below > half else "not shown"


def by_sign(ends: Iterable[tuple[float, float]]) -> tuple[int, int, int]:
    """How many intervals, (low, high), lie above 0, below it, and on both sides."""
    sides = [("above" if low > 0 else "below" if high < 0 else "unclear") for low, high in ends]
    above, below, unclear = (sides.count(word) for word in VERDICTS)
    return above, below, unclear


def of_pair(
    evidence: Evidence,
    dataset: str,
    first: str,
    second: str,
    rule: Callable[[int, int, int], str] = judged,
) -> Finding:
    """Is the ``first`` method's recall of its class above the ``second``'s, in a table's runs?

    Where every class has the same trainings, several, attacks are counted, by the mean over
    classes; else the tests of single networks are.
    """
    table, tests = evidence.tables[dataset], tests_of(evidence, dataset, f"{first} > {second}")
    if "exact" not in tests:
        return Finding("not run", f"{table.there} runs of the table are done, none with both")
    said = [_counted("exact gradients", tests["exact"], gap=True)]
    if "float32" in tests:
        said.append(
            _counted("float32 gradients, as the paper's library has them", tests["float32"])
        )
    by_attack = attacks_of_mean(tests["exact"])
    said += [_by_attack(by_attack)] if by_attack else []
    said += lost(table, first, second) + audited(evidence, dataset, first, second)
    counts = [len(names) for names in by_attack.values()] or counted(tests["exact"])
    return Finding(rule(*counts), "; ".join(said))


def attacks_of_mean(tests: pd.DataFrame) -> dict[str, list[str]]:
    """Under which attacks `mean_gap` is above, below and unclear: at 5 %, Holm's correction.

    ``tests``: of one pair and gradient. Nothing where the classes have one training or not the
    same: then nothing is known of all trainings.
    """
    seeds = tests.groupby("protected_class")["seed"].agg(frozenset)
    if seeds.nunique() > 1 or len(seeds.iloc[0]) == 1:
        return {}
    attacks = tests.groupby("attack", sort=False, observed=True)
    gaps = pd.DataFrame({str(attack): mean_gap(part) for attack, part in attacks}).T
    clear, up = holm(gaps["p"]) < LEVEL, gaps["gap"] > 0
    sides = zip((clear & up, clear & ~up, ~clear), VERDICTS, strict=True)
    return {word: list(gaps.index[which]) for which, word in sides}


def _by_attack(attacks: dict[str, list[str]]) -> str:
    said = [f"{word} under {', '.join(names)}" for word, names in attacks.items() if names]
    return f"of the mean over classes and trainings: {', '.join(said)}"


def tests_of(evidence: Evidence, dataset: str, pair: str) -> dict[str, pd.DataFrame]:
    """A table's tests of a ``pair`` by gradient, where there are some; without CW."""
    tests = evidence.tables[dataset].paired
    inside = tests["attack"].map(keeps_to_ball).astype(bool)
    tests = tests[(tests["pair"] == pair) & inside]
    return {str(gradient): part for gradient, part in tests.groupby("gradient")}


def counted(tests: pd.DataFrame) -> tuple[int, int, int]:
    """How many of the ``tests`` are above, below and unclear."""
    above, below, unclear = (int((tests["verdict"] == word).sum()) for word in VERDICTS)
    return above, below, unclear


def _counted(name: str, tests: pd.DataFrame, *, gap: bool = False) -> str:
    above, below, unclear = counted(tests)
    text = f"{name}: above in {above}, below in {below}, unclear in {unclear} of {len(tests)}"
    if not gap:
        return text
    seeds = tests.groupby("protected_class")["seed"].nunique()
    about = _about(len(seeds), " to ".join(map(str, sorted({seeds.min(), seeds.max()}))))
    means = []
    for part in complete(tests):
        found = mean_gap(part)
        of, ends = _about(found["classes"], found["trainings"]), ("gap", "low", "high")
        which = "" if of == about else f" {of}"
        means.append(f", mean over classes{which} {signed_ends(*(found[end] for end in ends))}")
    return "".join([f"{text} comparisons {about}", *means])


def _about(classes: int, trainings: int | str) -> str:
    return f"(classes: {classes}, trainings of each: {trainings})"


def lost(table: Table, first: str, second: str) -> list[str]:
    """Where the ``first`` method's clean recall of its class is below half of the ``second``'s."""
    rows = accuracies(table.scores)
    clean = protecting(rows[rows["attack"] == "clean"])
    places = ["protected_class", "seed", "method"]
    recall = clean.set_index(places)["value"].unstack().reindex(columns=[first, second]).dropna()
    gone = recall[recall[first] < recall[second] / 2]
    where = ", ".join(map(str, sorted({p for p, _ in gone.index})))
    said = (
        f"**{first} loses the class** in {len(gone)} of {len(recall)} trainings (class {where}): "
    )
    return [f"{said}clean recall below half of {second}'s"] if len(gone) else []


def audited(evidence: Evidence, dataset: str, first: str, second: str) -> list[str]:
    """What a stronger attacker left of the class, where both methods were audited on it.

    Of the table's runs: others have other threat models.
    """
    rows = audits_of(evidence, dataset)
    both = auditing.compared(rows, first, second)
    if both.empty:
        return []
    means = both.groupby("class")[["first", "second"]].mean()
    left = f"{means['first'].mean():.3f} of {first} against {means['second'].mean():.3f} of"
    above, below, unclear = counted(both)
    words = f"above in {above}, below in {below}, unclear in {unclear} of {len(both)}"
    found = rows.merge(both[PLACE], on=PLACE).query("verdict == 'masked'")
    masked = found.loc[found["method"].isin([first, second]), "method"].value_counts()
    said = "".join(f", {name} masked in {n}" for name, n in masked.items())
    return [f"left by the audit: {left} {second} (classes: {len(means)}), {words}{said}"]


def audits_of(evidence: Evidence, *datasets: str) -> pd.DataFrame:
    """Audits of the tables' runs (see `csnb.auditing.fullest`)."""
    ids = [i for name in datasets for i in evidence.tables[name].ids]
    return auditing.fullest(evidence.audits[evidence.audits["run"].isin(ids)])


def of_order(compared: pd.DataFrame, what: str, of: str = "one training each") -> Finding:
    """What the verdicts of `csnb.paper.minmax` say, of so many of ``what``."""
    verdicts = compared["verdict"].value_counts()
    counts = [int(verdicts.get(word, 0)) for word in ("holds", "reversed", "unclear")]
    words = "as claimed in {}, the other way in {}, unclear in {}".format(*counts)
    return Finding(judged(*counts), f"{of}: of {sum(counts)} {what} {words}")
