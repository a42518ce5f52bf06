"""Runs read back: one whole, or the scores of thousands in one tidy frame."""

import warnings
from array import array
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csnb.errors import InputError
from csnb.paths import expand
from csnb.runs.audits import add_audited, audited
from csnb.runs.folder import read_weights, run_folders
from csnb.runs.state import KEYS, ROW, inspect

NAMES, COUNTS, NUMBERS = ROW[:3], ROW[3:5], ROW[5:]
HITS = ("attack", "p", "hits")


def read_run(folder: str | Path) -> dict[str, Any]:
    """What a run's result.json says. Raises InputError unless the run is done (see `inspect`)."""
    found = inspect(expand(folder, "run"))
    if found.state != "done":
        said = f"{found.state}{': ' if found.reason else ''}{found.reason}"
        raise InputError(f"run {folder}: {said}; allowed: one that is done")
    return found.result


def read_runs(folder: str | Path, ids: Collection[str] | None = None) -> pd.DataFrame:
    """The scores of every run in ``folder`` that is done (see `inspect`), each with its run and
    that run's parameters.

    ``ids``: only of these runs, such as `csnb.batch.run_ids` of a sweep.

    Columns: ``run`` (the name of its folder), data set, model, method, protected class (its index;
    several: "3+5") and seed, whatever other parameters differ between the runs, ``seconds`` (the
    run's, training and attacks), and those of `score`; ``audited``, ``certified`` beside ``value``
    where there are audits of these runs (see `csnb.runs.audits`). What all runs share is in
    ``frame.attrs["parameters"]``. Runs with a result that is not to be believed (stale, broken) are
    left out with a warning. Raises InputError where there is no such folder.
    """
    folders = [f for f in run_folders(folder) if ids is None or f.name in ids]
    table, refused, found_audits = _Table(), [], {}
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        for path, found in zip(folders, pool.map(inspect, folders), strict=True):
            if found.state == "done":
                table.add(path.name, found.result)
                if known := audited(path, found.result):
                    found_audits[path.name] = known
            elif found.state in ("stale", "broken"):
                refused.append(f"{path.name} ({found.state}: {found.reason})")
    if refused:
        count = len(refused) + len(table.lengths)
        text = f"{len(refused)} of {count} results left out: {refused[0]}"
        warnings.warn(text, stacklevel=2)
    return add_audited(table.frame(), found_audits)


def read_scores(folders: Iterable[str | Path]) -> pd.DataFrame:
    """As `read_runs`, of the runs in these folders; each must be done. Raises InputError."""
    table, found_audits = _Table(), {}
    for folder in map(Path, folders):
        result = read_run(folder)
        table.add(folder.name, result)
        if known := audited(folder, result):
            found_audits[folder.name] = known
    return add_audited(table.frame(), found_audits)


@dataclass(frozen=True)
class Answers:
    """What a run's predictions.npz says.

    ``labels`` (N,) and ``clean``, the answers to all N test images; ``attacked``: places of those
    that were attacked; ``hits``: by attack, which of these were right, bool.
    """

    labels: np.ndarray
    attacked: np.ndarray
    clean: np.ndarray
    hits: dict[str, np.ndarray]


def read_answers(folder: Path) -> Answers:
    """Of a run that is done."""
    with np.load(folder / "predictions.npz") as arrays:
        found = {name: arrays[name] for name in arrays.files}
    labels, attacked, clean = (found.pop(name) for name in ("labels", "attacked", "clean"))
    hits = {name: answers == labels[attacked] for name, answers in found.items()}
    return Answers(labels, attacked, clean, hits)


def read_hits(folders: Iterable[str | Path]) -> pd.DataFrame:
    """Which images the runs in these folders get right: a row per run, attack and attacked class.

    Columns: ``run``, data set, method, protected class and seed, ``attack`` (the first: clean),
    ``p`` (the class's index) and ``hits``, (n,) bool for the class's test images in their order:
    the same images in every run of a data set. Raises InputError where a run is not done.
    """
    rows = []
    for folder in map(Path, folders):
        result = read_run(folder)
        parameters = result["parameters"] | {"protected_class": protected_class(result)}
        known = {"run": folder.name} | {name: parameters[name] for name in KEYS if name != "model"}
        answers = read_answers(folder)
        true = answers.labels[answers.attacked]
        clean = answers.clean[answers.attacked] == true
        for name, right in ({"clean": clean} | answers.hits).items():
            places = ((int(p), right[true == p]) for p in np.unique(true))
            rows += [known | {"attack": name, "p": p, "hits": hits} for p, hits in places]
    return pd.DataFrame(rows, columns=["run", *(k for k in KEYS if k != "model"), *HITS])


