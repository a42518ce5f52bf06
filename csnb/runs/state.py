"""How far a run is. Whoever asks whether a run is done asks `inspect`."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from safetensors import safe_open

from csnb.errors import one_line, printable
from csnb.locks import Lock, is_held, is_mine
from csnb.paths import read_file
from csnb.runs.folder import (
    FILES,
    check,
    check_place,
    read_json,
    read_result,
    run_folders,
    settle,
    staged,
)
from csnb.runs.identity import NUMERICS, Identity, changed_inputs
from csnb.runs.result import check_types

KEYS = ("dataset", "model", "method", "protected_class", "seed")  # columns of every frame
ROW = ("attack", "measure", "class", "correct", "total", "value", "low", "high")  # of the scores
JUST_NOW = 100_000_000  # nanoseconds
LONGEST = 300  # characters of a reason
State = Literal["done", "todo", "running", "interrupted", "failed", "stale", "broken"]


@dataclass(frozen=True)
class Status:
    """How far a run is, and why.

    Of a done one: ``seconds``, main numbers, its folder and what it says.
    """

    state: State
    reason: str = ""
    seconds: float = 0.0
    summary: str = ""
    folder: Path | None = None
    result: dict[str, Any] | None = None


def inspect(folder: str | Path, wanted: Identity | None = None) -> Status:
    """How far the run in ``folder`` is; with ``wanted``: whether the run that is wanted is done.

    done: every file is as the run wrote it, the folder is that run's, csnb's numbers are those of
    now and no input has changed. todo: nothing is there. running: a process is at it. interrupted:
    none is, and it did not end. failed: a sweep says why. stale: an input or csnb's numbers have
    changed since. broken: the folder does not hold what a run wrote. A folder that is not there is
    looked for under another name with the same key. Raises nothing because of what lies there.
    """
    folder = Path(folder).absolute()
    try:
        return _inspect(folder, wanted)
    except Exception as error:  # whatever somebody put there: one bad folder stops nothing
        reason = f"cannot be read ({type(error).__name__}: {one_line(error)})"
        return Status("broken", printable(reason), folder=folder)


def _inspect(folder: Path, wanted: Identity | None) -> Status:
    running = is_running(folder)
    traces = {folder.name, wanted.key} if wanted is not None and not running else set()
    if traces and not traces & _listed(folder.parent).traces:
        return _sibling(folder, wanted) or Status("todo", folder=folder)
    if not running:
        _settle(folder)
    place = folder if os.path.lexists(folder) or wanted is None else _same_content(folder, wanted)
    if _left(place):
        found = _finished(place, wanted)
        if found.state == "done":
            return found
    else:
        found = Status("todo", folder=folder)
    if running:
        return Status("running", progress(folder), folder=folder)
    failure = _failure(folder)
    if failure is not None:
        return failure
    if found.state == "todo" and staged(folder.parent, folder.name).exists():
        return Status("interrupted", progress(folder), folder=folder)
    if found.state == "todo" and wanted is not None:
        return _sibling(folder, wanted) or found
    return found


def _finished(folder: Path, wanted: Identity | None) -> Status:
    """Of a folder with a result."""
    try:
        result = read_result(folder)
        check_types(result)
        identity = Identity.from_json(result)
        seconds, summary = sum(result["seconds"].values()), summarise(result)
        _verify(folder, result, identity)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Status("broken", _what_is_wrong(error), folder=folder)
    if identity.numerics != NUMERICS:
        reason = f"csnb's numbers have changed (NUMERICS {identity.numerics}, now {NUMERICS})"
        return Status("stale", reason, folder=folder)
    changed = wanted.differs(identity) if wanted is not None else changed_inputs(identity)
    if changed:
        return Status("stale", f"{changed[0]} has changed", folder=folder)
    if wanted is not None and wanted.key != identity.key:
        return Status("broken", f"the folder holds the run {identity.run_id}", folder=folder)
    return Status("done", seconds=seconds, summary=summary, folder=folder, result=result)


def _left(folder: Path) -> bool:
    """Whether a folder without a result holds something of a run, or is none."""
    if not folder.is_dir():
        return os.path.lexists(folder)
    parts = {*FILES, "result.json", "notebook.ipynb"}
    return any(path.name in parts for path in folder.iterdir())


def _verify(folder: Path, result: Mapping[str, Any], identity: Identity) -> None:
    """Raises ValueError unless the folder is this run's and holds what it wrote."""
    check_place(folder, identity)
    for name in dict.fromkeys([*FILES, *result["sha256"]]):
        check(name, read_file(folder / name), result["sha256"])
    if os.path.lexists(folder / "notebook.ipynb") and "notebook.ipynb" not in result["sha256"]:
        raise ValueError("notebook.ipynb is not the run's")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        weights.keys()


