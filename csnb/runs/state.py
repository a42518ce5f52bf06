"""How far a run is. Whoever asks whether a run is done asks `inspect`."""

import hashlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from filelock import FileLock, Timeout
from safetensors import safe_open

from csnb.errors import one_line, printable
from csnb.runs.folder import FILES, read_result, run_folders, settle, staged
from csnb.runs.identity import NUMERICS, Identity, changed_inputs

KEYS = ("dataset", "model", "method", "protected_class", "seed")  # columns of every frame
ROW = ("attack", "measure", "class", "correct", "total", "value", "low", "high")  # of the scores
JUST_NOW = 100_000_000  # nanoseconds
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
        return Status("broken", f"cannot be read ({type(error).__name__}: {one_line(error)})")


def _inspect(folder: Path, wanted: Identity | None) -> Status:
    running = is_running(folder)
    traces = {folder.name, wanted.key} if wanted is not None and not running else set()
    if traces and not traces & _listed(folder.parent).traces:
        return _sibling(folder, wanted) or Status("todo", folder=folder)
    if not running:
        _settle(folder)
    place = folder if folder.exists() or wanted is None else _same_content(folder, wanted)
    if (place / "result.json").exists() or _left(place):
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
        identity = Identity.from_json(result)
        seconds, summary = sum(result["seconds"].values()), summarise(result)
        _complete(result)
        _verify(folder, result, identity)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
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
    if not folder.exists():
        return False
    return not folder.is_dir() or any(
        (folder / name).exists() for name in (*FILES, "notebook.ipynb")
    )


def _complete(result: Mapping[str, Any]) -> None:
    """Raises KeyError or TypeError unless it has what its readers take for granted."""
    _ = [row[name] for row in result["scores"] for name in ROW]
    _ = [result["provenance"][name] for name in ("commit", "machine")]
    _ = [result["parameters"][name] for name in KEYS]


def _verify(folder: Path, result: Mapping[str, Any], identity: Identity) -> None:
    """Raises ValueError unless the folder is this run's and holds what it wrote."""
    if not folder.name.endswith(f"-{identity.key}"):
        raise ValueError(f"the folder holds the run {identity.run_id}")
    for name in dict.fromkeys([*FILES, *result["sha256"]]):
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != result["sha256"][name]:
            raise ValueError(f"{name} has changed since the run")
    if (folder / "notebook.ipynb").exists() and "notebook.ipynb" not in result["sha256"]:
        raise ValueError("notebook.ipynb is not the run's")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        weights.keys()


def summarise(result: Mapping[str, Any]) -> str:
    """A run's main numbers.

    Accuracy of the protected classes, clean and under PGD (or the last attack).
    """
    rows = {(row["attack"], row["measure"], row["class"]): row for row in result["scores"]}
    attacks = list(dict.fromkeys(row["attack"] for row in result["scores"]))
    name = result["classes"][result["protected"][0]]
    shown = dict.fromkeys(["clean", "PGD" if "PGD" in attacks else attacks[-1]])
    numbers = [(attack, rows.get((attack, "accuracy", name))) for attack in shown]
    return ", ".join(
        f"{attack} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        for attack, row in numbers
        if row
    )


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
    for place in (staged(folder.parent, folder.name), folder):
        try:
            lines = (place / "progress.jsonl").read_text(encoding="utf-8").splitlines()
            last = json.loads(lines[-1])
            if last["stage"] == "train":
                return f"epoch {last['epoch']} of {last['epochs']}, loss {last['loss']:.4f}"
            return f"evaluated: {last['attack']}"
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            continue
    return ""


def is_running(folder: Path) -> bool:
    """Whether a process holds this run."""
    file = folder.parent / ".locks" / folder.name
    if not file.is_file():
        return False
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # somebody else's folder, or one without locks
        return False
    lock.release()
    return False


def _settle(folder: Path) -> None:
    """Finish a publication that a kill broke off, where that may be done."""
    if not any((folder.parent / f".{folder.name}.{kind}").exists() for kind in ("ready", "old")):
        return
    lock = FileLock(folder.parent / ".locks" / folder.name, thread_local=False)
    try:
        with suppress(NotImplementedError):
            lock.acquire(blocking=False)
        settle(folder.parent, folder.name)
    except OSError:  # Timeout is one: somebody else is at it
        return
    finally:
        lock.release()


def _failure(folder: Path) -> Status | None:
    """What failed.json says, if there is one."""
    file = folder / "failed.json"
    if not file.is_file():
        return None
    try:
        failure = json.loads(file.read_text(encoding="utf-8"))
        reason = printable(f"{failure['reason']}: {failure['message']}")
        return Status("failed", reason, float(failure["seconds"]), folder=folder)
    except (OSError, ValueError, KeyError, TypeError):
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
        except (OSError, ValueError, KeyError, TypeError):
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
