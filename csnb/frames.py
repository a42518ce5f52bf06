"""The scores of thousands of runs in one tidy frame."""

import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csnb.errors import InputError
from csnb.minmax import overall_fuzziness
from csnb.plan import run_ids
from csnb.runs import read_result, read_run, read_weights

KEYS = ("dataset", "model", "method", "protected_class", "seed")  # columns of every frame; others where runs differ
NAMES, COUNTS, NUMBERS = ("attack", "measure", "class"), ("correct", "total"), ("value", "low", "high")


def run_folders(folder: str | Path) -> Iterator[Path]:
    """The folders of runs in ``folder``, complete or not, by name. Raises InputError where there is no such folder."""
    if not Path(folder).is_dir():
        raise InputError(f"runs: {folder} is not a folder; allowed: one that holds runs")
    return (path for path in sorted(Path(folder).iterdir()) if path.is_dir() and not path.name.startswith("."))


def read_runs(folder: str | Path, sweep: str | Path | None = None) -> pd.DataFrame:
    """The scores of every complete run in ``folder``: the rows of `score`, each with its run and that run's parameters.

    ``sweep``: only of the runs of this sweep file (or of csnb's own, by name).

    Columns: ``run`` (the name of its folder), data set, model, method, protected class and seed, whatever other parameters
    differ between the runs, ``seconds`` (the run's, training and attacks), and those of `score`. What all runs share is in
    ``frame.attrs["parameters"]``. Each result.json is checked against its digest, other files are not read (`read_run`
    does that); a result that cannot be read is left out with a warning. Raises InputError where there is no such folder.
    """
    table, refused = _Table(), []
    wanted = None if sweep is None else set(run_ids(sweep))
    for path in run_folders(folder):
        if (wanted is None or path.name in wanted) and (path / "result.json").exists():
            try:
                table.add(path.name, read_result(path))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                refused.append(f"{path.name} ({error})")
    if refused:
        warnings.warn(f"{len(refused)} of {len(refused) + len(table.lengths)} results left out: {refused[0]}", stacklevel=2)
    return table.frame()


def read_scores(folders: Iterable[str | Path]) -> pd.DataFrame:
    """As `read_runs`, of the runs in these folders; each must be complete. Raises InputError."""
    table = _Table()
    for folder in map(Path, folders):
        table.add(folder.name, read_run(folder))
    return table.frame()


def read_histories(folders: Iterable[str | Path]) -> pd.DataFrame:
    """The histories of these runs, a row per epoch (see `fit`), with ``fuzziness`` (Eq. 8 over all convolutions).

    Each row names its run, data set (a file's name without its folder), model, method, protected class, seed, the
    ``epochs`` of the whole training, commit and machine. Raises InputError where a run is not complete.
    """
    parts = []
    for folder in map(Path, folders):
        result = read_run(folder)
        parameters, made = result["parameters"], result["provenance"]
        known = {name: parameters[name] for name in (*KEYS, "epochs")} | {"dataset": Path(parameters["dataset"]).stem}
        history = pd.read_csv(folder / "history.csv")
        overall = overall_fuzziness(history, read_weights(folder))
        origin = {"run": folder.name, "commit": made["commit"], "machine": made["machine"]}
        parts.append(history.assign(fuzziness=overall, **known, **origin))
    return pd.concat(parts, ignore_index=True)


class _Table:
    """Columns that grow by a run: numbers in flat arrays, text as codes, so that memory is that of the frame."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.seconds = array("d")
        self.parameters: dict[str, list[Any]] = {"run": []} | {name: [] for name in KEYS}
        self.seen: dict[str, Any] = {}  # equal values once
        self.codes: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        self.columns = {name: array("i") for name in NAMES} | {name: array("d") for name in (*COUNTS, *NUMBERS)}

    def add(self, run: str, result: Mapping[str, Any]) -> None:
        """One run's rows; nothing is added where a part is missing or of another type."""
        scores, seconds, parameters = result["scores"], sum(result["seconds"].values()), result["parameters"].items()
        rows = {name: [row[name] for row in scores] for name in self.columns}
        numbers = {name: array("d", [np.nan if x is None else x for x in rows[name]]) for name in (*COUNTS, *NUMBERS)}
        self.seconds.append(seconds)
        for name in NAMES:
            codes = self.codes[name]
            self.columns[name].extend([codes.setdefault(str(text), len(codes)) for text in rows[name]])
        for name, column in numbers.items():
            self.columns[name].extend(column)
        for name, value in (("run", run), *parameters):
            values = self.parameters.setdefault(name, [])
            values += [None] * (len(self.lengths) - len(values))  # runs of before there was such a parameter
            values.append(self.seen.setdefault(repr(value), value))
        self.lengths.append(len(scores))

    def frame(self) -> pd.DataFrame:
        """All rows."""
        values = {name: values + [None] * (len(self.lengths) - len(values)) for name, values in self.parameters.items()}
        shared = {name: column[0] for name, column in values.items() if len(set(map(repr, column))) == 1}
        kept = [name for name in values if name in ("run", *KEYS) or name not in shared]
        frame = {name: _column(values[name]).repeat(self.lengths) for name in kept}
        frame["seconds"] = np.repeat(np.array(self.seconds), self.lengths)
        for name in NAMES:
            frame[name] = pd.Categorical.from_codes(np.array(self.columns[name], dtype=int), list(self.codes[name]))
        for name in COUNTS:
            frame[name] = pd.array(np.array(self.columns[name]), dtype="Float64").astype("Int64")
        frame |= {name: np.array(self.columns[name]) for name in NUMBERS}
        table = pd.DataFrame(frame)
        table.attrs["parameters"] = {name: value for name, value in shared.items() if name != "run"}
        return table


def _column(values: list[Any]) -> pd.api.extensions.ExtensionArray:
    """Numbers as numbers, text as categories; a mixture (class 3 here, class "cat" there) as text."""
    kinds = {type(value) for value in values}
    if kinds <= {int} or kinds <= {bool} or kinds <= {int, float}:
        return pd.array(values) if values else pd.array(values, dtype="Int64")
    return pd.Categorical([value if value is None else str(value) for value in values])
