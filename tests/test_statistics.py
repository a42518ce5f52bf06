"""Intervals against scipy and published examples."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t, ttest_1samp

from csnb.statistics import (
    average,
    difference,
    half_width,
    holm,
    mcnemar,
    mean_is_zero,
    of_repeats,
    paired_difference,
    weighted_sum,
    wilson,
)


def interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    found = binomtest(correct, total).proportion_ci(level, method="wilson")
    return found.low, found.high


@pytest.mark.parametrize("level", [0.5, 0.99, 0.9999])
def test_wilson_has_the_level_that_is_asked_for(level: float) -> None:
    np.testing.assert_allclose(wilson(7, 90, level), interval(7, 90, level), rtol=1e-12)


def test_the_interval_of_trainings_alone_is_students() -> None:
    each = np.array([0.71, 0.78, 0.69, 0.80])
    low, high = ttest_1samp(each, 0).confidence_interval(0.9)
    half = half_width([0.0], each[:, None], 0.9)
    np.testing.assert_allclose([each.mean() - half[0], each.mean() + half[0]], [low, high])


def test_images_and_trainings_add_up_with_satterthwaites_degrees_of_freedom() -> None:
    # of the trainings .02 ** 2 / 2 = .0002, of the images .0003; one degree times (5 / 2) ** 2
    half = half_width([0.0003], [[0.5], [0.5 + 0.02 * np.sqrt(2)]], 0.95)
    np.testing.assert_allclose(half, t.ppf(0.975, 6.25) * np.sqrt(0.0005))


def test_each_column_has_the_interval_of_its_own_trainings() -> None:
    each = np.array([[0.71, 0.2], [0.78, 0.9], [0.69, 0.4]])
    together = half_width([0.001, 0.002], each)
    alone = [half_width([v], each[:, [k]])[0] for k, v in enumerate((0.001, 0.002))]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_where_trainings_agree_or_there_is_one_images_alone_count() -> None:
    for each in ([[0.4]], [[0.4], [0.4]]):
        np.testing.assert_allclose(half_width([0.01], each, 0.99), 0.1 * norm.ppf(0.995))
    assert half_width([0.0], [[1.0], [1.0]]) == 0


def test_wilson_is_scipys_interval_from_none_to_all() -> None:
    totals = (1, 2, 3, 10, 97, 1000)
    pairs = [(k, n) for n in totals for k in sorted({0, 1, n // 3, n // 2, n - 1, n})]
    expected = np.array([interval(k, n) for k, n in pairs])
    correct, total = np.array(pairs).T
    found = np.stack(wilson(correct, total), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    singly = [wilson(k, n) for k, n in pairs]
    np.testing.assert_allclose(singly, expected, rtol=1e-12, atol=1e-12)


def test_counts_that_are_bytes_are_taken_as_numbers() -> None:
    # of bytes, 20^2 is 144
    correct, total = np.array([3, 19], np.uint8), np.array([20, 20], np.uint8)
    expected = np.array([interval(3, 20), interval(19, 20)])
    np.testing.assert_allclose(np.stack(wilson(correct, total), 1), expected, rtol=1e-12)
    shares, numbers = [0.15, 0.95], [20, 20]
    assert average(shares, total) == average(shares, numbers)
    assert weighted_sum([10], correct[:1], total[0]) == weighted_sum([10], [3], 20)


def test_wilson_stays_in_zero_to_one_around_the_share() -> None:
    total = np.repeat(np.arange(1, 60), 60)
    correct = np.minimum(np.tile(np.arange(60), 59), total)
    low, high = wilson(correct, total)
    share = correct / total
    assert (low >= 0).all() and (low <= share).all()
    assert (share <= high).all() and (high <= 1).all()


def test_interval_of_a_difference_is_newcombes() -> None:
    # Statistics in Medicine 17 (1998) 873-890, Table II, method 10: examples (a), (b), (d) and (h)
    shares, sizes = [56 / 70, 9 / 10, 5 / 56, 10 / 10], [70, 10, 56, 10]
    others, other_sizes = [48 / 80, 3 / 10, 0 / 29, 0 / 10], [80, 10, 29, 10]
    low, high = difference(shares, sizes, others, other_sizes)
    np.testing.assert_allclose(low, [0.0524, 0.1705, -0.0381, 0.6075], atol=5e-5)
    np.testing.assert_allclose(high, [0.3339, 0.8090, 0.1926, 1.0000], atol=5e-5)


def test_shares_that_are_bytes_are_subtracted_as_numbers() -> None:
    # example (h) the other way round; of bytes 0 - 1 is 255
    none, all_of_them, n = (np.array([value], np.uint8) for value in (0, 1, 10))
    low, high = difference(none, n, all_of_them, n)
    np.testing.assert_allclose([*low, *high], [-1, -0.6075], atol=5e-5)


def pairs(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Images by who is right: both, the second alone, the first alone, none."""
    return np.repeat([1, 0, 1, 0], counts), np.repeat([1, 1, 0, 0], counts)