def read_histories(folders: Iterable[str | Path]) -> pd.DataFrame:
    """The histories of these runs, a row per epoch (see `fit`).

    Each row names its run, data set (a file's name without its folder), model, method, protected
    class, seed, the ``epochs`` of the whole training, commit and machine. ``fuzziness``: Eq. 8 over
    all convolutions. Raises InputError where a run is not done, or where there is none.
    """
    parts = []
    for folder in map(Path, folders):
        result = read_run(folder)
        parameters, made = result["parameters"], result["provenance"]
        known = {name: parameters[name] for name in (*KEYS, "epochs")}
        known |= {"dataset": Path(parameters["dataset"]).stem}
        known |= {"protected_class": protected_class(result)}
        history = pd.read_csv(folder / "history.csv")
        overall = overall_fuzziness(history, read_weights(folder))
        origin = {"run": folder.name, "commit": made["commit"], "machine": made["machine"]}
        parts.append(history.assign(fuzziness=overall, **known, **origin))
    if not parts:
        raise InputError("runs: none; allowed: folders of finished runs, at least one")
    return pd.concat(parts, ignore_index=True)


def protected_class(result: Mapping[str, Any]) -> int | str:
    """The index of the class that a run protects; of several, all: "3+5"."""
    protected = result["protected"]
    return protected[0] if len(protected) == 1 else "+".join(map(str, protected))


def overall_fuzziness(history: pd.DataFrame, weights: Mapping[str, np.ndarray]) -> pd.Series:
    """Eq. 8 over all convolutions, from that of each.

    It is a mean over all weights: a layer counts by its size.

    ``history``: columns ``fuzziness.<layer>``. ``weights``: of `read_weights`, by name
    ``body.<layer>.weight``.
    """
    columns = [name for name in history if name.startswith("fuzziness.")]
    if not columns:  # a network without convolutions
        return pd.Series(np.nan, index=history.index)
    sizes = [weights[f"body.{name.removeprefix('fuzziness.')}.weight"].size for name in columns]
    return history[columns] @ np.array(sizes) / sum(sizes)


class _Table:
    """Columns that grow by a run.

    Numbers in flat arrays, text as codes, so that memory is that of the frame.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.seconds = array("d")
        self.parameters: dict[str, list[Any]] = {"run": []} | {name: [] for name in KEYS}
        self.seen: dict[str, Any] = {}  # equal values once
        self.codes: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        self.columns = {name: array("i") for name in NAMES} | {
            name: array("d") for name in (*COUNTS, *NUMBERS)
        }

    def add(self, run: str, result: Mapping[str, Any]) -> None:
        """One run's rows; nothing is added where a part is missing or of another type."""
        scores, seconds, parameters = (
            result["scores"],
            sum(result["seconds"].values()),
            result["parameters"] | {"protected_class": protected_class(result)},
        )
        rows = {name: [row[name] for row in scores] for name in self.columns}
        numbers = {
            name: array("d", [np.nan if x is None else x for x in rows[name]])
            for name in (*COUNTS, *NUMBERS)
        }
        self.seconds.append(seconds)
        for name in NAMES:
            codes = self.codes[name]
            self.columns[name].extend(
                [codes.setdefault(str(text), len(codes)) for text in rows[name]]
            )
        for name, column in numbers.items():
            self.columns[name].extend(column)
        for name, value in (("run", run), *parameters.items()):
            values = self.parameters.setdefault(name, [])
            values += [None] * (
                len(self.lengths) - len(values)
            )  # runs of before there was such a parameter
            values.append(self.seen.setdefault(repr(value), value))
        self.lengths.append(len(scores))

    def frame(self) -> pd.DataFrame:
        """All rows."""
        values = {
            name: values + [None] * (len(self.lengths) - len(values))
            for name, values in self.parameters.items()
        }
        shared = {
            name: column[0] for name, column in values.items() if len(set(map(repr, column))) == 1
        }
        kept = [name for name in values if name in ("run", *KEYS) or name not in shared]
        frame = {name: _column(values[name]).repeat(self.lengths) for name in kept}
        frame["seconds"] = np.repeat(np.array(self.seconds), self.lengths)
        for name in NAMES:
            frame[name] = pd.Categorical.from_codes(
                np.array(self.columns[name], dtype=int), list(self.codes[name])
            )
        for name in COUNTS:
            frame[name] = pd.array(np.array(self.columns[name]), dtype="Float64").astype("Int64")
        frame |= {name: np.array(self.columns[name]) for name in NUMBERS}
        table = pd.DataFrame(frame)
        table.attrs["parameters"] = {name: value for name, value in shared.items() if name != "run"}
        return table


def _column(values: list[Any]) -> pd.api.extensions.ExtensionArray:
    """Numbers as numbers, text as categories; a mixture (class 3 here, "3+5" there) as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {bool} or kinds <= {int, float}:
        return pd.array(values) if values else pd.array(values, dtype="Int64")
    return pd.Categorical([value if value is None else str(value) for value in values])
