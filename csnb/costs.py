"""Cost matrices.

Everywhere in csnb: row = predicted class, column = true class, as in section II-C.
"""

import csv
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.errors import InputError, one_line, shown
from csnb.paths import expand
from csnb.spec import LARGEST, MOST_CLASSES

COSTS = "finite costs of 0 or more, up to 3.4e38"


def protect(classes: int, protected: int | Sequence[int], cost: float = 10.0) -> np.ndarray:
    """Eq. 3, (m, m) float64.

    ``cost`` where a protected class is predicted or true, else 1; 0 on the diagonal.
    """
    costs = _filled(classes, 1.0)
    several = isinstance(protected, Sequence) and not isinstance(protected, str | bytes)
    several |= isinstance(protected, np.ndarray) and protected.ndim > 0
    protected = list(protected) if several else [protected]
    unknown = [p for p in protected if not _is_class(p, classes)]
    if unknown:
        raise InputError(
            f"protected class: {shown(unknown[0])} does not exist; allowed: 0 to {classes - 1}"
        )
    cost = _cost(cost)
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
    if not isinstance(pairs, Mapping):
        raise InputError(f"pairs: {shown(pairs)}; allowed: {{(predicted, true): cost}}")
    costs = _filled(classes, _cost(default))
    np.fill_diagonal(costs, 0)
    for pair, cost in pairs.items():
        two = isinstance(pair, tuple) and len(pair) == 2
        if not (two and all(_is_class(p, classes) for p in pair)):
            raise InputError(
                f"cost of {shown(pair)}: no such classes; "
                f"allowed: 0 to {classes - 1} (predicted, true)"
            )
        costs[pair] = _cost(cost)
    return check_costs(costs, classes)


def read_costs(file: str | Path, names: Sequence[str]) -> np.ndarray:
    """A cost matrix from a CSV.

    Header and first column hold the class names; rows predicted, columns true.
    """
    path = expand(file, "cost_matrix").absolute()  # pandas would fetch what begins with http://
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise OSError("not a file")
        table = pd.read_csv(
            path, index_col=0, dtype=str, keep_default_na=False
        )  # a class may be called NA or 01
    except (OSError, ValueError) as error:
        raise InputError(
            f"cost_matrix: {file} is not a readable CSV ({one_line(error)}); allowed: classes by "
            "classes"
        ) from None
    if sorted(map(str, table.index)) != sorted(names) or sorted(table.columns) != sorted(names):
        raise InputError(
            f"cost_matrix: {file} must name every class once in its header and in its first column"
            + _other_separator(table, names)
        )
    table = table.loc[list(names), list(names)].apply(pd.to_numeric, errors="coerce")
    return check_costs(table.to_numpy(float), len(names))


def _other_separator(table: pd.DataFrame, names: Sequence[str]) -> str:
    """What to say of a file whose columns something other than a comma separates."""
    header = str(table.index.name or ",".join(table.columns))
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if {*names} <= {*next(csv.reader([header], delimiter=sign))}:
            return f"; its columns are separated by {name} ({sign!r}); allowed: commas"
    return ""


def _is_class(value: object, classes: int) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 0 <= value < classes


def _filled(classes: int, value: float) -> np.ndarray:
    """(m, m) of one value. Raises InputError for an impossible number of classes."""
    if not _is_class(classes, MOST_CLASSES + 1) or not classes:
        raise InputError(f"classes: {shown(classes)} is not allowed; allowed: 1 to {MOST_CLASSES}")
    return np.full((classes, classes), value)


def _cost(value: object) -> float:
    """A cost as a number, whatever it is worth. Raises InputError."""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"cost: {shown(value)} is not allowed; allowed: {COSTS}") from None


def check_costs(costs: np.ndarray, classes: int | None = None) -> np.ndarray:
    """``costs`` itself if it is (m, m), finite, non-negative and zero on the diagonal.

    Else InputError. ``classes``: m, where it is known.
    """
    try:
        costs = np.asarray(costs, dtype=float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"cost matrix: {one_line(error)}; allowed: numbers") from None
    if classes is None:
        classes = len(costs) if costs.ndim else 2
    if costs.shape != (classes, classes):
        raise InputError(
            f"cost matrix: shaped {costs.shape}; allowed: ({classes}, {classes}), predicted by true"
        )
    wrong = ~((costs >= 0) & (costs <= LARGEST))
    if wrong.any():
        raise InputError(f"cost matrix: holds {costs[wrong][0]}; allowed: {COSTS}")
    if np.diag(costs).any():
        raise InputError(
            f"cost matrix: diagonal {np.diag(costs).max():g}; allowed: 0, being right costs nothing"
        )
    return costs
