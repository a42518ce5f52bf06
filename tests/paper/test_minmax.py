"""The statistics of section III-C against hand counts, closed forms and a simulated training."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from csnb.losses import fuzziness
from csnb.paper import minmax
from csnb.statistics import difference, wilson


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


def test_protection_compares_the_protected_class_of_neighbouring_methods() -> None:
    common = {"measure": "accuracy", "protected_class": 0, "total": 100}
    rows = [
        common | {"run": method, "method": method, "attack": attack, "class": name, "value": value}
        for method, value in {"ADV": 0.5, "CSA+L2": 0.2, "CSA": 0.55}.items()
        for attack in ("clean", "PGD")
        for name in (["cat", "dog"] if method == "ADV" or attack == "clean" else ["cat"])
    ]
    alarms = {"measure": "false_alarms", "attack": "clean", "class": "cat", "value": 0}
    rows += [common | alarms | {"run": "CSA", "method": "CSA"}]
    found = minmax.protection(pd.DataFrame(rows), ["ADV", "CSA+L2", "CSA"])
    assert found["attack"].tolist() == ["clean", "clean", "PGD", "PGD"]
    assert found["verdict"].tolist() == ["reversed", "holds"] * 2
    by_hand = [float(v) for v in difference(0.55, 100, 0.2, 100)]
    assert found.loc[1, ["low", "high"]].tolist() == pytest.approx(by_hand)


def test_the_steepest_slope_of_a_term_of_eq_8_is_where_autograd_finds_it() -> None:
    w = torch.linspace(0, 10, 100_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(fuzziness([w]) * len(w), w)
    assert float(slope.abs().max()) == pytest.approx(minmax.STEEPEST, abs=1e-5)


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
