"""Cost matrices.

Everywhere in csnb: row = predicted class, column = true class, as in section II-C.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.errors import InputError, one_line


def protect(classes: int, protected: int | Sequence[int], cost: float = 10.0) -> np.ndarray:
    """Eq. 3, (m, m) float64.

    ``cost`` where a protected class is predicted or true, else 1; 0 on the diagonal.
    """
    unknown = [p for p in np.atleast_1d(protected).tolist() if not 0 <= p < classes]
    if unknown:
        raise InputError(
            f"protected class: {unknown[0]} does not exist; allowed: 0 to {classes - 1}"
        )
    costs = np.ones((classes, classes))
    costs[protected, :] = cost
    costs[:, protected] = cost
    np.fill_diagonal(costs, 0)
    return check_costs(costs, classes)


def costs_from_pairs(
    classes: int, pairs: Mapping[tuple[int, int], float], *, default: float = 1.0
) -> np.ndarray:
    """A cost matrix from ``{(predicted, true): cost}``, (m, m) float64.

    ``default``: for every other mistake.
    """
    costs = np.full((classes, classes), default, dtype=float)
    np.fill_diagonal(costs, 0)
    for (predicted, true), cost in pairs.items():
        if not (0 <= predicted < classes and 0 <= true < classes):
            raise InputError(
                f"cost of {(predicted, true)}: no such classes; "
                f"allowed: 0 to {classes - 1} (predicted, true)"
            )
        costs[predicted, true] = cost
    return check_costs(costs, classes)


def read_costs(file: str | Path, names: Sequence[str]) -> np.ndarray:
    """A cost matrix from a CSV.

    Header and first column hold the class names; rows predicted, columns true.
    """
    try:
        table = pd.read_csv(
            file, index_col=0, dtype=str, keep_default_na=False
        )  # a class may be called NA or 01
    except (OSError, ValueError) as error:
        raise InputError(f"cost_matrix: {file} is not a readable CSV ({one_line(error)})") from None
    if sorted(table.index) != sorted(names) or sorted(table.columns) != sorted(names):
        raise InputError(
            f"cost_matrix: {file} must name every class once in its header and in its first column"
        )
    table = table.loc[list(names), list(names)].apply(pd.to_numeric, errors="coerce")
    return check_costs(table.to_numpy(float), len(names))


def check_costs(costs: np.ndarray, classes: int) -> np.ndarray:
    """``costs`` itself if it is (m, m), finite, non-negative and zero on the diagonal.

    Else InputError.
    """
    costs = np.asarray(costs, dtype=float)
    if costs.shape != (classes, classes):
        raise InputError(
            f"cost matrix: shaped {costs.shape}; allowed: ({classes}, {classes}), predicted by true"
        )
    if not np.isfinite(costs).all() or costs.min() < 0:
        worst = costs[~np.isfinite(costs) | (costs < 0)][0]
        raise InputError(f"cost matrix: holds {worst}; allowed: finite costs of 0 or more")
    if np.diag(costs).any():
        raise InputError(
            f"cost matrix: diagonal {np.diag(costs).max():g}; allowed: 0, being right costs nothing"
        )
    return costs
