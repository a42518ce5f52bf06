"""A run's folder: made aside, then put in its place in one step.

A run under way writes into ``runs/.<run_id>.new`` and holds ``runs/.locks/<run_id>``. Publishing
renames the folder to ``runs/<run_id>``; a finished run that lies there stays whole until that
moment. What a killed publication left is put right by the next look (`settle`). A training that is
done stays in the folder aside, whatever happens to the run after it, for the next try.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from csnb.errors import InputError, one_line
from csnb.locks import Lock
from csnb.paths import expand, naming, read_file, write_atomically
from csnb.runs.identity import Identity

WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, "history.csv", "predictions.npz")
TRAINED = "training.json"  # of a run under way: what its training was, once it is done
HOLD = "CSNB_HOLD"  # environment variable: the id of a run that a sweep publishes
PATIENCE = 1.0  # seconds for a lock: who only asks whether it is held holds it for a moment
_HELD: list["Stage"] = []


class Stage:
    """A run under way.

    Its lock, its folder aside, its progress. Raises InputError where it cannot be.
    """

    def __init__(self, runs: Path, run_id: str) -> None:
        self.runs, self.run_id = runs, run_id
        self.folder = staged(runs, run_id)
        self.kept = ""  # digest of the weights that lie there already
        self.lock = Lock(runs / ".locks" / run_id)
        try:
            (runs / ".locks").mkdir(parents=True, exist_ok=True)
            if not self.lock.acquire(PATIENCE):
                raise InputError(f"run {run_id}: it is under way; allowed: when that has ended")
            settle(runs, run_id)
            if not leave_training(self.folder):
                self.folder.mkdir()
        except OSError as error:
            self.lock.release()
            raise InputError(
                f"runs: cannot write in {runs} ({error.strerror}); allowed: a writable folder"
            ) from None

    def progress(self, **status: object) -> None:
        """Add a line to progress.jsonl, where that can be written: what the run is doing now."""
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds")} | status
        # no training ends because a line does not fit on the disk
        with suppress(OSError), (self.folder / "progress.jsonl").open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")

    def keep_training(
        self, facts: Mapping[str, Any], model: nn.Module, history: pd.DataFrame
    ) -> None:
        """Keep what was trained for `training`, where that can be written."""
        content, self.kept = _weights(model), ""
        digest = hashlib.sha256(content).hexdigest()
        rows = {name: column.tolist() for name, column in history.items()}  # to the last bit
        try:
            (self.folder / WEIGHTS).write_bytes(content)
            write_result(self.folder, {**facts, "history": rows, "weights": digest}, TRAINED)
            self.kept = digest
        except OSError:  # the run goes on, and may find room at its end
            for name in (WEIGHTS, TRAINED):
                clear(self.folder / name)

    def training(self) -> tuple[dict[str, Any], dict[str, torch.Tensor], pd.DataFrame] | None:
        """Facts, weights and history of a training that was kept; None where none is whole."""
        try:
            facts = read_result(self.folder, TRAINED)
            content = read_file(self.folder / WEIGHTS)
            check("weights", content, facts)
            found = facts, load(content), pd.DataFrame(facts["history"])
        except (OSError, ValueError, LookupError, TypeError, SafetensorError):
            return None
        self.kept = facts["weights"]
        return found

    def write(
        self,
        identity: Identity,
        *,
        model: nn.Module,
        history: pd.DataFrame,
        predictions: Mapping[str, np.ndarray],
        result: Mapping[str, Any],
    ) -> dict[str, str]:
        """Write the run's files, result.json last.

        Returns the digests of the others, of the bytes that were meant. Raises OSError, which names
        the file; what was trained is still there, to write again.
        """
        packed = io.BytesIO()
        np.savez_compressed(packed, **predictions)
        contents = (_weights(model), history.to_csv(index=False).encode(), packed.getvalue())
        digests = {}
        for name, content in zip(FILES, contents, strict=True):
            digests[name] = hashlib.sha256(content).hexdigest()
            if digests[name] != self.kept:  # else a full disk would take them away
                with naming(self.folder / name):
                    (self.folder / name).write_bytes(content)
        write_result(self.folder, identity.to_json() | dict(result) | {"sha256": digests})
        return digests

    def publish(self) -> Path:
        """Put the run in its place - unless a sweep does - and let it go; returns its folder."""
        if os.environ.get(HOLD) == self.run_id:
            _HELD.append(self)  # the lock too, until this process ends
            return self.folder
        folder = _swap(self.runs, self.run_id)
        self.release()
        return folder

    def release(self, *, remove: bool = False) -> None:
        """Let the run go; ``remove``: and leave nothing of it."""
        if remove:
            clear(self.folder)
        self.lock.release()


def _weights(model: nn.Module) -> bytes:
    return save({name: v.cpu().contiguous() for name, v in model.state_dict().items()})


def leave_training(folder: Path) -> bool:
    """Clear what a run that was broken off left, but its training; whether that was done."""
    if folder.is_symlink() or not (folder / TRAINED).is_file():
        clear(folder)
        return False
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name not in (WEIGHTS, TRAINED):
                clear(path)
    return True


def clear(path: Path) -> None:
    """Whatever lies at ``path``, as far as that may be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def staged(runs: Path, run_id: str) -> Path:
    """Where a run under way writes."""
    return runs / f".{run_id}.new"


