import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import dblquad
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest

from csnb.errors import InputError
from csnb.paper.theory import (
    SMALL_INPUT_P1,
    critical_p1,
    draw_models,
    example_inputs,
    gradient_bound,
    gradient_terms,
    inequality_11,
    large_input_p1,
    losses,
    one_input_gradients,
    proven_p1,
    worst,
)

X = np.array([0.7, -1.5])


def enumerated(x: np.ndarray, classes: int, p1: float) -> np.ndarray:
    """E dL_b/dx of label 0 over all 2^(m d) weights."""
    total = np.zeros(len(x))
    for bits in itertools.product((0, 1), repeat=classes * len(x)):
        w = np.reshape(bits, (classes, len(x)))
        total += p1 ** sum(bits) * (1 - p1) ** (len(bits) - sum(bits)) * (softmax(w @ x) @ w - w[0])
    return total


def integrated(x: float) -> float:
    """E dL_a/dx of label 0 for one input and two classes."""
    return dblquad(lambda v, u: (v - u) / (1 + math.exp(-(v - u) * x)), 0, 1, 0, 1)[0]


def two_classes(x: float) -> float:
    """The same by u = |w_1 - w_2| of density 2 (1 - u): integral of u (1 - u) tanh(u x / 2)."""
    u = (np.arange(100_000) + 0.5) / 100_000
    return float((u * (1 - u) * np.tanh(u * x / 2)).mean())


def test_models_have_the_distributions_of_the_text() -> None:
    a, b = draw_models(40_000, 2, 1, 0.2, seed=0)
    assert a.shape == b.shape == (40_000, 2, 1)
    assert a.mean() == pytest.approx(0.5, abs=0.005) and a.var() == pytest.approx(1 / 12, abs=0.002)
    assert set(np.unique(b)) == {0.0, 1.0} and b.mean() == pytest.approx(0.2, abs=0.006)


@pytest.mark.parametrize("p1", [-0.1, 1.5, math.nan])
def test_a_chance_outside_0_to_1_is_refused(p1: float) -> None:
    with pytest.raises(InputError, match=r"^p1: .* is not a probability; allowed: 0 to 1$"):
        draw_models(1, 2, 1, p1, seed=0)


def test_losses_by_hand_and_where_exponentials_overflow() -> None:
    w = np.array([[[1.0, 0], [0, 1]]])
    assert losses(w, np.array([math.log(3), 0]))[0] == pytest.approx([math.log(4 / 3), math.log(4)])
    assert losses(w, np.array([2000.0, 0]))[0] == pytest.approx([0, 2000])


def test_terms_have_the_expectation_of_the_losses_slopes_and_less_noise() -> None:
    w, step = draw_models(100_000, 3, 2, 0.3, seed=1)[0], 1e-6
    terms = gradient_terms(w, X)
    for i in range(2):
        move = step * np.eye(2)[i]
        slopes = (losses(w, X + move) - losses(w, X - move))[:, 0] / (2 * step)
        assert terms[:, i].mean() == pytest.approx(slopes.mean(), abs=0.004)
        assert terms[:, i].std() < slopes.std() / 2
    assert (np.sign(terms) == np.sign(X)).all()


@pytest.mark.parametrize("p1", [0.05, 0.5])
def test_expected_gradients_of_model_2_are_those_of_all_weights(p1: float) -> None:
    bound = gradient_bound(X, classes=3, p1=p1, draws=60_000, seed=0)
    assert bound["b"].to_numpy() == pytest.approx(enumerated(X, 3, p1), abs=0.004)
    assert (np.sign(bound["b"]) == np.sign(X)).all()


@pytest.mark.parametrize("x", [-8.0, 0.3, 3.0])
def test_one_input_and_two_classes_against_quadrature_and_enumeration(x: float) -> None:
    a, b = one_input_gradients(x, 2, np.array([0.1, 0.4]))
    assert a == pytest.approx(integrated(x), abs=1e-8) == pytest.approx(two_classes(x), abs=1e-8)
    assert b == pytest.approx([enumerated(np.array([x]), 2, p1)[0] for p1 in (0.1, 0.4)], abs=1e-12)
    assert b == pytest.approx([p1 * (1 - p1) * math.tanh(x / 2) for p1 in (0.1, 0.4)], abs=1e-12)


