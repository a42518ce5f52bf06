"""Two methods on the same images, and what the paper prints of them, counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from test_tables import ALL, scores

from csnb import paper
from csnb.paper import pairs


def hits(*rows: tuple[str, object, int, str, tuple[int, ...]]) -> pd.DataFrame:
    """As `read_hits` gives them: method, protected class, p, attack, images that are right."""
    columns = ["method", "protected_class", "p", "attack", "hits"]
    frame = pd.DataFrame(rows, columns=columns).assign(run="r", dataset="mnist", seed=0)
    frame["hits"] = [np.isin(np.arange(20), right) for right in frame["hits"]]
    return frame


ATTACKS = ("clean", "PGD", "PGD(gradient=float32)")
STD = [("STD", 0, p, a, range(10)) for p in range(10) for a in ATTACKS]
TESTED = hits(
    *STD,
    ("CSE", 3, 3, "clean", range(20)),  # no attack: no test
    ("CSE", 3, 3, "PGD", range(8, 20)),  # 10 right of which STD is wrong, 8 the other way round
    ("CSE", 4, 4, "PGD", range(20)),  # 10 : 0
    ("CSE", 4, 5, "PGD", range(20)),  # not the class that it protects
    ("CSE", "5+6", 5, "PGD", ()),  # 0 : 10
    ("CSE", 4, 4, "PGD(gradient=float32)", range(12)),  # 2 : 0
)


def test_methods_are_compared_on_the_same_images_of_the_class_that_both_protect() -> None:
    found = paper.paired(TESTED, "mnist").set_index(["gradient", "protected_class"])
    assert set(found["pair"]) == {"CSE > STD"} and set(found["attack"]) == {"PGD"}
    counts = {place: [row.only_first, row.only_second] for place, row in found.iterrows()}
    assert counts == {
        ("exact", 3): [10, 8], ("exact", 4): [10, 0], ("exact", 5): [0, 10], ("float32", 4): [2, 0]
    }  # fmt: skip
    exact = found.loc["exact"]
    assert exact[["first", "second", "n"]].loc[3].tolist() == [0.6, 0.5, 20]
    # exact binomial: 10 of 10 has 2 / 2^10, 10 of 18 half of it and more; of three tests
    p = [2 * sum(math.comb(18, k) for k in range(9)) / 2**18, 2 / 2**10, 2 / 2**10]
    assert exact["p"].tolist() == pytest.approx(p, rel=1e-12)
    assert exact["holm"].tolist() == pytest.approx([p[0], 6 / 2**10, 6 / 2**10], rel=1e-12)
    assert exact["verdict"].tolist() == ["unclear", "above", "below"]
    assert found.loc[("float32", 4), ["p", "verdict"]].tolist() == [0.5, "unclear"]
    assert paper.paired(TESTED, "cifar10").empty and paper.paired(TESTED[:0], "mnist").empty


def test_orderings_count_classes_by_hand() -> None:
    comparison = paper.compare(scores(("mnist", "STD", 0, 0, ALL)), "mnist")
    frame = paper.orderings(comparison, paper.paired(TESTED, "mnist"))
    found = frame.loc[("CSE > STD", "PGD")]
    assert found["exact"].to_dict() == {"above": 1, "below": 1, "unclear": 1}
    assert found["float32"].to_dict() == {"above": 0, "below": 0, "unclear": 1}
    assert found["published"].sum() == 10
    # 0.8667 and 0.6293 of 1010 images, as Table II has class 3 under PGD, are far apart
    nothing = paper.orderings(comparison, paper.paired(TESTED[:0], "mnist"))
    assert nothing.loc[("CSE+ADV > CSA", "PGD"), "published"].sum() == 10
    assert (nothing[["exact", "float32"]] == 0).all(axis=None)


def test_findings_say_in_how_many_comparisons_an_ordering_holds() -> None:
    words = "holds in 1, reversed in 1, unclear in 1 of 3 comparisons under PGD"
    assert paper.findings(paper.paired(TESTED, "mnist")) == [
        f"**CSE > STD**, exact gradients: {words}",
        "**CSE > STD**, float32 gradients: unclear in 1 of 1 comparison under PGD",
    ]
    assert paper.findings(paper.paired(TESTED[:0], "mnist")) == []


def test_a_gap_s_interval_is_that_of_the_images_where_there_is_one_training() -> None:
    found = pairs.over_trainings(paper.paired(TESTED, "mnist")).set_index("gradient")
    assert found["pair"].tolist() == ["CSE > STD"] * 2 and set(found["attack"]) == {"PGD"}
    exact = found.loc["exact"]
    assert exact[["classes", "trainings"]].tolist() == [3, 1]
    # per image +1, 0 or -1: of class 3 10 and 8 of 20, of class 4 10 and 0, of class 5 0 and 10
    each = [np.repeat(values, counts) for values, counts in (
        ([1, -1, 0], [10, 8, 2]), ([1, 0], [10, 10]), ([-1, 0], [10, 10])
    )]  # fmt: skip
    mean = np.mean([one.mean() for one in each])
    half = 1.959964 * np.sqrt(sum(one.var() / 20 for one in each)) / 3
    assert exact[["gap", "low", "high"]].tolist() == pytest.approx([mean, mean - half, mean + half])
    assert pairs.over_trainings(paper.paired(TESTED, "mnist").assign(attack="CW")).empty


def test_a_gap_s_interval_covers_other_images_and_other_trainings() -> None:
    draw = np.random.default_rng(0)
    truth, spread, n, inside, widths = 0.1, 0.05, 400, 0, []
    for _ in range(300):
        rows = []
        for seed in range(3):
            right = 0.6 + truth + draw.normal(0, spread)  # of the first: another each training
            for p in (0, 1):
                first, second = draw.random(n) < right, draw.random(n) < 0.6
                hits = [("CSE", p, p, "PGD", first), ("STD", 0, p, "PGD", second)]
                rows += [(*row, "r", "mnist", seed) for row in hits]
        columns = ["method", "protected_class", "p", "attack", "hits", "run", "dataset", "seed"]
        tests = paper.paired(pd.DataFrame(rows, columns=columns), "mnist")
        gap = pairs.mean_gap(tests)
        inside += gap["low"] <= truth <= gap["high"]
        widths.append(gap["high"] - gap["low"])
    assert 0.93 <= inside / 300 <= 0.995
    # three trainings' t, of a spread that images add a little to
    assert np.median(widths) < 2 * 4.303 * np.hypot(spread, 0.03) / np.sqrt(3)


def test_gaps_are_of_the_seeds_that_all_classes_have_and_of_the_classes_with_all_seeds() -> None:
    tests = paper.paired(TESTED, "mnist").query("gradient == 'exact'")
    again = tests[tests["protected_class"] == 4].assign(seed=1)
    both = pairs.over_trainings(pd.concat([tests, again]))
    once = pairs.over_trainings(tests)
    columns = ["classes", "trainings", "gap"]
    assert both[columns].to_numpy().tolist() == [once.loc[0, columns].tolist(), [1, 2, 0.5]]
    assert both.loc[0, "low"] == once.loc[0, "low"] and once.loc[0, "classes"] > 1
    assert pairs.complete(pd.concat([tests[:1], again])) == []
    (whole,) = pairs.complete(tests)
    assert whole.equals(tests)


def test_what_is_printed_is_counted_where_both_networks_were_run() -> None:
    values = {3: (0.9, 0.5), 4: (0.9, 0.5), 5: (0.5, 0.9), 6: (0.9, 0.5), 7: (0.51, 0.5)}
    rows = [
        (attack, method, p, printed, 1000)
        for attack in ("PGD", "CW")
        for p, both in values.items()
        for method, printed in zip(("CSE", "STD"), both, strict=True)
    ]
    columns = ["attack", "method", "protected_class", "published", "n"]
    comparison = pd.DataFrame(rows, columns=columns)
    said = paper.claimed(comparison).set_index(["attack", "protected_class"])["claimed"]
    assert said["PGD"].tolist() == ["above", "above", "below", "above", "unclear"]
    tests = paper.paired(TESTED, "mnist")
    tests = pd.concat([tests, tests.assign(attack="CW"), tests.assign(pair="CSA > ADV")])
    found = paper.upheld(comparison, tests)  # 5 is not printed so, 6 was not run
    assert found.loc["exact"].to_dict() == {"above": 1, "below": 0, "unclear": 1}
    assert found.loc["float32"].to_dict() == {"above": 0, "below": 0, "unclear": 1}
    assert paper.upheld(comparison, tests[:0]).empty
