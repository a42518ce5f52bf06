"""Cost matrices.

Everywhere in csnb: row = predicted class, column = true class, as in section II-C.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.errors import InputError, choices, one_line, shown
from csnb.paths import expand, write_atomically
from csnb.spec import LARGEST, MOST_CLASSES, check_names

COSTS = "finite costs of 0 or more, up to 3.4e38"


def protect(
    classes: int,
    protected: int | Sequence[int],
    miss_cost: float = 10.0,
    alarm_cost: float | None = None,
) -> np.ndarray:
    """Eq. 3 with a cost for each side, (m, m) float64; equal costs are the paper's c.

    ``miss_cost``: where a protected class is true and another predicted. ``alarm_cost``: where it
    is predicted and another true; default: as much. Between two protected classes: the higher of
    the two. Every other mistake costs 1, being right 0. Raises InputError.
    """
    costs = _filled(classes, 1.0)
    protected = list(check_protected(protected, classes, least=0))
    miss = _cost(miss_cost)
    alarm = miss if alarm_cost is None else _cost(alarm_cost)
    costs[protected, :] = alarm
    costs[:, protected] = miss
    costs[np.ix_(protected, protected)] = max(miss, alarm)
    np.fill_diagonal(costs, 0)
    return check_costs(costs, classes)


def costs_from_pairs(
    classes: int | Sequence[str],
    pairs: Mapping[tuple[int | str, int | str], float],
    *,
    default: float = 1.0,
) -> np.ndarray:
    """A cost matrix from ``{(predicted, true): cost}``, (m, m) float64.

    ``classes``: their number, or their names; pairs may name them. ``default``: for every other
    mistake. Raises InputError.
    """
    if not isinstance(pairs, Mapping):
        raise InputError(f"pairs: {shown(pairs)}; allowed: {{(predicted, true): cost}}")
    named = isinstance(classes, Sequence) and not isinstance(classes, str | bytes)
    listed = check_names(classes, "classes") if named else ()
    names = {name: place for place, name in enumerate(listed)}
    costs = _filled(len(names) if named else classes, _cost(default))
    np.fill_diagonal(costs, 0)
    for pair, cost in pairs.items():
        two = isinstance(pair, tuple) and len(pair) == 2
        places = tuple(names.get(p, p) if isinstance(p, str) else p for p in pair) if two else ()
        if not (two and all(_is_class(p, len(costs)) for p in places)):
            raise InputError(
                f"cost of {shown(pair)}: no such classes; allowed: 0 to {len(costs) - 1}"
                f"{' or ' + choices('', names).removeprefix('allowed: ') if names else ''} "
                "(predicted, true)"
            )
        costs[places] = _cost(cost)
    return check_costs(costs)


def costs_from_table(
    table: object, names: Sequence[str], what: str = "cost_matrix: the table", hint: str = ""
) -> np.ndarray:
    """A cost matrix (m, m) from numbers in the order of the classes, or from what names them.

    ``table``: an array or nested lists, predicted by true; a DataFrame whose index (predicted) and
    columns (true) are the class names in any order, also as its ``to_dict("split")``; or a mapping
    ``{predicted: {true: cost}}`` of names, where what is left out costs 1. ``what``: it is called
    in an error; ``hint``: why its names may be wrong. Raises InputError.
    """
    if isinstance(table, Mapping):
        if table.keys() != {"index", "columns", "data"} or isinstance(table["data"], Mapping):
            return _of_names(table, names, what)
        try:
            table = pd.DataFrame(**table)
        except (ValueError, TypeError) as error:
            raise InputError(f"{what}: {one_line(error)}; allowed: classes by classes") from None
    if isinstance(table, pd.DataFrame):
        rows, columns = [*map(str, table.index)], [*map(str, table.columns)]
        if sorted(rows) != sorted(names) or sorted(columns) != sorted(names):
            raise InputError(
                f"{what} must name every class once in its header and in its first column; "
                f"{hint or choices('', names)}"
            )
        table = table.set_axis(rows).set_axis(columns, axis=1).loc[list(names), list(names)]
        table = table.map(_number).to_numpy(float)
    return check_costs(table, len(names))


def _of_names(table: Mapping[str, object], names: Sequence[str], what: str) -> np.ndarray:
    if not table or not all(isinstance(row, Mapping) for row in table.values()):
        raise InputError(f"{what} is {shown(table)}; allowed: {{predicted: {{true: cost}}}}")
    pairs = {(p, t): cost for p, row in table.items() for t, cost in row.items()}
    try:
        return costs_from_pairs(names, pairs)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def write_costs(file: str | Path, costs: np.ndarray, names: Sequence[str]) -> Path:
    """Write a cost matrix as the CSV that `read_costs` and ``cost_matrix`` read; returns its path.

    ``costs``: (m, m), predicted by true; ``names``: of the m classes. Raises InputError.
    """
    names = check_names(names, "names")
    table = pd.DataFrame(check_costs(costs, len(names)), names, names)
    path = expand(file, "cost_matrix")
    try:
        write_atomically(path, table.to_csv(index_label="predicted").encode())
    except OSError as error:
        raise InputError(
            f"cost_matrix: cannot write {file} ({error.strerror}); allowed: a file in a folder"
        ) from None
    return path


def read_costs(file: str | Path, names: Sequence[str]) -> np.ndarray:
    """A cost matrix from a CSV.

    Header and first column hold the class names; rows predicted, columns true.
    """
    path = expand(file, "cost_matrix")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise OSError("not a file")
        rows = _texts(path)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"cost_matrix: {file} is not a readable CSV ({one_line(error)}); allowed: classes by "
            "classes"
        ) from None
    hint = _other_separator(rows[0], names)
    return costs_from_table(_table(rows, file, hint), names, f"cost_matrix: {file}", hint)


def _texts(path: Path) -> list[list[str]]:
    """A CSV's cells as they are: a class may be called NA or 01. Raises OSError, ValueError."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise ValueError("no columns")
    return rows