@pytest.mark.parametrize(("x", "classes"), [(2.0, 10), (-5.0, 4), (40.0, 3)])
def test_one_input_and_more_classes_against_monte_carlo(x: float, classes: int) -> None:
    a, b = one_input_gradients(x, classes, np.array([0.2]))
    bound = gradient_bound(np.array([x]), classes=classes, p1=0.2, draws=60_000, seed=2)
    assert [a, b[0]] == pytest.approx([bound["a"][0], bound["b"][0]], abs=0.004)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_one_input_at_its_limits(classes: int) -> None:
    p1 = np.array([0.05])
    a, b = one_input_gradients(0.01, classes, p1)  # (1 - 1/m) Var(w) x
    assert [a, b[0]] == pytest.approx(
        [(1 - 1 / classes) * v * 0.01 for v in (1 / 12, 0.05 * 0.95)], rel=0.02
    )
    a, b = one_input_gradients(300.0, classes, p1)  # the largest weight takes it all
    assert a == pytest.approx(classes / (classes + 1) - 0.5, abs=0.005)
    assert b[0] == pytest.approx(1 - 0.95**classes - 0.05, abs=1e-9)


def test_critical_p1_where_it_is_known() -> None:
    assert abs(SMALL_INPUT_P1 * (1 - SMALL_INPUT_P1) - 1 / 12) < 1e-15
    assert critical_p1(0.005, 10) == pytest.approx(SMALL_INPUT_P1, rel=0.01)
    assert critical_p1(300, 2) == pytest.approx(
        (1 - math.sqrt(1 / 3)) / 2, rel=0.01
    )  # p1 (1 - p1) = 1/6
    crossing = critical_p1(300, 100)
    assert 1 - (1 - crossing) ** 100 - crossing == pytest.approx(100 / 101 - 0.5, rel=0.02)


def test_large_inputs_need_a_p1_that_is_small_against_the_number_of_classes() -> None:
    assert large_input_p1(2) == pytest.approx((1 - math.sqrt(1 / 3)) / 2)
    for classes in (3, 10, 100):
        assert critical_p1(300, classes) == pytest.approx(large_input_p1(classes), rel=0.03)
    assert 10**5 * large_input_p1(10**5) == pytest.approx(math.log(2), rel=1e-4)


def test_two_classes_and_one_input_have_one_p1_for_every_input() -> None:
    for x in (-200, -3, -0.1, 0.1, 1, 5, 30, 200):
        a, b = one_input_gradients(x, 2, np.array([SMALL_INPUT_P1, SMALL_INPUT_P1 / 3]))
        assert (np.abs(b) <= abs(a)).all()


@pytest.mark.parametrize("classes", [3, 10])
def test_at_the_limit_of_small_inputs_the_skewness_decides(classes: int) -> None:
    skewness = SMALL_INPUT_P1 * (1 - SMALL_INPUT_P1) * (1 - 2 * SMALL_INPUT_P1)
    for x in (0.02, -0.02):
        a, b = one_input_gradients(x, classes, np.array([SMALL_INPUT_P1]))
        next_term = (1 - 1 / classes) * (1 - 2 / classes) * skewness * x**2 / 2
        assert b[0] - a == pytest.approx(next_term, rel=0.05)


def test_two_inputs_break_the_bound_at_any_p1() -> None:
    for p1, t in ((0.001, 3e4), (0.5, 1e3), (0.999, 3e4)):
        bound = gradient_bound(np.array([t, 0.1]), classes=2, p1=p1, draws=40_000, seed=0)
        assert bound["verdict"][1] == "fails"


def test_the_proven_p1_and_the_two_bounds_that_it_is_made_of() -> None:
    assert proven_p1(np.zeros(3)) == pytest.approx(SMALL_INPUT_P1)
    assert proven_p1(np.array([500.0])) == 0.0  # underflow, not an error
    for x in (np.array([0.2, -0.1]), np.array([0.5, 0.5]), np.array([-1.0, 0.3])):
        size, p1 = np.abs(x).sum(), proven_p1(x)
        assert p1 * (1 - p1) == pytest.approx(math.exp(-4 * size) / 12)
        for chance in (p1, 0.3):
            scale = (1 - 1 / 3) * chance * (1 - chance) * np.abs(x)
            gradient = np.abs(enumerated(x, 3, chance))
            assert (math.exp(-2 * size) * scale < gradient).all()
            assert (gradient < math.exp(2 * size) * scale).all()
        bound = gradient_bound(x, classes=3, p1=p1, draws=20_000, seed=0)
        assert set(bound["verdict"]) == {"holds"}
        assert (bound["a"].abs() > math.exp(-2 * size) * (1 - 1 / 3) / 12 * np.abs(x)).all()
    for classes, x in itertools.product((2, 5, 50), (-2, -0.1, 0.1, 2)):
        critical = critical_p1(x, classes)
        assert math.isnan(critical) or critical > proven_p1(np.array([x]))