def publish(runs: Path, run_id: str, notebook: Path) -> Path:
    """Put a complete run that was held back into its place, with its executed notebook.

    Raises OSError or ValueError.

    ``notebook``: an executed notebook, which is moved into the folder.
    """
    folder = staged(runs, run_id)
    result = read_result(folder)
    content = notebook.read_bytes()
    write_atomically(folder / "notebook.ipynb", content)
    digests = result["sha256"] | {"notebook.ipynb": hashlib.sha256(content).hexdigest()}
    write_result(folder, result | {"sha256": digests})
    notebook.unlink()
    return _swap(runs, run_id)


def _swap(runs: Path, run_id: str) -> Path:
    """The folder aside becomes the run's folder; what lay there goes after that."""
    settle(runs, run_id)
    (staged(runs, run_id) / TRAINED).unlink(missing_ok=True)
    staged(runs, run_id).rename(runs / f".{run_id}.ready")
    settle(runs, run_id)
    return runs / run_id


def settle(runs: Path, run_id: str) -> None:
    """Finish a publication that began: from here on the new run counts."""
    ready, old = runs / f".{run_id}.ready", runs / f".{run_id}.old"
    if (ready / "result.json").is_file():
        if os.path.lexists(runs / run_id):
            clear(old)
            (runs / run_id).rename(old)
        ready.rename(runs / run_id)
    clear(ready)  # whatever else has that name is no run, and takes no run's place
    clear(old)


def run_folders(runs: str | Path) -> Iterator[Path]:
    """The folders of runs in ``runs``, complete or not, by name.

    Those that have only begun too. Raises InputError.
    """
    runs = expand(runs, "runs")
    try:
        if not runs.is_dir():
            raise InputError(f"runs: {runs} is not a folder; allowed: one that holds runs")
        paths = list(runs.iterdir())
    except OSError as error:
        raise InputError(
            f"runs: {runs} cannot be read ({error.strerror}); allowed: a readable folder"
        ) from None
    names = set()
    for path in paths:
        hidden = path.name.startswith(".")
        if hidden and path.suffix in (".new", ".ready") and path.stem[1:].strip("."):
            names.add(path.stem[1:])
        elif not hidden and (path.is_dir() or (path.is_symlink() and not path.exists())):
            names.add(path.name)
    return (runs / name for name in sorted(names))


def write_result(folder: Path, result: Mapping[str, Any], name: str = "result.json") -> None:
    """result.json, or another file, with a digest of what it says."""
    content = json.loads(json.dumps({k: v for k, v in result.items() if k != "digest"}))
    content["digest"] = _digest(content)
    write_atomically(folder / name, json.dumps(content, indent=1).encode())


def read_result(folder: Path, name: str = "result.json") -> dict[str, Any]:
    """result.json, or another file of `write_result`, after a check that nobody edited it.

    Raises OSError or ValueError (InputError is one).
    """
    result = read_json(folder / name)
    if not isinstance(result, dict) or result.pop("digest", None) != _digest(result):
        raise InputError(f"{name} has changed since the run")
    return result


def read_json(file: Path) -> Any:
    """What a JSON file says. Raises OSError or ValueError."""
    try:
        return json.loads(read_file(file))
    except RecursionError:
        raise InputError(f"{file.name} is nested too deeply") from None


def _digest(result: Mapping[str, Any]) -> str:
    """Of what a result says, however its file is laid out."""
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()


def check_place(folder: Path, identity: Identity) -> None:
    """Raises InputError unless the folder is this run's."""
    if not folder.name.endswith(f"-{identity.key}"):
        raise InputError(f"the folder holds the run {identity.run_id}")


def check(name: str, content: bytes, digests: Mapping[str, str]) -> None:
    """Raises ValueError unless this is what the run wrote, KeyError where it wrote none."""
    if hashlib.sha256(content).hexdigest() != digests[name]:
        raise InputError(f"{name} has changed since the run")


def read_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """A run's weights by name, such as ``body.conv1.weight``. Raises InputError."""
    return {name: weight.numpy() for name, weight in run_tensors(folder, "run").items()}


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Put the weights of the run in ``folder`` into ``model``; they must fit. Raises InputError."""
    try:
        model.load_state_dict(run_tensors(folder, "run"))
    except RuntimeError as error:
        file, reason = Path(folder) / "model.safetensors", one_line(error).split(": ", 1)[-1]
        raise InputError(
            f"run: {file} does not hold this model's weights ({reason[:60]}); "
            "allowed: those of the same layers"
        ) from None


def run_tensors(folder: str | Path, what: str) -> dict[str, torch.Tensor]:
    """As the run wrote them; of a folder that has no run's name, as they are."""
    file = Path(folder).absolute() / "model.safetensors"
    try:
        content = read_file(file)
        if re.search("-[0-9a-f]{10}$", file.parent.name):
            result = read_result(file.parent)
            check_place(file.parent, Identity.from_json(result))
            check(file.name, content, result["sha256"])
        return dict(sorted(load(content).items()))  # it gives them in any order
    except Exception as error:  # safetensors raises types of its own
        raise InputError(
            f"{what}: {file} does not hold a run's weights ({one_line(error)}); "
            "allowed: those of a finished run"
        ) from None
