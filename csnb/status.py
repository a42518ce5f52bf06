"""How far the runs in a folder are, whoever executes them."""

import json
from pathlib import Path

import pandas as pd

from csnb.errors import InputError
from csnb.frames import run_folders
from csnb.runs import read_result


def status(folder: str | Path) -> pd.DataFrame:
    """A row per run folder: ``run``, ``state`` (done, failed, broken, running or interrupted) and ``now``, what to know.

    Running is what some process holds; interrupted what none holds and has no result. Results are checked against their
    digest, other files are not read. Raises InputError where there is no such folder.
    """
    rows = [(path.name, *_state(path)) for path in run_folders(folder)]
    return pd.DataFrame(rows, columns=["run", "state", "now"])


def progress(folder: Path) -> str:
    """The last line of progress.jsonl in words; empty where there is none."""
    try:
        last = json.loads((folder / "progress.jsonl").read_text().splitlines()[-1])
        if last["stage"] == "train":
            return f"epoch {last['epoch']} of {last['epochs']}, loss {last['loss']:.4f}"
        return f"evaluated: {last['attack']}"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""


def is_running(folder: Path) -> bool:
    """Whether a process holds this run."""
    from csnb.locks import is_locked  # here, since only Unix has these locks and csnb is imported everywhere

    return is_locked(folder / ".lock")


def _state(folder: Path) -> tuple[str, str]:
    if is_running(folder):
        return "running", progress(folder)
    if (folder / "result.json").exists():
        try:
            read_result(folder)
        except (InputError, OSError, ValueError) as error:
            return "broken", str(error)
        return "done", ""
    try:
        failure = json.loads((folder / "failed.json").read_text())
        return "failed", f"{failure['reason']}: {failure['message']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "interrupted", progress(folder)