QUANTILES = {1: 1.959964, 3: 2.393980}  # of the normal distribution, at 1 - 0.025 / tests


@pytest.mark.parametrize("tests", QUANTILES)
def test_intervals_of_the_margin_by_hand(tests: int) -> None:
    x = X3[:tests]
    bound = gradient_bound(x, classes=3, p1=0.2, draws=500, seed=3)
    first, second = (gradient_terms(w, x) for w in draw_models(500, 3, tests, 0.2, seed=3))
    margins = np.abs(first) - np.abs(second)
    half = QUANTILES[tests] * np.sqrt(((margins - margins.mean(0)) ** 2).sum(0) / 499 / 500)
    assert bound["margin"].to_numpy() == pytest.approx(margins.mean(0))
    assert (bound["high"] - bound["margin"]).to_numpy() == pytest.approx(half, rel=1e-5)
    assert (bound["margin"] - bound["low"]).to_numpy() == pytest.approx(half, rel=1e-5)


X3 = np.array([1.0, -0.8, 1.3])


@pytest.mark.parametrize("inputs", [1, 3])
def test_intervals_hold_all_margins_together_as_often_as_they_say(inputs: int) -> None:
    given = {"x": X3[:inputs], "classes": 3, "p1": 0.2}
    truth = gradient_bound(**given, draws=300_000, seed=12_345)["margin"]
    bounds = (gradient_bound(**given, draws=150, seed=seed) for seed in range(1200))
    held = sum(bool(((b["low"] <= truth) & (truth <= b["high"])).all()) for b in bounds)
    found = binomtest(held, 1200).proportion_ci(0.999)
    assert found.low < 0.95 < found.high


def test_the_bound_holds_for_small_inputs_just_below_the_critical_p1_and_not_above() -> None:
    x = np.array([0.05])
    below, above = (
        gradient_bound(x, classes=10, p1=p1, draws=40_000, seed=0) for p1 in (0.07, 0.12)
    )
    assert (below["verdict"][0], above["verdict"][0]) == ("holds", "fails")


def test_a_large_input_breaks_the_bound_of_a_small_one_at_a_small_p1() -> None:
    bound = gradient_bound(np.array([1000.0, 0.1]), classes=10, p1=0.01, draws=40_000, seed=0)
    assert bound["verdict"].tolist() == ["holds", "fails"]
    assert worst(bound)["x"] == 0.1 and worst(bound)["ratio"] > 1


def test_nothing_moves_where_there_is_no_input() -> None:
    bound = gradient_bound(np.zeros(2), classes=3, p1=0.3, draws=50, seed=0)
    assert (bound[["margin", "low", "high"]] == 0).all(axis=None) and set(bound["verdict"]) == {
        "holds"
    }
    assert worst(bound)["ratio"] == 0


def expected_loss(x: float, p1: float) -> float:
    """E L_b of one input and three classes over all weights."""
    values = {
        bits: logsumexp(np.array(bits) * x) - bits[0] * x
        for bits in itertools.product((0, 1), repeat=3)
    }
    return sum(
        p1 ** sum(bits) * (1 - p1) ** (3 - sum(bits)) * value for bits, value in values.items()
    )


def test_inequality_11_reads_as_the_losses_say() -> None:
    x = np.array([4.0])
    read = inequality_11(x, -2 * x, classes=3, p1=0.1, draws=100_000, seed=0)
    gap = abs(
        expected_loss(4, 0.1) - expected_loss(-4, 0.1)
    )  # Model#1 is symmetric: its own expected change is 0
    assert read["expected"] == pytest.approx(-gap, abs=0.01) and read["expected_high"] < 0
    assert read["broken_low"] < read["broken"] < read["broken_high"]