def _table(rows: Sequence[Sequence[str]], file: str | Path, hint: str) -> pd.DataFrame:
    """The cells by names, where every line has as many.

    ``hint``: why one may have not. Raises InputError.
    """
    header, *body = rows
    if body and len(body[0]) == len(header) + 1:  # nothing stands in the corner
        header = ["", *header]
    for row in body:
        if len(row) != len(header):
            ragged = f"a line has {len(row)} cells, the first {len(header)}"
            raise InputError(
                f"cost_matrix: {file}: {hint or f'{ragged}; allowed: classes by classes'}"
            )
    return pd.DataFrame([row[1:] for row in body], [row[0] for row in body], header[1:], object)


def _number(cell: object) -> float:
    """What a cell says, to the bit; NaN where that is no number."""
    try:
        return math.nan if isinstance(cell, str) and "_" in cell else float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _other_separator(cells: Sequence[str], names: Sequence[str]) -> str:
    """What to say of a file whose columns something other than a comma separates, by its header."""
    header = ",".join(cells).splitlines()
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if {*names} <= {*next(csv.reader([*header, ""], delimiter=sign))}:
            return f"its columns are separated by {name} ({sign!r}); allowed: commas"
    return ""


def check_protected(
    protected: int | Sequence[int], classes: int, *, least: int = 1, most: int | None = None
) -> tuple[int, ...]:
    """The indices of protected classes, of so many ``classes``, each once, rising.

    ``protected``: one index, or several; no names. ``least``, ``most``: so many must there be, at
    most all. Raises InputError.
    """
    several = isinstance(protected, Sequence) and not isinstance(protected, str | bytes)
    several |= isinstance(protected, np.ndarray) and protected.ndim > 0
    found = list(protected) if several else [protected]
    unknown = [p for p in found if not _is_class(p, classes)]
    if unknown:
        raise InputError(
            f"protected class: {shown(unknown[0])} does not exist; allowed: 0 to {classes - 1}"
        )
    indices, most = tuple(sorted({int(p) for p in found})), classes if most is None else most
    if not least <= len(indices) <= most:
        raise InputError(
            f"protected: {len(indices)} of {classes} classes; allowed: {least} to {most} of them"
        )
    return indices


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
