"""Finished runs taken over into the repository, without their executed notebooks."""

import shutil
from pathlib import Path

from csnb.errors import InputError
from csnb.paths import CHECKOUT, RESULTS
from csnb.runs import inspect, run_folders, weights_digest
from csnb.runs.folder import write_result

LEFT = ("notebook.ipynb", "progress.jsonl")  # 0.3 MB of pictures; what was under way


def take(runs: str | Path, target: Path = RESULTS) -> list[Path]:
    """Copy the finished runs of a folder that are not in ``target``; the folders that were made.

    What is kept beside a run comes along, such as margins and audits, also later, of the same
    weights; a copy that is no longer done is made again. Files that this checkout has too are named
    relative to it. Raises InputError where a copy does not verify, and leaves none.
    """
    made = []
    for folder in run_folders(runs):
        status, copy = inspect(folder), target / folder.name
        if status.state != "done":
            continue
        if (there := inspect(copy)).state == "done":
            if weights_digest(there.result) == weights_digest(status.result):
                _add_missing(folder, copy)
            continue
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*LEFT))
        digests = {k: v for k, v in status.result["sha256"].items() if k not in LEFT}
        files = {kind: _within(file) for kind, file in status.result["files"].items()}
        write_result(copy, {**status.result, "files": files, "sha256": digests})
        if (found := inspect(copy)).state != "done":
            shutil.rmtree(copy)
            raise InputError(f"{folder.name}: its copy is {found.state}, {found.reason}")
        made.append(copy)
    return made


def _add_missing(folder: Path, copy: Path) -> None:
    """What was kept beside a run after it was copied."""
    for file in folder.iterdir():
        if file.name not in LEFT and not (copy / file.name).exists():
            shutil.copy2(file, copy)


def _within(file: str) -> str:
    """An absolute path from the checkout's root on, where this file or run lies there."""
    parts = Path(file).parts
    ends = (Path(*parts[start:]) for start in range(1, len(parts)))
    known = (end for end in ends if (CHECKOUT / end).is_file() or _is_run(CHECKOUT / end))
    return next((end.as_posix() for end in known), file)


def _is_run(place: Path) -> bool:
    return place.parent == RESULTS and inspect(place).state == "done"
