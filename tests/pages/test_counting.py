"""How finished runs are counted, on tests and weights that were made up."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from csnb.auditing.kept import RUN, SUMMARY
from csnb.pages.counting import Finding, judged, lost, mostly, of_order, of_pair
from csnb.paper import minmax

SCORES = ["run", "method", "protected_class", "class", "value", "measure", "attack", "seed"]
NOTHING = pd.DataFrame(columns=SCORES)
NO_AUDIT = pd.DataFrame(columns=[*RUN, *SUMMARY])


@pytest.mark.parametrize(
    ("above", "below", "unclear", "verdict"),
    [
        (0, 0, 0, "not run"),
        (3, 0, 0, "holds"),
        (3, 0, 1, "in part"),
        (1, 5, 0, "mixed"),
        (4, 7, 4, "mixed"),
        (0, 1, 14, "not shown"),
        (0, 0, 2, "not shown"),
        (0, 3, 2, "contradicted"),
    ],
)
def test_the_verdict_follows_the_counts(above: int, below: int, unclear: int, verdict: str) -> None:
    assert judged(above, below, unclear) == verdict


@pytest.mark.parametrize(
    ("above", "below", "unclear", "verdict"),
    [
        (0, 0, 0, "not run"), (8, 7, 0, "holds"), (14, 1, 0, "holds"), (2, 0, 13, "not shown"),
        (7, 1, 7, "not shown"), (5, 5, 0, "not shown"), (1, 8, 6, "contradicted"),
    ],
)  # fmt: skip
def test_most_is_more_than_half(above: int, below: int, unclear: int, verdict: str) -> None:
    assert mostly(above, below, unclear) == verdict


def made_of(gaps: dict[int, dict[int, float]]) -> SimpleNamespace:
    """Evidence of so many points between CSE and STD, by class and seed, of endless images."""
    rows = [("PGD", p, seed, 0.5 + gap) for p, each in gaps.items() for seed, gap in each.items()]
    tests = pd.DataFrame(rows, columns=["attack", "protected_class", "seed", "first"])
    tests = tests.assign(pair="CSE > STD", second=0.5, verdict="above", gradient="exact")
    tests = tests.assign(n=1e12, only_first=1e11, only_second=1e11)
    made = SimpleNamespace(paired=tests, there="5 of 6", ids=[], scores=NOTHING)
    return SimpleNamespace(tables={"mnist": made}, audits=NO_AUDIT)


def test_a_mean_over_seeds_has_student_s_interval_of_the_classes_that_have_all() -> None:
    half = stats.t.ppf(0.975, 1) * np.std([0.15, 0.25], ddof=1) / np.sqrt(2)
    ends = f"+0.200 [{0.2 - half:+.3f}, {0.2 + half:+.3f}]"
    whole = {0: {0: 0.1, 1: 0.3}, 1: {0: 0.2, 1: 0.2}}  # by class, by seed
    said = of_pair(made_of(whole), "mnist", "CSE", "STD").numbers
    assert f"(classes: 2, trainings of each: 2), mean over classes {ends}; of the mean" in said
    said = of_pair(made_of(whole | {2: {0: 0.3}}), "mnist", "CSE", "STD").numbers
    of_all = "mean over classes (classes: 3, trainings of each: 1) +0.200 [+0.200, +0.200]"
    of_two = f"mean over classes (classes: 2, trainings of each: 2) {ends}"
    assert said.endswith(f"(classes: 3, trainings of each: 1 to 2), {of_all}, {of_two}")
    said = of_pair(
        made_of({0: {0: 0.1, 1: 0.2}, 1: {0: 0.3, 2: 0.2}}), "mnist", "CSE", "STD"
    ).numbers
    assert (
        "trainings of each: 2), mean over classes (classes: 2, trainings of each: 1) +0.200" in said
    )
    said = of_pair(made_of({0: {0: 0.1}, 1: {1: 0.2}}), "mnist", "CSE", "STD").numbers
    assert said.endswith("comparisons (classes: 2, trainings of each: 1)")


def test_with_several_trainings_of_each_class_attacks_are_counted() -> None:
    made = made_of({p: {seed: 0.1 + 0.001 * seed for seed in range(3)} for p in (0, 1)})
    tests = made.tables["mnist"].paired
    others = {"FGSM": -tests["first"] + 1, "MIA": 0.5 + 0.2 * tests["seed"] - 0.15}
    rows = [tests, *(tests.assign(attack=name, first=first) for name, first in others.items())]
    made.tables["mnist"].paired = pd.concat(rows)
    found = of_pair(made, "mnist", "CSE", "STD")
    said = "of the mean over classes and trainings: above under PGD, below under FGSM, unclear"
    assert found.verdict == "mixed" and f"{said} under MIA" in found.numbers
    for gaps in ({0: {0: 0.1}, 1: {0: 0.1}}, {0: {0: 0.1, 1: 0.1}, 1: {0: 0.1, 2: 0.1}}):
        assert "of the mean over" not in of_pair(made_of(gaps), "mnist", "CSE", "STD").numbers


def test_pairs_are_counted_by_gradient_and_without_cw() -> None:
    rows = [
        ("PGD", "exact", "above", 3, 0, 0.9), ("PGD", "exact", "above", 3, 1, 0.8),
        ("PGD", "exact", "unclear", 4, 0, 0.6), ("FGSM", "exact", "unclear", 4, 0, 0.6),
        ("CW(steps=9)", "exact", "below", 4, 0, 0.0), ("PGD", "float32", "below", 4, 0, 0.1),
    ]  # fmt: skip
    columns = ["attack", "gradient", "verdict", "protected_class", "seed", "first"]
    tests = pd.DataFrame(rows, columns=columns).assign(pair="CSE > STD", second=0.5)
    tests = tests.assign(n=100, only_first=30, only_second=30)
    other = tests.assign(pair="CSA > STD", verdict="below")
    audits = pd.DataFrame(
        [
            ("a", "CSE", "3", 0, 0.1, "masked"), ("b", "STD", "3", 0, 0.4, "stands"),
            ("a1", "CSE", "3", 1, 0.9, "masked"),  # a seed that STD was not audited on
            ("c", "CSE", "4", 0, 0.9, "masked"), ("another eps", "STD", "4", 0, 0.0, "masked"),
        ],
        columns=["run", "method", "class", "seed", "audited", "verdict"],
    ).assign(n=300, dataset="mnist", threat="eps 0.3")  # fmt: skip
    fewer = audits[:1].assign(n=10, audited=0.0)
    ids = ["a", "a1", "b", "c", "not done"]
    known = [("a", "STD", 0, 0, 0.9), ("a", "STD", 0, 1, 0.9), ("b", "CSE", 0, 0, 0.44)]
    known += [("b", "CSE", 0, 1, 0.9), ("c", "CSE", 1, 0, 0.1), ("c", "CSE", 1, 1, 0.46)]
    scores = pd.DataFrame(known, columns=["run", "method", "protected_class", "class", "value"])
    scores = scores.assign(measure="accuracy", attack="clean", seed=0)
    made = SimpleNamespace(paired=pd.concat([tests, other]), there="2 of 9", ids=ids, scores=scores)
    evidence = SimpleNamespace(tables={"mnist": made}, audits=pd.concat([fewer, audits]))
    found = of_pair(evidence, "mnist", "CSE", "STD")
    exact, rounded, lost, audited = found.numbers.split("; ")
    assert found.verdict == "in part"
    assert exact.startswith("exact gradients: above in 2, below in 0, unclear in 2 of 4 ")
    # of seed 0: class 3 .4, class 4 .1; of class 3: (.4 + .3) / 2
    said = "(classes: 2, trainings of each: 1 to 2), mean over classes "
    assert f"{said}(classes: 2, trainings of each: 1) +0.250 [" in exact
    assert ", mean over classes (classes: 1, trainings of each: 2) +0.350 [" in exact
    assert rounded.endswith("above in 0, below in 1, unclear in 0 of 1")
    assert lost.startswith("**CSE loses the class** in 1 of 2 trainings (class 0): clean recall")
    said = "0.100 of CSE against 0.400 of STD (classes: 1), above in 0, below in 1, unclear in 0"
    assert audited == f"left by the audit: {said} of 1, CSE masked in 1"
    expected = Finding("not run", "2 of 9 runs of the table are done, none with both")
    assert of_pair(evidence, "mnist", "CSE+ADV", "CSA") == expected


def test_lost_classes_are_named_in_the_order_of_their_numbers() -> None:
    runs = [("STD", 0, 0.9), ("CSE", 10, 0.4), ("CSE", 2, 0.4), ("CSE", 3, 0.46)]
    rows = [(f"{m} {p}", m, p, of, value) for m, p, value in runs for of in range(11)]
    scores = pd.DataFrame(rows, columns=["run", "method", "protected_class", "class", "value"])
    scores = scores.assign(measure="accuracy", attack="clean", seed=0)
    said = lost(SimpleNamespace(scores=scores), "CSE", "STD")
    assert [each.partition(":")[0] for each in said] == [
        "**CSE loses the class** in 2 of 3 trainings (class 2, 10)"
    ]


def test_weights_that_are_more_extreme_by_construction_hold() -> None:
    size = [0.001 * (i % 90) / 90 if i % 10 else 1.0 for i in range(300)]
    weights = pd.DataFrame({"ADV": [0.1 + 0.5 * x for x in size], "CSA": size})
    found = of_order(minmax.compare(weights), "measures")
    assert found.numbers.startswith("one training each: of 9 measures as claimed in ")
    reverse = of_order(minmax.compare(weights[["CSA", "ADV"]]), "measures")
    assert found.verdict in ("holds", "in part")
    assert reverse.verdict in ("contradicted", "not shown")


def test_an_order_is_counted_by_verdict() -> None:
    verdicts = pd.DataFrame({"verdict": ["holds", "holds", "reversed", "unclear"]})
    words = "one training each: of 4 things as claimed in 2, the other way in 1, unclear in 1"
    assert of_order(verdicts, "things") == Finding("mixed", words)