def test_interval_of_a_paired_difference_is_newcombes() -> None:
    """As Fagerland, Lydersen and Laake (2017) give it for Bentur et al., Cavo et al., chapter 8."""
    bentur = paired_difference(*pairs(1, 1, 7, 12))
    assert bentur == pytest.approx([-0.507, -0.026], abs=5e-4)
    cavo = paired_difference(*pairs(59, 6, 16, 80))
    assert cavo == pytest.approx([-0.1186, -0.0046], abs=5e-5)
    swapped = paired_difference(*pairs(59, 16, 6, 80))
    assert swapped == pytest.approx([0.0046, 0.1186], abs=5e-5)


def test_images_that_do_not_go_together_have_the_interval_of_independent_ones() -> None:
    # 20 * 2 = 10 * 4; of 1 and 20 the other way, too little to count
    for counts in ((20, 10, 4, 2), (21, 10, 4, 2)):
        first, second = pairs(*counts)
        independent = difference(second.mean(), second.size, first.mean(), first.size)
        assert paired_difference(first, second) == pytest.approx([float(v) for v in independent])
    all_right = np.ones(20)
    low, high = paired_difference(all_right, all_right)
    assert -low == high == pytest.approx(1 - interval(20, 20)[0])


def test_where_two_answers_exclude_each_other_their_intervals_add_up() -> None:
    first = np.arange(40) < 20
    width = interval(20, 40)[1] - 0.5
    assert paired_difference(first, ~first) == pytest.approx([-2 * width, 2 * width])
    # of two images: 2 * 1 - 1 * 1 that go together, less n / 2, are none
    width = np.sqrt(2) * (interval(1, 2)[1] - 0.5)
    assert paired_difference([1, 0], [1, 0]) == pytest.approx([-width, width])


def test_an_answer_that_is_always_wrong_goes_together_with_none() -> None:
    first, second = np.zeros(10), np.arange(10) < 5
    independent = difference(0.5, 10, 0.0, 10)
    assert paired_difference(first, second) == pytest.approx([float(v) for v in independent])


@pytest.mark.parametrize("together", [0.0, 0.6, 0.9])
def test_the_interval_of_a_paired_difference_covers(together: float) -> None:
    """Both nets are right on an easy image, which most are; the shorter, the more goes together."""
    rng = np.random.default_rng(2)

    def draw() -> tuple[float, tuple[float, float]]:
        easy, both = rng.random(200) < 0.7, rng.random(200) < together
        first, second = (np.where(both, easy, rng.random(200) < share) for share in (0.6, 0.75))
        return (1 - together) * 0.15, paired_difference(first, second)

    assert 0.93 < coverage(2000, draw) < 0.98


def test_mcnemar_is_the_binomial_test_of_the_images_that_differ() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 5, 40, 1000):
        for share in (0.5, 0.9, 1.0):
            first, second = rng.random(n) < share, rng.random(n) < 0.6
            one, other = int((first & ~second).sum()), int((second & ~first).sum())
            expected = binomtest(one, one + other).pvalue if one + other else 1.0
            assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
            assert mcnemar(second, first) == mcnemar(first, second)


def test_mcnemar_of_ten_against_two() -> None:
    # 2 (1 + 12 + 66) / 2^12
    first, second = np.arange(20) < 10, np.arange(20) >= 18
    assert mcnemar(first, second) == pytest.approx(2 * 79 / 4096, rel=1e-12)
    numbers = first.astype(float), second.astype(float)  # as a table of 0 and 1 gives them
    assert mcnemar(*numbers) == pytest.approx(2 * 79 / 4096, rel=1e-12)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; never less than one before
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.6, 0.8]), [1, 1, 1])  # 1.8, and never more than 1
    assert holm([]).size == 0 and holm([0.03]).tolist() == [0.03]


