"""Intervals of shares and of their differences, at 95 %."""

import numpy as np
from numpy.typing import ArrayLike

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(correct: ArrayLike, total: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """95 % score interval of ``correct`` out of ``total`` > 0, elementwise (Wilson 1927)."""
    n = np.asarray(total, dtype=float)
    share = np.asarray(correct) / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


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