def moments(x: float, step: float, p1: float) -> tuple[float, float]:
    """|E change| and E |change| of L_b, three classes, one input, label 0, over all weights."""
    bits = np.array(list(itertools.product((0, 1), repeat=3)), dtype=float)
    chance = np.where(bits == 1, p1, 1 - p1).prod(1)
    at, after = (logsumexp(bits * v, axis=1) - bits[:, 0] * v for v in (x, x + step))
    return abs(chance @ (at - after)), chance @ np.abs(at - after)


def uniform_moments(x: float, step: float) -> tuple[float, float]:
    """The same of L_a, by a grid of the midpoints of 60^3 cubes."""
    grid = (np.arange(60) + 0.5) / 60
    w = np.stack(np.meshgrid(grid, grid, grid), -1).reshape(-1, 3)
    change = [logsumexp(w * v, axis=1) - w[:, 0] * v for v in (x, x + step)]
    change = change[0] - change[1]
    return abs(change.mean()), np.abs(change).mean()


def test_inequality_11_tells_the_mean_s_size_from_the_mean_size() -> None:
    read = inequality_11(np.array([0.5]), np.array([2.0]), classes=3, p1=0.1, draws=60_000, seed=0)
    for k, name in enumerate(("expected", "size")):
        truth = uniform_moments(0.5, 2.0)[k] - moments(0.5, 2.0, 0.1)[k]
        assert read[name] == pytest.approx(truth, abs=0.006)
    assert abs(read["size"] - read["expected"]) > 0.05


def test_intervals_of_inequality_11_cover_as_often_as_they_say() -> None:
    given = {"x": np.array([0.5]), "delta": np.array([2.0]), "classes": 3, "p1": 0.1, "draws": 200}
    reads = pd.DataFrame([inequality_11(**given, seed=seed) for seed in range(1200)])
    for k, name in enumerate(("expected", "size")):
        truth = uniform_moments(0.5, 2.0)[k] - moments(0.5, 2.0, 0.1)[k]
        held = ((reads[f"{name}_low"] <= truth) & (truth <= reads[f"{name}_high"])).sum()
        found = binomtest(held, 1200).proportion_ci(0.999)
        assert found.low < 0.95 < found.high


def test_broken_is_the_share_of_independent_draws_of_both_models() -> None:
    """With the same random numbers in both models it would be 0.26 instead of 0.24."""
    x, step = np.array([0.5]), np.array([2.0])
    read = inequality_11(x, step, classes=3, p1=0.1, draws=40_000, seed=0)
    pairs = [draw_models(40_000, 3, 1, 0.1, seed)[k] for k, seed in enumerate((7, 8))]
    a, b = (np.abs(losses(w, x) - losses(w, x + step))[:, 0] for w in pairs)
    assert read["broken"] == pytest.approx((b > a).mean(), abs=0.008)


def test_the_mirror_moves_expected_losses_by_the_weights_skewness() -> None:
    p1 = 0.1
    for x in (0.1, -0.1):
        change = expected_loss(x, p1) - expected_loss(-x, p1)
        skewness = p1 * (1 - p1) * (1 - 2 * p1)
        assert change == pytest.approx((1 - 1 / 3) * (1 - 2 / 3) * skewness * x**3 / 3, rel=0.01)
    given = {"classes": 3, "p1": p1, "draws": 60_000, "seed": 0}
    own = inequality_11(np.array([3.0, -3.0]), np.array([-6.0, 6.0]), **given)
    one_sign = inequality_11(np.array([3.0, 3.0]), np.array([-6.0, -6.0]), **given)
    assert own["expected_high"] > -0.02 and one_sign["expected_high"] < -0.05


def test_inequality_11_without_a_change_is_not_broken() -> None:
    read = inequality_11(X, np.zeros(2), classes=3, p1=0.1, draws=100, seed=0)
    assert read["broken"] == read["expected"] == read["size"] == 0


def test_example_inputs_are_of_the_size_asked_for() -> None:
    examples = example_inputs(5, seed=0)
    assert {x.shape for x in examples.values()} == {(5,)}
    assert (
        not examples["zero"].any()
        and (examples["in [0, 1]"] > 0).all()
        and (examples["in [-1, 0]"] < 0).all()
    )
