"""The published tables and what is said of them, against the paper's text, published examples and hand counts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csnb import METHODS, InputError, paper


def scores(*runs: tuple[str, str, object, int, dict[str, tuple[int, int]]]) -> pd.DataFrame:
    """As `read_runs` gives them: (dataset, method, protected class, seed, {class: (correct, total) under PGD}) a run."""
    rows = []
    for number, (dataset, method, protected, seed, counts) in enumerate(runs):
        common = {"run": f"run{number}", "dataset": dataset, "method": method, "protected_class": protected, "seed": seed}
        clean = [{"attack": "clean", "class": str(name), "value": 1.0, "total": 9} for name in range(10)]
        attacked = [{"attack": "PGD", "class": name, "value": c / n, "total": n} for name, (c, n) in counts.items()]
        rows += [common | {"measure": "accuracy"} | row for row in clean + attacked]
        rows.append(common | {"measure": "average", "attack": "PGD", "class": "", "value": 0.1, "total": 10_000})
    return pd.DataFrame(rows)


ALL = {str(p): (n // 2, n) for p, n in enumerate(paper.TEST_IMAGES["mnist"])}


def test_every_cell_of_the_three_tables_is_there_once() -> None:
    frame = paper.published()
    assert frame.groupby("table").size().to_dict() == {"II": 240, "III": 240, "IV": 72}
    assert not frame.duplicated(["dataset", "attack", "method", "protected_class"]).any()
    assert set(frame["method"]) <= set(METHODS) and frame["published"].between(0, 1).all()
    assert all(sum(counts) == 10_000 for counts in paper.TEST_IMAGES.values())


@pytest.mark.parametrize(
    ("cell", "accuracy", "bold"),
    [
        (("mnist", "PGD", "CSE+ADV", 3), 0.8667, True),
        (("mnist", "FGSM", "STD", 3), 0.8401, True),
        (("cifar10", "LinfBIA", "CSA", 9), 0.5586, True),
        (("cifar10", "CW", "CSE", 0), 0.0, False),
        (("cifar100", "CW", "CSA", 9), 0.0405, True),
    ],
)
def test_cells_are_those_of_the_paper(cell: tuple, accuracy: float, bold: bool) -> None:
    row = paper.published().set_index(["dataset", "attack", "method", "protected_class"]).loc[cell]
    assert row["published"] == accuracy
    assert bold == row["bold"] or accuracy == 0


def test_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 873-890, Table II, method 10: examples (a), (b), (d) and (h)
    low, high = paper.difference(
        [56 / 70, 9 / 10, 5 / 56, 10 / 10], [70, 10, 56, 10], [48 / 80, 3 / 10, 0 / 29, 0 / 10], [80, 10, 29, 10]
    )
    np.testing.assert_allclose(low, [0.0524, 0.1705, -0.0381, 0.6075], atol=5e-5)
    np.testing.assert_allclose(high, [0.3339, 0.8090, 0.1926, 1.0000], atol=5e-5)


def test_a_cell_is_the_protected_class_alone_and_a_standard_model_has_all() -> None:
    found = paper.compare(scores(("mnist", "STD", 0, 0, ALL), ("mnist", "CSE", 3, 0, {"3": (909, 1010)})), "mnist")
    assert len(found) == 240
    ran = found[found["ours"].notna()].set_index(["method", "protected_class"])
    assert ran.index.tolist() == [*(("STD", p) for p in range(10)), ("CSE", 3)]
    row = ran.loc[("CSE", 3)]
    assert (row["ours"], row["n"], row["published"], row["verdict"]) == (0.9, 1010, 0.6293, "higher")
    assert row["low"] == pytest.approx(0.8800, abs=1e-4) and row["high"] == pytest.approx(0.9170, abs=1e-4)  # Wilson, by hand
    assert ran.loc[("STD", 0), "verdict"] == "lower"  # 0.5 against 0.7157
    assert found["verdict"].value_counts()["not run"] == 229


def test_classes_by_name_seeds_and_what_the_paper_does_not_have() -> None:
    runs = [("mnist", method, p, seed, {"4": (c, 982)}) for method, p, seed, c in
            [("CSA", "4", 0, 491), ("CSA", "4", 1, 982), ("CSA+L2", 4, 0, 0)]]  # fmt: skip
    found = paper.compare(scores(*runs, ("digits", "STD", 0, 0, ALL)), "mnist").set_index(
        ["attack", "method", "protected_class"]
    )
    assert (found.loc[("PGD", "CSA", 4), "ours"], found.loc[("PGD", "CSA", 4), "seeds"]) == (0.75, 2)
    assert found.loc[("PGD", "CSA+L2", 4), "verdict"] == "not published"
    assert (found["verdict"] == "not run").sum() == 239
    assert set(paper.compare(scores(("digits", "STD", 0, 0, ALL)), "digits")["verdict"]) == {"not published"}


def test_two_runs_for_one_cell_are_refused() -> None:
    twice = scores(*[("mnist", "CSA", 4, 0, {"4": (1, 982)})] * 2)
    with pytest.raises(InputError, match=r"^runs: several of CSA for class 4, seed 0; allowed: 1"):
        paper.compare(twice, "mnist")


@given(st.integers(0, 1010))
def test_verdict_says_whether_the_interval_of_the_difference_holds_zero(correct: int) -> None:
    found = paper.compare(scores(("mnist", "CSE", 3, 0, {"3": (correct, 1010)})), "mnist")
    row = found[found["ours"].notna()].iloc[0]
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    holds = row["difference_low"] <= 0 <= row["difference_high"]
    assert row["verdict"] == ("agrees" if holds else "higher" if correct / 1010 > 0.6293 else "lower")


def test_orderings_count_classes_by_hand() -> None:
    runs = [("mnist", "STD", 0, 0, ALL), *(("mnist", "CSE", p, 0, {str(p): (c, 1000)}) for p, c in enumerate([900, 100, 500]))]
    found = paper.orderings(paper.compare(scores(*runs), "mnist")).loc[("CSE > STD", "PGD")]
    assert found["ours"].to_dict() == {"above": 1, "below": 1, "unclear": 1}
    assert found["published"].sum() == 10


def test_oddities_of_the_published_tables() -> None:
    mnist = paper.oddities("mnist").set_index("what")
    assert mnist.loc["CSE equals STD to four digits, above 0", ["cells", "example"]].tolist() == [4, "CW, p = 9"]
    assert mnist.loc["bold is the lower of STD and CSE", ["cells", "example"]].tolist() == [1, "L2BIA, p = 0"]  # 0.9926, 0.9738
    assert paper.oddities("cifar100").set_index("what").loc["below 0.05 under L2BIA, which hardly perturbs", "cells"] == 12


def test_layouts_keep_every_cell() -> None:
    found = paper.compare(scores(("mnist", "STD", 0, 0, ALL)), "mnist")
    bold = paper.published().query("dataset == 'mnist'")["bold"].sum()
    page = paper.printed(found).to_html()
    assert page.count("0.9448") == 1 and page.split("</style>")[0].count("#T_printed_row") == bold
    table = paper.measured(found)
    assert table.shape == (24, 10) and (table == "not run").to_numpy().sum() == 230
    assert table.loc[("PGD", "STD"), "0 (n = 980)"] == "0.500 [0.469, 0.531]"
