"""Intervals of shares, of their means and differences, and paired tests."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, ndtri, stdtr, stdtrit


def wilson(
    correct: ArrayLike, total: ArrayLike, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of ``correct`` out of ``total`` > 0, elementwise (Wilson 1927)."""
    n, z = np.asarray(total, dtype=float), ndtri((1 + level) / 2)
    share = np.asarray(correct) / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


def half_width(variance: ArrayLike, each: ArrayLike, level: float = 0.95) -> np.ndarray:
    """Half of the interval of a mean over trainings that were measured on the same images. (K,).

    ``variance``: of the mean, from drawing other images. ``each``: its value in each training,
    (S, K). Both variances are added and taken for Student's t with Satterthwaite's degrees of
    freedom (Biometrics Bulletin 2, 1946). The images' part of the trainings' variance counts twice,
    which is on the safe side. Of one training, images alone are drawn.
    """
    error, freedom = _spread(variance, each)
    return stdtrit(freedom, (1 + level) / 2) * error


def mean_is_zero(variance: ArrayLike, each: ArrayLike) -> np.ndarray:
    """Two-sided p of "the mean over trainings is 0", of the same t as `half_width`. (K,).

    1 where the mean is 0 and nothing varies.
    """
    error, freedom = _spread(variance, each)
    mean = np.asarray(each, dtype=float).mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, np.abs(mean) / error)
    return 2 * stdtr(freedom, -t)


def of_repeats(each: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean of independent repeats, (S, K), its 95 % interval and p of "it is 0" (Student's). (K,).

    Where they are all the same, or one: what they vary by is not known; no ends, and p is 1.
    """
    each = np.asarray(each, dtype=float)
    mean, nothing, varies = each.mean(0), np.zeros(each.shape[1]), each.var(0) > 0
    half = np.where(varies, half_width(nothing, each), np.nan)
    return mean, mean - half, mean + half, np.where(varies, mean_is_zero(nothing, each), 1.0)


def _spread(variance: ArrayLike, each: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Standard error of the mean and degrees of freedom; those of the normal of one training."""
    variance, each = np.asarray(variance, dtype=float), np.asarray(each, dtype=float)
    trainings = len(each)
    if trainings == 1:
        return np.sqrt(variance), np.full(variance.shape, np.inf)
    of_trainings = each.var(0, ddof=1) / trainings
    total = variance + of_trainings
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(of_trainings > 0, total / of_trainings, np.inf)
        freedom = (trainings - 1) * ratio**2
    return np.sqrt(total), freedom


def difference(
    share: ArrayLike, n: ArrayLike, other: ArrayLike, other_n: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of ``share - other``, of ``n`` and ``other_n`` independent images each.

    Newcombe's, made of the two Wilson intervals (Statistics in Medicine 17, 1998, method 10).
    """
    share, n, other, other_n = (np.asarray(v, dtype=float) for v in (share, n, other, other_n))
    low, high = wilson(share * n, n)
    other_low, other_high = wilson(other * other_n, other_n)
    gap = share - other
    below, above = (
        np.hypot(share - low, other_high - other),
        np.hypot(high - share, other - other_low),
    )
    return gap - below, gap + above


def paired_difference(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """95 % interval of the share of ``second`` that is right less that of ``first``, same images.

    ``first`` and ``second``: (N,) bool, N > 0. Newcombe's, of the two Wilson intervals and of how
    the two go together (Statistics in Medicine 17, 1998, 2635-2650, method 10).
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    n, hits, other = len(first), int(first.sum()), int(second.sum())
    # of the 2 x 2 table: determinant n |both| - |first| |second|, towards 0 by n / 2 where above
    together = float(n * (first & second).sum() - hits * other)
    together = max(together - n / 2, 0.0) if together > 0 else together
    spread = np.sqrt(float(hits * (n - hits)) * (other * (n - other)))
    phi = together / spread if spread else 0.0
    low, high = correlated_difference(other / n, hits / n, n, phi)
    return float(low), float(high)


def correlated_difference(
    share: ArrayLike, other: ArrayLike, n: int, phi: ArrayLike, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of ``share - other`` of the same ``n`` images, which go together by ``phi``.

    Newcombe's, of the two Wilson intervals (as `paired_difference`). ``phi``: correlation, in
    [-1, 1].
    """
    share, other, phi = (np.asarray(v, dtype=float) for v in (share, other, phi))
    low, high = wilson(share * n, n, level)
    other_low, other_high = wilson(other * n, n, level)
    gap = share - other

    def length(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(one**2 + two**2 - 2 * phi * one * two, 0))

    below, above = length(share - low, other_high - other), length(high - share, other - other_low)
    return gap - below, gap + above


def average(shares: ArrayLike, totals: ArrayLike) -> tuple[float, float]:
    """95 % interval of the plain mean of shares, of ``totals`` > 0 independent images each.

    Wilson's, with as many images as give the mean's variance if all shares are equal,
    m^2 / sum(1 / n_i), or fewer where theirs is larger: of few images of a share near one half,
    say. Shares that differ, of as many images each, have less: it is then on the safe side.
    """
    shares, totals = np.asarray(shares, dtype=float), np.asarray(totals, dtype=float)
    mean, m = shares.mean(), len(totals)
    n, own = m**2 / (1 / totals).sum(), (shares * (1 - shares) / totals).sum() / m**2
    if own * n > mean * (1 - mean) * (1 + 1e-9):  # and not by a rounding
        n = mean * (1 - mean) / own
    low, high = wilson(mean * n, n)
    return float(low), float(high)


def weighted_sum(weights: ArrayLike, counts: ArrayLike, total: int) -> tuple[float, float]:
    """95 % interval of sum_k weights_k share_k, where ``counts`` of ``total`` images are of kind k.

    MOVER of the Wilson intervals (Zou and Donner, Statistics in Medicine 27, 2008); shares of one
    total hinder each other, so that taking them for independent is on the safe side. ``weights``
    >= 0. Of one kind it is Wilson's interval times its weight.
    """
    weights, counts = np.asarray(weights, dtype=float), np.asarray(counts, dtype=float)
    low, high = wilson(counts, total)
    share = counts / total
    value = float(weights @ share)
    below = np.hypot.reduce(weights * (share - low))
    above = np.hypot.reduce(weights * (high - share))
    return max(value - float(below), 0.0), value + float(above)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p of "both are right equally often", on the same images: McNemar's exact test.

    ``first`` and ``second``: (N,) bool, which images each gets right.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    one, other = int((first & ~second).sum()), int((~first & second).sum())
    return float(min(1.0, 2 * bdtr(min(one, other), one + other, 0.5)))


def holm(p: ArrayLike) -> np.ndarray:
    """p values (k,) of k tests, adjusted for the family (Holm 1979)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted
