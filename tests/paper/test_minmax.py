"""The statistics of section III-C against hand counts, closed forms and a simulated training."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr, ttest_1samp, ttest_rel

from csnb.losses import fuzziness
from csnb.paper import minmax
from csnb.statistics import difference, holm, paired_difference, wilson


def test_near_zero_counts_below_absolute_and_relative_thresholds() -> None:
    counts = minmax.near_zero(np.array([0.0, 0.009, 0.02, 0.06, 0.3, 2.0]))
    assert counts == {
        "|w| < 0.01": 2, "|w| < 0.05": 3, "|w| < 0.1": 4,
        "|w| < 0.01 max|w|": 2, "|w| < 0.05 max|w|": 4, "|w| < 0.1 max|w|": 4,
    }  # fmt: skip


def test_scaling_a_layer_moves_no_count_that_is_relative() -> None:
    size = np.random.default_rng(0).exponential(size=150)
    once, scaled = minmax.near_zero(size), minmax.near_zero(7 * size)
    assert all(once[name] == scaled[name] for name in once if name.endswith("max|w|"))


def test_large_describes_the_largest_tenth() -> None:
    assert minmax.large(np.arange(20.0)) == {
        "mean of the largest tenth": 18.5,
        "least of the largest tenth": 18,
        "largest": 19,
    }
    assert minmax.large(np.array([3.0, 1.0]))["mean of the largest tenth"] == 3


def test_measures_of_many_resamples_are_those_of_each() -> None:
    size = np.random.default_rng(0).exponential(size=(5, 40))
    together = minmax.near_zero(size) | minmax.large(size)
    for row, one in enumerate(size):
        for name, value in (minmax.near_zero(one) | minmax.large(one)).items():
            assert together[name][row] == pytest.approx(value)


def test_compare_tells_an_order_from_its_reverse_and_from_no_order() -> None:
    size = np.random.default_rng(0).exponential(size=150)
    verdicts = {
        factor: minmax.compare(pd.DataFrame({"A": size, "B": factor * size})).set_index("measure")[
            "verdict"
        ]
        for factor in (3, 1, 1 / 3)
    }
    assert (
        verdicts[3]["mean of the largest tenth"] == "holds"
        and verdicts[3]["|w| < 0.1"] == "reversed"
    )
    assert (
        verdicts[1 / 3]["mean of the largest tenth"] == "reversed"
        and verdicts[1 / 3]["|w| < 0.1"] == "holds"
    )
    assert set(verdicts[1]) == {"unclear"}


def test_compare_is_repeatable_and_says_both_values_and_their_difference() -> None:
    frame = pd.DataFrame(
        np.random.default_rng(0).normal(size=(60, 3)), columns=["ADV", "CSA+L2", "CSA"]
    )
    rows = minmax.compare(frame)
    assert set(rows["claim"]) == {"ADV < CSA+L2", "CSA+L2 < CSA"} and len(rows) == 2 * 9
    np.testing.assert_allclose(rows["difference"], rows["second"] - rows["first"])
    assert (rows["low"] <= rows["high"]).all()
    pd.testing.assert_frame_equal(rows, minmax.compare(frame))


def test_the_bootstrap_interval_of_a_count_is_near_the_binomial_one() -> None:
    """No weight of B is near zero: the difference is minus a count of n = 1000, share 0.3."""
    weights = pd.DataFrame({"A": np.where(np.arange(1000) < 300, 0.0, 1.0), "B": 1.0})
    row = minmax.compare(weights).set_index("measure").loc["|w| < 0.05"]
    spread = 1.96 * math.sqrt(1000 * 0.3 * 0.7)
    assert [row["low"], row["high"]] == pytest.approx([-300 - spread, -300 + spread], abs=3)


def test_positions_count_where_the_order_holds_and_what_chance_gives() -> None:
    weights = pd.DataFrame({"A": np.zeros(20), "B": np.zeros(20), "C": np.zeros(20)})
    weights.loc[0] = [1, -2, 3]
    weights.loc[1] = [1, 3, -2]
    weights += 1e-9 * np.arange(20)[::-1, None]  # no ties
    rows = minmax.at_positions(weights).set_index("order")
    assert rows["positions"].tolist() == [2, 2, 2]
    assert rows["in_order"].to_dict() == {"A < B": 2, "B < C": 1, "A < B < C": 1}
    assert rows["chance"].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 6])
    assert [rows.loc["B < C", "low"], rows.loc["B < C", "high"]] == pytest.approx(
        [float(v) for v in wilson(1, 2)]
    )


def test_protection_compares_the_protected_class_of_neighbours_image_by_image() -> None:
    right = {"ADV": range(50), "CSA+L2": range(30), "CSA": range(28, 60)}
    rows = [
        {"run": method, "method": method, "attack": attack, "protected_class": 0, "p": p}
        | {"hits": np.isin(np.arange(100), of if p == 0 else ())}
        for method, of in right.items()
        for attack in ("clean", "PGD")
        for p in ((0, 1) if method == "ADV" else (0,))
    ]
    found = minmax.protection(pd.DataFrame(rows), ["ADV", "CSA+L2", "CSA"])
    assert found["attack"].tolist() == ["clean", "clean", "PGD", "PGD"]
    assert found["first"].tolist() == [0.5, 0.3] * 2 and found["second"].tolist() == [0.3, 0.32] * 2
    assert found["verdict"].tolist() == ["reversed", "unclear"] * 2
    # 20 images are ADV's alone, none CSA+L2's; 28 CSA+L2's alone, 30 CSA's: binomial, four tests
    tail = sum(math.comb(58, k) for k in range(29)) / 2**58
    assert found["p"].tolist() == pytest.approx([2 / 2**20, 2 * tail] * 2)
    assert found["holm"].tolist() == pytest.approx([8 / 2**20, 1] * 2)
    both = (np.isin(np.arange(100), right[name]) for name in ("ADV", "CSA+L2"))
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx(paired_difference(*both))
    assert found.loc[0, "low"] > difference(0.3, 100, 0.5, 100)[0]  # which takes them for others


def test_one_of_many_attacks_below_five_percent_proves_nothing() -> None:
    """6 to 0 has p = 2 / 2^6; of two tests, twice that."""
    frame = pd.DataFrame({"method": ["ADV", "CSA"], "attack": "PGD", "protected_class": 0, "p": 0})
    frame["hits"] = [np.arange(20) < 6, np.arange(20) < 12]
    alone = minmax.protection(frame, ["ADV", "CSA"])
    assert alone["verdict"].tolist() == ["holds"] and alone["holm"].tolist() == [2 / 2**6]
    two = minmax.protection(pd.concat([frame, frame.assign(attack="CW")]), ["ADV", "CSA"])
    assert two["holm"].tolist() == [4 / 2**6] * 2 and set(two["verdict"]) == {"unclear"}


def test_the_steepest_slope_of_a_term_of_eq_8_is_where_autograd_finds_it() -> None:
    w = torch.linspace(0, 10, 100_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(fuzziness([w]) * len(w), w)
    assert float(slope.abs().max()) == pytest.approx(minmax.STEEPEST, abs=1e-5)


def test_convergence_is_asked_of_the_same_accuracy() -> None:
    courses = {
        ("a", "STD"): [0.5, 0.9, 0.92], ("a", "CSE"): [0.5, 0.6, 0.8],
        ("b", "STD"): [0.1, 0.2, 0.7], ("b", "CSE"): [0.1, 0.9, 0.9],
    }  # fmt: skip
    parts = [
        pd.DataFrame({"epoch": [1, 2, 3], "accuracy": course, "test_accuracy": 0.5}).assign(
            dataset=dataset, method=method
        )
        for (dataset, method), course in courses.items()
    ]
    found = minmax.convergence(pd.concat(parts))
    assert list(found.index) == list(courses)
    assert list(found["epochs to the level"]) == [2, 3, 3, 2]
    assert list(found["level"]) == pytest.approx([0.792, 0.792, 0.693, 0.693])
    assert list(found["training accuracy"]) == [0.92, 0.8, 0.7, 0.9]


def layers(seeds: int, classes: int = 3) -> pd.DataFrame:
    """Measures of made-up networks, as `minmax.networks` returns them: STD knows no class."""
    random = np.random.default_rng(0)
    keys = [("STD", "0", seed) for seed in range(seeds)]
    keys += [(m, str(p), s) for m in ("CSA", "CSE") for p in range(classes) for s in range(seeds)]
    keys.remove(("CSE", "2", 0))
    index = pd.MultiIndex.from_tuples(keys, names=["method", "class", "seed"])
    made = pd.DataFrame(random.normal(size=(len(keys), 2)), index, columns=["few", "many"])
    made["many"] += 9.0 * (made.index.get_level_values("method") == "CSA")
    return made.sample(frac=1, random_state=0)


def test_over_trainings_pairs_networks_of_a_seed_and_class() -> None:
    made = layers(seeds=4)
    rows = minmax.over_trainings(made, ["STD", "CSA", "CSE"])
    of = {name: made.xs(name, level="method") for name in ("STD", "CSA", "CSE")}
    std, csa = (of[name].groupby("seed").mean() for name in ("STD", "CSA"))
    shared = of["CSA"].drop(("2", 0))  # CSE has no network of it
    pairs = {"STD < CSA": (std, csa)}
    pairs["CSA < CSE"] = (shared.groupby("seed").mean(), of["CSE"].groupby("seed").mean())
    assert rows["measure"].tolist() == ["few", "many"] * 2
    for claim, (first, second) in pairs.items():
        found = ttest_rel(second, first)
        part, ends = rows[rows["claim"] == claim], found.confidence_interval()
        np.testing.assert_allclose(part["p"], found.pvalue)
        np.testing.assert_allclose(part[["low", "high"]].T, [ends.low, ends.high])
        np.testing.assert_allclose(part["second"], second.mean())
        np.testing.assert_allclose(part["holm"], holm(found.pvalue))
    assert set(rows["trainings"]) == {4}
    assert rows["verdict"].tolist() == ["unclear", "holds", "unclear", "reversed"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_training_or_equal_differences_tell_nothing(seeds: int) -> None:
    keys = [(m, "0", seed) for m in ("STD", "CSA") for seed in range(seeds)]
    index = pd.MultiIndex.from_tuples(keys, names=["method", "class", "seed"])
    made = pd.DataFrame({"many": [0.0] * seeds + [50.0] * seeds}, index)
    (row,) = minmax.over_trainings(made, ["STD", "CSA"]).to_dict("records")
    assert (row["difference"], row["verdict"], row["p"]) == (50, "unclear", 1)
    assert math.isnan(row["low"]) and math.isnan(row["high"])


def test_networks_are_measured_by_method_class_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(6, 1, 5, 5)) for name in ("a", "b")}
    asked = {"a": ("CSA", [3, 5], 0), "b": ("STD", [0], 2)}

    def read_run(name: str) -> dict[str, object]:
        method, protected, seed = asked[name]
        return {"parameters": {"method": method, "seed": seed}, "protected": protected}

    monkeypatch.setattr(minmax, "read_run", read_run)
    monkeypatch.setattr(minmax, "read_weights", lambda name: {minmax.CONV1: weights[name]})
    found = minmax.networks(asked)
    assert list(found.index) == [("CSA", "3+5", 0), ("STD", "0", 2)]
    of_first = minmax.near_zero(np.abs(weights["a"].ravel()))
    assert found.loc[("CSA", "3+5", 0), list(of_first)].to_dict() == of_first
    assert minmax.networks([]).empty


def test_recall_goes_with_a_measure_among_the_networks_of_a_class() -> None:
    made, random = layers(seeds=4, classes=5), np.random.default_rng(1)
    clean = pd.DataFrame({"class": list("abcde"), "attack": "clean", "measure": "accuracy"})
    parts = [
        pd.concat([clean, clean.assign(attack="PGD")]).assign(
            run="-".join(map(str, key)), method=key[0], protected_class=key[1], seed=key[2],
            value=lambda rows: random.random(len(rows)),
        )
        for key in made.index
    ]  # fmt: skip
    scores = pd.concat(parts, ignore_index=True)
    found = minmax.with_recall(made, scores, ["STD", "CSA"]).set_index("measure")
    pgd = scores[scores["attack"] == "PGD"].set_index(
        ["method", "protected_class", "seed", "class"]
    )
    for measure, row in found.iterrows():
        each = []
        for p, name in enumerate("abcde"):
            keys = [("STD", "0", seed) for seed in range(4)]
            keys += [("CSA", str(p), seed) for seed in range(4)]
            recall = [pgd["value"][*key, name] for key in keys]
            each.append(spearmanr(recall, [made[measure][key] for key in keys])[0])
        test = ttest_1samp(each, 0)
        ends = test.confidence_interval()
        expected = [np.mean(each), *ends, test.pvalue]
        assert row[["correlation", "low", "high", "p"]].tolist() == pytest.approx(expected)
    assert set(found["classes"]) == {5}


def test_later_is_counted_against_the_network_of_the_same_seed() -> None:
    level = {"early": [0.9, 0.99, 0.99], "late": [0.5, 0.6, 0.99], "first": [0.99, 0.99, 0.99]}
    runs = [
        ("STD", 0, 0, "early"), ("STD", 0, 1, "late"),
        ("CSE", 4, 0, "late"), ("CSE", 4, 1, "first"), ("CSE", 7, 1, "late"),
    ]  # fmt: skip
    parts = [
        pd.DataFrame({"epoch": [1, 2, 3], "accuracy": level[course]}).assign(
            dataset="a", method=method, protected_class=p, seed=seed
        )
        for method, p, seed, course in runs
    ]
    found = minmax.later(pd.concat(parts), "STD", "CSE")
    assert found.loc[0, "4"] == 1 and found.loc[1].to_dict() == {"4": -2, "7": 0}
    assert math.isnan(found.loc[0, "7"])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_on_the_fuzziness_alone_stays_within_reach(momentum: float) -> None:
    w = torch.full((10,), 1.5, requires_grad=True)
    start, optimizer = w.detach().clone(), torch.optim.SGD([w], lr=0.1, momentum=momentum)
    for _ in range(200):
        optimizer.zero_grad()
        fuzziness([w]).backward()
        optimizer.step()
    moved, reach = (
        float((w.detach() - start).abs().max()),
        minmax.reach(10, 200 * 0.1, momentum=momentum),
    )
    assert 0.5 * reach < moved <= reach
