"""Intervals against scipy and published examples."""

import numpy as np
from scipy.stats import binomtest, norm

from csnb.statistics import Z95, difference, wilson


def interval(correct: int, total: int) -> tuple[float, float]:
    found = binomtest(correct, total).proportion_ci(method="wilson")
    return found.low, found.high


def test_z95_is_the_normal_quantile() -> None:
    assert norm.ppf(0.975) == Z95


def test_wilson_is_scipys_interval_from_none_to_all() -> None:
    totals = (1, 2, 3, 10, 97, 1000)
    pairs = [(k, n) for n in totals for k in sorted({0, 1, n // 3, n // 2, n - 1, n})]
    expected = np.array([interval(k, n) for k, n in pairs])
    correct, total = np.array(pairs).T
    found = np.stack(wilson(correct, total), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    singly = [wilson(k, n) for k, n in pairs]
    np.testing.assert_allclose(singly, expected, rtol=1e-12, atol=1e-12)


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
