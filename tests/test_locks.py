"""Locks and temporary folders of processes; and systems that lack what Linux has."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from making import QUICK, stripes

import csnb
from csnb import Experiment, find_or_run, locks
from csnb.__main__ import main
from csnb.batch import execute
from csnb.locks import Lock, is_held, scratch
from csnb.models.native import available
from csnb.paths import CHECKOUT
from csnb.runs import inspect
from csnb.runs.folder import HOLD


def test_a_lock_is_one_s_until_it_is_let_go(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    one, other = Lock(file), Lock(file)
    assert not is_held(file)
    assert one.acquire() and is_held(file)
    start = time.monotonic()
    assert not other.acquire(0.2) and time.monotonic() - start > 0.1
    one.release()
    assert not is_held(file)
    assert other.acquire() and not one.acquire()
    other.release()


def test_looking_neither_takes_a_lock_nor_makes_one(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "lock") and not list(tmp_path.iterdir())
    (tmp_path / "folder").mkdir()
    assert not is_held(tmp_path / "folder")
    file = tmp_path / "file"
    file.touch()
    before = file.stat().st_mtime_ns
    assert not is_held(file) and file.stat().st_mtime_ns == before


def test_without_fcntl_filelock_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    lock = Lock(tmp_path / "lock")
    assert lock.acquire() and is_held(tmp_path / "lock")
    lock.release()
    assert not is_held(tmp_path / "lock")


# --- a file system without locks


def without_locks(patch: pytest.MonkeyPatch, error: Exception) -> None:
    """Nothing in this process gets a lock, as on Lustre or some NFS."""

    def flock(*args: object, **options: object) -> None:
        raise error

    patch.setattr(locks, "_said", set())
    if isinstance(error, NotImplementedError):  # filelock of before
        patch.setattr(locks, "fcntl", None)
        patch.setattr("csnb.locks.FileLock.acquire", flock)
    else:
        patch.setattr(fcntl, "flock", flock)


def in_this_process(job, folder: Path, slot: dict[str, str], stop: object) -> None:
    """In a kernel's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOLD, job.run_id)
        csnb.run(Experiment(**job.parameters))
    (folder / "notebook.ipynb").write_text("{}")


ERRORS = [OSError(n, os.strerror(n)) for n in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)]
ERRORS += [NotImplementedError("FileSystem does not appear to support flock")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_runs_and_sweeps_do_without_locks_and_say_so_once(
    error: Exception,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    without_locks(monkeypatch, error)
    monkeypatch.setattr(execute, "_run_child", in_this_process)
    base = QUICK | {"dataset": data}
    folder = find_or_run(Experiment(**base, runs=str(tmp_path / "runs")))
    assert inspect(folder).state == "done"

    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ""}
    (tmp_path / "quick.ipynb").write_text(json.dumps({"cells": [cell]}))
    grid = {name: [value] for name, value in base.items()} | {"seed": [0, 1]}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"notebook": "quick.ipynb", "grid": grid}))
    frame = csnb.sweep(file, runs=tmp_path / "runs", jobs=1)
    assert frame["state"].tolist() == ["done", "done"]
    assert main(["status", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr()
    assert "2 runs: 2 done" in said.out
    lines = [line for line in said.err.splitlines() if "not told apart" in line]
    systems = {Path(place).stat().st_dev for place in (tmp_path, tempfile.gettempdir())}
    assert 1 <= len(lines) <= len(systems), said.err


def test_other_errors_of_locking_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        Lock(tmp_path / "lock").acquire()


# --- temporary folders

LEFT = """
import sys, time
from csnb.locks import scratch
with scratch(sys.argv[1]) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEFT, str(tmp_path)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) for _ in "ab"
    ]
    try:
        left, live = (Path(process.stdout.readline().strip()) for process in started)
        for name in ("csnb-gpus-0", "csnb-mine", "other"):
            (tmp_path / name).mkdir()
        (tmp_path / "csnb-link").symlink_to(tmp_path / "other")
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].wait()
        with scratch(str(tmp_path)) as own:
            assert left.is_dir() and own.is_dir()  # too young: it may not have its lock yet
        for folder in (left, live):
            os.utime(folder / "lock", (0, 0))
        with scratch(str(tmp_path)) as own:
            kept = {path.name for path in tmp_path.iterdir()}
        assert kept == {live.name, own.name, "csnb-gpus-0", "csnb-mine", "other", "csnb-link"}
        assert not own.exists()
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_where_there_are_no_locks_nothing_is_taken_for_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, ERRORS[0])
    with scratch(str(tmp_path)) as first:
        os.utime(first / "lock", (0, 0))
        with scratch(str(tmp_path)):
            assert first.is_dir()


# --- other systems

WINDOWS = """
import os, signal, sys
sys.modules["fcntl"] = None
import torch
del os.getuid, os.killpg, signal.SIGKILL
"""
WORK = """
import sys
from pathlib import Path
import torch, yaml
import csnb
from csnb.__main__ import main
from csnb.batch import make_plan
from csnb.models import LeNet
from csnb.models.native import available
folder = Path(sys.argv[1])
assert LeNet((1, 12, 12), 3)(torch.zeros(2, 1, 12, 12)).shape == (2, 3)
base = yaml.safe_load((folder / "base.yaml").read_text(encoding="utf-8"))
run = csnb.run(csnb.Experiment(**base, runs=str(folder / "runs")))
states = [found.state for _, found in make_plan(folder / "sweep.yaml", folder / "runs")]
assert states == ["done", "failed"], states
assert main(["status", str(folder / "runs")]) == 1
assert csnb.read_run(run.folder)["classes"] == ["\\xfcber", "mitte", "unter"]
csnb.load_model(run.folder)
print("native", available())
"""


@pytest.mark.parametrize("system", ["Windows", "LC_ALL=C"])
def test_a_run_a_plan_and_a_status_elsewhere(system: str, tmp_path: Path) -> None:
    """No fcntl, users, process groups; no UTF-8 unless a file is said to be so."""
    classes = ("\xfcber", "mitte", "unter")
    base = QUICK | {"dataset": stripes(tmp_path / "stripes.npz", classes=classes)}
    base |= {"protected_class": "\xfcber"}
    grid = {name: [value] for name, value in base.items()} | {"seed": [0, 1]}
    sweep = {"notebook": "quick.ipynb", "grid": grid}
    for name, content in (("base", base), ("sweep", sweep)):
        text = yaml.safe_dump(content, allow_unicode=True)
        (tmp_path / f"{name}.yaml").write_text(f"# \u2713 \xfc\n{text}", encoding="utf-8")
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "# \u2713"}
    notebook = json.dumps({"cells": [cell]}, ensure_ascii=False)
    (tmp_path / "quick.ipynb").write_text(notebook, encoding="utf-8")
    other = Experiment(**base, seed=1).identity().run_id
    (tmp_path / "runs" / other).mkdir(parents=True)
    failure = json.dumps({"reason": "r", "message": "\u2713", "seconds": 1}, ensure_ascii=False)
    (tmp_path / "runs" / other / "failed.json").write_text(failure, encoding="utf-8")

    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    if system == "Windows":  # a cache of its own: locks of two kinds do not see each other
        environment = {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", (WINDOWS if system == "Windows" else "") + WORK, str(tmp_path)],
        env=os.environ | environment,
        capture_output=True,
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    said = done.stdout.decode()
    assert "2 runs: " in said and "1 failed" in said and f"native {available()}" in said
    assert ("r: \u2713" if system == "Windows" else "r: \\u2713") in said
