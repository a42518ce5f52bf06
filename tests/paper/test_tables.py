"""The published tables and what is said of them, against the paper's text and hand counts."""

import hashlib
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from csnb import METHODS, InputError, paper, statistics
from csnb.paper import tables


def scores(*runs: tuple[str, str, object, int, dict[str, tuple[int, int]]]) -> pd.DataFrame:
    """As `read_runs` gives them.

    A run: dataset, method, protected class, seed, and by class what is right under PGD, of what.
    """
    rows = []
    names = ["dataset", "method", "protected_class", "seed"]
    for number, (*parameters, counts) in enumerate(runs):
        common = dict(zip(names, parameters, strict=True)) | {"run": f"run{number}"}
        found = [("clean", str(name), 9, 9) for name in range(10)]
        found += [("PGD", name, c, n) for name, (c, n) in counts.items()]
        rows += [
            common | {"measure": "accuracy", "attack": a, "class": name, "value": c / n, "total": n}
            for a, name, c, n in found
        ]
        average = {"measure": "average", "attack": "PGD", "class": "", "value": 0.1}
        rows.append(common | average | {"total": 10_000})
    return pd.DataFrame(rows)


ALL = {str(p): (n // 2, n) for p, n in enumerate(paper.TEST_IMAGES["mnist"])}


def test_every_cell_of_the_three_tables_is_there_once() -> None:
    frame = paper.published()
    assert frame.groupby("table").size().to_dict() == {"II": 240, "III": 240, "IV": 72}
    assert not frame.duplicated(["dataset", "attack", "method", "protected_class"]).any()
    assert set(frame["method"]) <= set(METHODS) and frame["published"].between(0, 1).all()
    assert all(sum(counts) == 10_000 for counts in paper.TEST_IMAGES.values())


def test_all_cells_are_those_of_a_second_reading_of_the_paper() -> None:
    frame = paper.published()
    cells = zip(
        *(frame[c] for c in ("dataset", "attack", "method", "protected_class", "published")),
        strict=True,
    )
    lines = sorted(f"{d} {a} {m} {int(p)} {value:.4f}" for d, a, m, p, value in cells)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "5688baa0d0616069055a64eadbd933e40012c40ab2aec09f23a0c482fd5f58b3"


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


def test_a_cell_is_the_protected_class_alone_and_a_standard_model_has_all() -> None:
    found = paper.compare(
        scores(("mnist", "STD", 0, 0, ALL), ("mnist", "CSE", 3, 0, {"3": (909, 1010)})), "mnist"
    )
    assert len(found) == 240
    ran = found[found["ours"].notna()].set_index(["method", "protected_class"])
    assert ran.index.tolist() == [*(("STD", p) for p in range(10)), ("CSE", 3)]
    row = ran.loc[("CSE", 3)]
    values = row[["ours", "n", "published", "verdict"]].tolist()
    assert values == [0.9, 1010, 0.6293, "higher"]
    ends = row[["low", "high"]].tolist()
    assert ends == pytest.approx([0.8800, 0.9170], abs=1e-4)  # Wilson, by hand
    assert ran.loc[("STD", 0), "verdict"] == "lower"  # 0.5 against 0.7157
    assert found["verdict"].value_counts()["not run"] == 229


def test_seeds_several_classes_and_what_the_paper_does_not_have() -> None:
    rows = [("CSA", 4, 0, 491), ("CSA", 4, 1, 982), ("CSA+L2", 4, 0, 0), ("CSA(inner=x)", 4, 0, 0)]
    runs = [("mnist", method, p, seed, {"4": (c, 982)}) for method, p, seed, c in rows]
    runs.append(("mnist", "CSE", "4+5", 0, {"4": (982, 982), "5": (0, 892), "6": (1, 958)}))
    found = paper.compare(scores(*runs, ("digits", "STD", 0, 0, ALL)), "mnist")
    found = found.set_index(["attack", "method", "protected_class"])
    assert found.loc[("PGD", "CSA", 4), ["ours", "seeds"]].tolist() == [0.75, 2]
    assert found.loc[("PGD", "CSE", 4), "ours"] == 1 and found.loc[("PGD", "CSE", 5), "ours"] == 0
    for method in ("CSA+L2", "CSA(inner=x)"):
        assert found.loc[("PGD", method, 4), "verdict"] == "not published"
    assert (found["verdict"] == "not run").sum() == 240 - 3
    digits = paper.compare(scores(("digits", "STD", 0, 0, ALL)), "digits")
    assert set(digits["verdict"]) == {"not published"}


def test_an_interval_over_seeds_is_as_wide_as_they_differ() -> None:
    """Student's by hand: three trainings, 980 images; t of 2 degrees of freedom is 4.3027."""
    each = np.array([0.5, 0.7, 0.9])
    runs = [("mnist", "CSE", 0, k, {"0": (round(a * 980), 980)}) for k, a in enumerate(each)]
    place = ["attack", "method", "protected_class"]
    row = paper.compare(scores(*runs), "mnist").set_index(place).loc[("PGD", "CSE", 0)]
    assert row["ours"] == pytest.approx(0.7) and row["seeds"] == 3
    of_seeds, of_images = 0.2**2 / 3, 0.7 * 0.3 / 980
    freedom = 2 * ((of_seeds + of_images) / of_seeds) ** 2
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(of_seeds + of_images)
    assert 4.1 < scipy.stats.t.ppf(0.975, freedom) < 4.3027
    assert [row["low"], row["high"]] == pytest.approx([0.7 - half, min(1.0, 0.7 + half)])
    assert row["verdict"] == "agrees"  # 0.8740 is printed
    again = scores(*[(*run[:4], {"0": (686, 980)}) for run in runs])  # that differ in nothing
    row = paper.compare(again, "mnist").set_index(place).loc[("PGD", "CSE", 0)]
    low, high = statistics.wilson(686, 980)
    half = 1.959964 * np.sqrt(0.7 * 0.3 / 980)  # the seeds say nothing more
    assert [row["low"], row["high"]] == pytest.approx([min(low, 0.7 - half), max(high, 0.7 + half)])
    assert row["verdict"] == "lower"


def test_a_mean_over_trainings_is_marked_as_one() -> None:
    runs = [("mnist", "CSE", 0, seed, {"0": (490, 980)}) for seed in (0, 1)]
    runs.append(("mnist", "CSE", 1, 0, {"1": (1, 1135)}))
    frame = scores(*runs).astype({"seed": "Int64"})  # as `read_runs` has them
    table = paper.measured(paper.compare(frame, "mnist")).loc[("PGD", "CSE")]
    assert table["0 (n = 980)"].endswith("], 2 trainings") and table["1 (n = 1135)"].endswith("]")


def test_the_other_side_is_compared_seed_by_seed_and_class_by_class() -> None:
    """Class 3 on three seeds, class 4 on one; STD differs by seed, and all are 0.015 below it."""
    standard = {0: 0.98, 1: 0.90, 2: 0.91}
    rows = [("STD", 0, seed, value) for seed, value in standard.items()]
    rows += [("CSA", p, s, standard[s] - 0.015) for p, s in ((3, 0), (3, 1), (3, 2), (4, 0))]
    rows += [("MINE", 3, 7, 0.5)]  # of a seed that STD has not
    frame = pd.DataFrame(rows, columns=["method", "protected_class", "seed", "value"])
    measures = [frame.assign(measure="average"), frame.assign(measure="worst", value=0.1)]
    alarms = frame.assign(value=[0.3, 0.3, 0.3, 0.1, 0.2, 0.3, 0.6, 0.0])
    found = tables.other_side(pd.concat(measures).assign(attack="clean"), alarms)
    assert found.index.tolist() == ["STD", "CSA", "MINE"]
    assert found.loc["CSA", "less STD's"] == pytest.approx(-0.015)
    assert found.loc["CSA", "average"] == pytest.approx((2.79 / 3 + 0.98) / 2 - 0.015)
    assert found.loc["CSA", "false alarms"] == pytest.approx((0.2 + 0.6) / 2)
    assert found.loc["CSA", ["classes", "trainings"]].tolist() == [2, 4]
    assert found.loc["STD", "less STD's"] == 0 and np.isnan(found.loc["MINE", "less STD's"])


def test_audits_of_a_class_and_seed_stand_together_in_the_paper_s_order() -> None:
    runs = [("mnist", "CSA", 3, seed, {"3": (1, 2)}) for seed in (0, 1, 2)]
    frame = scores(
        *runs, ("mnist", "STD", 0, 2, {"3": (1, 2)}), ("mnist", "CSA", 1, 0, {"1": (1, 2)})
    )
    frame = frame.assign(audited=frame["seed"] / 10, audited_n=100)
    frame.loc[(frame["attack"] == "clean") | (frame["class"] == ""), "audited"] = np.nan
    found = tables.audits(frame)["audited"]
    order = [("1", 0, "CSA"), *(("3", k, "CSA") for k in (0, 1)), ("3", 2, "STD"), ("3", 2, "CSA")]
    assert found.index.tolist() == order
    assert [text[:5] for text in found] == ["0.000", "0.000", "0.100", "0.200", "0.200"]


def test_agreement_counts_cells_inside_and_ranks_them() -> None:
    comparison = pd.DataFrame(
        {
            "method": ["CSE"] * 3 + ["CSA"],
            "published": [0.1, 0.5, 0.9, np.nan],
            "ours": [0.15, 0.6, 0.7, 0.2],
            "low": [0.05, 0.52, 0.6, 0.1],
            "high": [0.2, 0.7, 0.9, 0.3],
        }
    )
    comparison["difference"] = comparison["ours"] - comparison["published"]
    found = tables.agreement(comparison)
    for name in ("CSE", "all"):
        assert found.loc[name].tolist() == pytest.approx([3, 2 / 3, 0.35 / 3, 1.0])
    upside = comparison.assign(ours=comparison["ours"].to_numpy()[[2, 1, 0, 3]])
    assert tables.agreement(upside).loc["all", "correlation"] == pytest.approx(-1)
    level = tables.agreement(comparison.assign(ours=0.5))
    assert level["correlation"].isna().all() and level.loc["all", "cells"] == 3
    assert tables.agreement(comparison.iloc[3:]).loc["all", "cells"] == 0


def test_a_data_set_that_is_a_file_goes_by_its_name_and_none_that_was_run_leaves_all_open() -> None:
    own = scores(("stripes.npz", "STD", 0, 0, ALL))
    assert len(paper.compare(own, "/somewhere/stripes.npz")) == 10
    nothing = paper.compare(own[own["seed"] == 1], "mnist")
    assert set(nothing["verdict"]) == {"not run"} and len(nothing) == 240


def test_the_protected_class_is_the_run_s_whatever_its_scores_are() -> None:
    both = paper.accuracies(scores(("mnist", "CSA", 3, 0, {"2": (1, 2), "3": (1, 2)})))
    attacked = both[both["attack"] == "PGD"].set_index("class")
    assert attacked["p"].to_dict() == {"2": 2, "3": 3}
    assert attacked["protected"].to_dict() == {"2": False, "3": True}


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
    side = "higher" if correct / 1010 > 0.6293 else "lower"
    assert row["verdict"] == ("agrees" if holds else side)


def test_float32_gradients_stand_beside_the_published_cell_and_exact_ones_beside_them() -> None:
    frame = scores(("mnist", "CSE", 3, 0, {"3": (909, 1010)}))
    exact = frame[frame["attack"] == "PGD"].assign(value=0.6)
    frame["attack"] = frame["attack"].replace("PGD", "PGD(gradient=float32)")
    other = exact.assign(attack="PGD(steps=5)", value=0.7)
    both = paper.compare(pd.concat([frame, exact, other]), "mnist")
    row = both.set_index(["attack", "method", "protected_class"]).loc[("PGD", "CSE", 3)]
    assert row[["ours", "exact", "published"]].tolist() == [0.9, 0.6, 0.6293]
    found = paper.gradients(both)
    assert found.index.tolist() == [("PGD", "CSE")]
    assert found.iloc[0].tolist() == pytest.approx([1, 0.9, 0.6, 0.3, 3])
    table = paper.measured(both)["3 (n = 1010)"]
    assert table["PGD (float32)", "CSE"].startswith("0.900 [0.880")
    assert table["PGD", "CSE"].startswith("0.600 [0.569")
    assert table["PGD(steps=5)", "CSE"].startswith("0.700")
    rounded = paper.measured(paper.compare(frame, "mnist"))["3 (n = 1010)"]
    assert rounded["PGD (float32)", "CSE"].startswith("0.900 [")  # not shown as exact
    assert ("PGD", "CSE") not in rounded or rounded["PGD", "CSE"] == "not run"
    alone = paper.compare(pd.concat([exact, frame[frame["attack"] == "clean"]]), "mnist")
    assert alone["exact"].isna().all() and paper.gradients(alone).empty
    steps = frame.replace("PGD(gradient=float32)", "PGD(steps=5, gradient=float32)")
    assert "PGD(steps=5)" in set(paper.compare(steps, "mnist")["attack"])


def four_digits(n: int) -> set[str]:
    """What k/n is, k = 1 .. n, when it is rounded to four digits and when it is cut off."""
    shares = [Decimal(k) / n for k in range(1, n + 1)]
    ways = (ROUND_HALF_UP, ROUND_DOWN)
    return {str(share.quantize(Decimal("0.0001"), way)) for share in shares for way in ways}


@pytest.mark.parametrize(
    ("dataset", "cells", "of"), [("mnist", 203, 240), ("cifar10", 178, 200), ("cifar100", 36, 37)]
)
def test_multiples_of_1_n_are_counted_by_decimal_digits(dataset: str, cells: int, of: int) -> None:
    known = paper.published().query("dataset == @dataset and published > 0")
    texts = {n: four_digits(n) - {"0.0000"} for n in set(known["n"])}
    pairs = zip(known["published"], known["n"], strict=True)
    assert sum(f"{value:.4f}" not in texts[n] for value, n in pairs) == cells
    chance = sum(1 - len(texts[n]) / 10_000 for n in known["n"])
    (row,) = paper.oddities(dataset).query("what.str.startswith('no multiple')").to_dict("records")
    assert [row["cells"], row["of"], row["by chance"]] == [cells, of, round(chance)]


def test_cells_that_the_text_does_not_have_are_marked_and_printed_in_brackets() -> None:
    inferred = paper.published().query("inferred")
    assert set(inferred["dataset"]) == {"cifar10"} and set(inferred["attack"]) == {"CW"}
    assert sorted(inferred["protected_class"]) == sorted([5, 6, 7, 8, 9] * 4)
    for dataset, count in (("mnist", 0), ("cifar10", 20)):
        compared = paper.compare(scores((dataset, "STD", 0, 0, ALL)), dataset)
        body = paper.printed(compared).to_html().split("<tbody>")[1]
        assert body.count("(0.0000)") == count
        assert ("inferred" in paper.printed(compared).to_html()) == bool(count)


def test_oddities_of_the_published_tables() -> None:
    mnist = paper.oddities("mnist").set_index("what")[["cells", "example"]]
    assert mnist.loc["CSE equals STD to four digits, above 0"].tolist() == [4, "CW, p = 9"]
    lower = mnist.loc["bold is the lower of STD and CSE"]  # 0.9926, 0.9738
    assert lower.tolist() == [1, "L2BIA, p = 0"]
    cifar100 = paper.oddities("cifar100").set_index("what")
    assert cifar100.loc["below 0.05 under L2BIA, which hardly perturbs", "cells"] == 12


def test_layouts_keep_every_cell() -> None:
    found = paper.compare(scores(("mnist", "STD", 0, 0, ALL)), "mnist")
    bold = paper.published().query("dataset == 'mnist'")["bold"].sum()
    page = paper.printed(found).to_html()
    assert page.count("0.9448") == 1 and page.split("</style>")[0].count("#T_printed_row") == bold
    table = paper.measured(found)
    assert table.shape == (24, 10) and (table == "not run").to_numpy().sum() == 230
    assert table.loc[("PGD", "STD"), "0 (n = 980)"] == "0.500 [0.469, 0.531]"