def summarise(result: Mapping[str, Any]) -> str:
    """A run's main numbers.

    Accuracy of the protected classes, clean and under PGD (or the last attack).
    """
    rows = {(row["attack"], row["measure"], row["class"]): row for row in result["scores"]}
    attacks = list(dict.fromkeys(row["attack"] for row in result["scores"]))
    names = [result["classes"][p] for p in result["protected"]]
    shown = dict.fromkeys(["clean", "PGD" if "PGD" in attacks else attacks[-1]])
    several = len(names) > 1
    numbers = {
        f"{attack}{f' of {name}' if several else ''}": rows.get((attack, "accuracy", name))
        for attack in shown
        for name in names
    }
    return ", ".join(
        f"{what} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        for what, row in numbers.items()
        if row
    )


def finished(folder: str | Path, ids: Iterable[str]) -> list[Status]:
    """Of these runs in ``folder``, those that are done (see `inspect`), in their order."""
    found = (inspect(Path(folder, run)) for run in ids)
    return [one for one in found if one.state == "done"]


def status(runs: str | Path) -> pd.DataFrame:
    """A row per run.

    ``run``, ``state`` (see `inspect`) and ``now``, what to know. Raises InputError without the
    folder.
    """
    folders = list(run_folders(runs))
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        found = list(pool.map(inspect, folders))
    rows = [(f.name, s.state, s.reason) for f, s in zip(folders, found, strict=True)]
    return pd.DataFrame(rows, columns=["run", "state", "now"])


def progress(folder: Path) -> str:
    """The last line of a run's progress in words; empty where there is none."""
    under_way = staged(folder.parent, folder.name)
    try:
        lines = read_file((under_way if under_way.exists() else folder) / "progress.jsonl")
        last = json.loads(lines.splitlines()[-1])
        if last["stage"] == "train":
            said = f"epoch {last['epoch']} of {last['epochs']}, loss {last['loss']:.4f}"
        else:
            said = f"evaluated: {last['attack']}"
        return printable(said)[:LONGEST]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def is_running(folder: Path) -> bool:
    """Whether a process holds this run."""
    return is_held(folder.parent / ".locks" / folder.name)


def is_here(folder: Path) -> bool:
    """Whether it is this very process that holds this run."""
    return is_mine(folder.parent / ".locks" / folder.name)


def _settle(folder: Path) -> None:
    """Finish a publication that a kill broke off, where that may be done."""
    if not any((folder.parent / f".{folder.name}.{kind}").exists() for kind in ("ready", "old")):
        return
    lock = Lock(folder.parent / ".locks" / folder.name)
    with suppress(OSError):  # somebody else's folder, or one that is only to be read
        if lock.acquire():
            try:
                settle(folder.parent, folder.name)
            finally:
                lock.release()


def _failure(folder: Path) -> Status | None:
    """What failed.json says, if there is one."""
    file = folder / "failed.json"
    if not os.path.lexists(file):
        return None
    try:
        failure = read_json(file)
        reason = printable(f"{failure['reason']}: {failure['message']}")[:LONGEST]
        return Status("failed", reason, float(failure["seconds"]), folder=folder)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return Status("failed", "failed.json cannot be read", folder=folder)


def _same_content(folder: Path, wanted: Identity) -> Path:
    """The folder of the same run under another readable name, else ``folder``."""
    return folder.parent / _listed(folder.parent).names.get(wanted.key, folder.name)


def _sibling(folder: Path, wanted: Identity) -> Status | None:
    """A finished run of the same parameters whose inputs were others."""
    head = folder.name.removesuffix(f"-{wanted.key}")
    for name in _listed(folder.parent).heads.get(head, ()):
        try:
            changed = wanted.differs(Identity.from_json(read_result(folder.parent / name)))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if changed:
            return Status("stale", f"{changed[0]} has changed", folder=folder)
    return None


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder of runs: names by key, names by their readable part.

    ``traces``: names and keys, also of runs that are under way or were broken off.
    """

    names: dict[str, str] = field(default_factory=dict)
    heads: dict[str, list[str]] = field(default_factory=dict)
    traces: set[str] = field(default_factory=set)


def _listed(runs: Path) -> _Listing:
    """What lies in ``runs``; read once for each state of it."""
    try:
        changed = runs.stat().st_mtime_ns
    except OSError:
        return _Listing()
    # a folder's time is coarse: what has just changed may change again within it
    settled = time.time_ns() - changed > JUST_NOW
    return (_listing if settled else _listing.__wrapped__)(str(runs), changed)


def _what_is_wrong(error: Exception) -> str:
    """In words: as csnb says it, else as Python does."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{Path(str(error.filename)).name} is missing"
    if isinstance(error, ValueError) and not isinstance(error, JSONDecodeError | UnicodeError):
        return str(error)
    return f"not a readable run ({type(error).__name__}: {one_line(error)})"


@lru_cache(maxsize=8)
def _listing(runs: str, changed: int) -> _Listing:
    found = _Listing()
    for path in Path(runs).iterdir():
        hidden = path.name.startswith(".")
        name = path.stem[1:] if hidden else path.name
        head, dash, key = name.rpartition("-")
        found.traces.update((name, key))
        if dash and not hidden:
            found.names[key] = name
            found.heads.setdefault(head, []).append(name)
    return found