def coverage(cases: int, draw: Callable[[], tuple[float, tuple[float, float]]]) -> float:
    """In how many cases the interval holds the true value."""
    found = [low <= true <= high for true, (low, high) in (draw() for _ in range(cases))]
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("shares", "totals", "most"),
    [
        ([0.99] * 10, [61] * 10, 0.97),  # MOVER covers .87 here
        ([0.5] * 10, [100] * 10, 0.97),
        ([0.97, 0.97], [20, 500], 0.98),
        ([0.5, 0.99], [10, 1000], 0.97),  # .89 if the shares are taken for equal
        ([0.9, 0.99, 0.8], [980, 1135, 892], 0.98),
        ([0.02, 0.1, 0.6], [30, 60, 90], 1),  # shares that differ: on the safe side
    ],
)
def test_the_interval_of_an_average_covers(
    shares: list[float], totals: list[int], most: float
) -> None:
    rng = np.random.default_rng(1)

    def draw() -> tuple[float, tuple[float, float]]:
        return float(np.mean(shares)), average(rng.binomial(totals, shares) / totals, totals)

    assert 0.93 < coverage(4000, draw) < most


@pytest.mark.parametrize("n", [61, 1000])
@pytest.mark.parametrize(
    ("weights", "chances"),
    [
        ([10], [0.01]),  # +-1.96 standard errors cover .46 here
        ([1, 10], [0.2, 0.01]),
        ([1, 10], [0.01, 0.3]),
        ([1, 2, 5, 10], [0.1, 0.1, 0.02, 0.02]),
    ],
)
def test_the_interval_of_a_weighted_sum_covers(
    weights: list[float], chances: list[float], n: int
) -> None:
    rng, true = np.random.default_rng(2), float(np.dot(weights, chances))

    def draw() -> tuple[float, tuple[float, float]]:
        counts = rng.multinomial(n, [*chances, 1 - sum(chances)])[:-1]
        return true, weighted_sum(weights, counts, n)

    assert 0.93 < coverage(3000, draw) < 0.99


def test_a_weighted_sum_of_one_kind_is_wilsons_interval() -> None:
    for k, n in ((0, 10), (3, 10), (97, 97)):
        np.testing.assert_allclose(weighted_sum([10], [k], n), 10 * np.array(interval(k, n)))


def test_a_mean_over_trainings_is_tested_as_others_test_it() -> None:
    draw = np.random.default_rng(0)
    each = draw.normal(0.5, 1, (5, 40))
    expected = ttest_1samp(each, 0).pvalue  # without error of images: Student's own test
    assert mean_is_zero(np.zeros(40), each) == pytest.approx(expected)
    one = mean_is_zero([0.25], [[0.9]])  # of one training: the normal of the images
    assert one == pytest.approx(2 * norm.sf(0.9 / 0.5))
    assert mean_is_zero([0.0, 0.0], [[0.0, 0.125]] * 3).tolist() == [1, 0]
    variance = draw.uniform(0.01, 0.1, 40)
    half = half_width(variance, each)
    inside = np.abs(each.mean(0)) < half
    assert 0 < inside.sum() < 40
    assert ((mean_is_zero(variance, each) > 0.05) == inside).all()


def test_repeats_have_student_s_interval_and_tell_nothing_where_they_do_not_vary() -> None:
    each = np.random.default_rng(0).normal(0.3, size=(5, 3))
    each[:, 2] = 0.25
    mean, low, high, p = of_repeats(each)
    test = ttest_1samp(each[:, :2], 0)
    ends = test.confidence_interval()
    np.testing.assert_allclose([low[:2], high[:2], p[:2]], [ends.low, ends.high, test.pvalue])
    np.testing.assert_allclose(mean, each.mean(0))
    assert np.isnan([low[2], high[2]]).all() and p[2] == 1
    assert np.isnan(of_repeats(each[:1])[1]).all() and (of_repeats(each[:1])[3] == 1).all()
