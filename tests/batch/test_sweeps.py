"""Sweeps executed: in parallel as serially, shared, resumed, on any executor; what people see."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from batches import (
    END,
    ROOT,
    START,
    contents,
    csnb_sweep,
    stamps,
    start,
    write_notebook,
    write_sweep,
)

from csnb import InputError, sweep
from csnb.__main__ import main
from csnb.batch import make_plan, sweeps
from csnb.batch.plan import Job
from csnb.batch.sweeps import cores, count_jobs, run_all
from csnb.runs import Status, status


def states(file: Path, runs: Path) -> list[str]:
    return [found.state for _, found in make_plan(file, runs)]


@pytest.mark.parametrize(
    ("options", "name"), [({"jobs": 0}, "jobs"), ({"jobs": "2"}, "jobs"), ({"only": {"a": 1}}, "a")]
)
def test_bad_options_are_refused(options: dict, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{name}:"):
        sweep(write_sweep(tmp_path, method=["CSA"]), runs=tmp_path / "runs", **options)


def test_a_parallel_sweep_equals_a_serial_one_bit_for_bit(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = small / "parallel {method}"  # braces, which papermill would fill in
    assert main(["sweep", str(small / "sweep.yaml"), "--runs", str(runs), "--jobs", "2"]) == 0
    assert contents(runs) == contents(small / "serial")
    output = capsys.readouterr().out
    line = r"^done    stripes-\w+-p\d-s0-\w{10}: clean \d\.\d{4} \[.*\], FGSM \d.*, \d+ s$"
    assert len(re.findall(line, output, re.M)) == 3, output
    assert output.startswith("3 runs: 3 todo\n") and output.endswith("\n3 done\n")
    assert not list(small.glob("**/.*.new")) and not list(small.glob("parallel CS*"))


def test_a_second_call_finds_everything_done(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(small / "serial")
    assert main(["sweep", str(small / "sweep.yaml"), "--runs", str(small / "serial")]) == 0
    assert stamps(small / "serial") == before and len(before) == 3
    assert capsys.readouterr().out == "3 runs: 3 done\n3 done\n"
    assert set(status(small / "serial")["state"]) == {"done"}


def test_a_dry_run_says_what_is_left_and_how_long_it_takes(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((small / "sweep.yaml").read_text())
    content["also"].append({"method": ["STD", "CSA"], "seed": 7})
    file = small / "more.yaml"
    file.write_text(yaml.safe_dump(content))
    assert main(["sweep", str(file), "--runs", str(small / "serial"), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("5 runs: 3 done, 2 todo\nestimated time: 0:00:")
    assert output.endswith("(as runs of this sweep: 2)\n3 done, 2 todo\n")


def test_what_is_done_does_not_depend_on_the_notebook_nor_on_the_folder_s_name(
    small: Path, tmp_path: Path
) -> None:
    other = write_notebook(tmp_path / "quick.ipynb", START, "1 + 1", END)
    content = yaml.safe_load((small / "sweep.yaml").read_text()) | {"notebook": str(other)}
    (small / "other.yaml").write_text(yaml.safe_dump(content))
    assert set(states(small / "other.yaml", small / "serial")) == {"done"}
    moved = shutil.copytree(small / "serial", tmp_path / "moved")
    assert set(states(small / "sweep.yaml", moved)) == {"done"}


def test_a_changed_input_makes_its_runs_stale_wherever_it_lies(small: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, method=["STD", "CSA"])
    runs = shutil.copytree(small / "serial", tmp_path / "runs")
    assert states(file, runs) == ["done", "done"]  # another path, the same content
    with np.load(tmp_path / "stripes.npz") as arrays:
        changed = {name: arrays[name] for name in arrays}
    changed["x_test"][0, 0, 0] *= 0.5
    np.savez(tmp_path / "stripes.npz", **changed)
    found = {(one.state, one.reason) for _, one in make_plan(file, runs)}
    assert found == {("stale", "stripes.npz has changed")}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("result.json", lambda b: b.replace(b'"correct": ', b'"correct": 1', 1), "result.json"),
        ("result.json", lambda b: b[:-10], "JSONDecodeError"),
        ("result.json", lambda b: b"[" * 100_000, "nested too deeply"),
        ("model.safetensors", lambda b: b[:-1], "model.safetensors has changed"),
        ("predictions.npz", lambda b: b + b"x", "predictions.npz has changed"),
        ("notebook.ipynb", lambda b: b"", "notebook.ipynb"),
        ("notebook.ipynb", None, "notebook.ipynb"),
        ("model.safetensors", None, "model.safetensors"),
    ],
)
def test_a_changed_folder_is_reported_by_name(
    small: Path, tmp_path: Path, name: str, change, reason: str
) -> None:
    runs = shutil.copytree(small / "serial", tmp_path / "runs")
    (_, (job, _), _) = make_plan(small / "sweep.yaml", runs)
    file = job.folder / name
    content = file.read_bytes()
    file.unlink() if change is None else file.write_bytes(change(content))
    after = [found for _, found in make_plan(small / "sweep.yaml", runs)]
    assert [found.state for found in after] == ["done", "broken", "done"]
    assert reason in after[1].reason


def test_a_command_gives_the_same_run(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--only", "method=CSE(gamma=10)", "--commands"]
    runs = small / "by 'hand' {seed}"
    arguments = ["sweep", str(small / "sweep.yaml"), "--runs", str(runs), *options]
    assert main(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    made, known = contents(runs, notebooks=False), contents(small / "serial")
    assert made == {name: known[name] for name in made} and len(made) == 1
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""  # it is done


@pytest.mark.slow
def test_a_notebook_can_run_a_sweep(small: Path, tmp_path: Path) -> None:
    call = f"csnb.sweep({str(small / 'sweep.yaml')!r}, runs={str(small / 'serial')!r})"
    cells = [f"import csnb\nframe = {call}", "list(frame.state)"]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbformat.write(notebook, tmp_path / "caller.ipynb")
    done = papermill.execute_notebook(
        str(tmp_path / "caller.ipynb"), None, kernel_name="python3", progress_bar=False
    )
    assert done.cells[-1].outputs[0].data["text/plain"] == "['done', 'done', 'done']"


def test_a_reader_that_goes_away_stops_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sweep(tmp_path, "raise ValueError", seed=[0, 1])
    read, write = os.pipe()
    with os.fdopen(write, "w") as ours:
        monkeypatch.setattr(sys, "stdout", ours)
        os.close(read)  # as head -1 does, but for the one line
        assert main(["sweep", str(file), "--runs", str(tmp_path / "runs"), "--jobs", "2"]) == 1
    assert states(file, tmp_path / "runs") == ["failed", "failed"]


@pytest.mark.slow
def test_two_sweeps_at_once_execute_each_run_once(small: Path) -> None:
    both = [start(small / "sweep.yaml", small / "shared", "--jobs", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    made = [name for out in outputs for name in re.findall(r"^done +(\S+): .*s$", out, re.M)]
    assert len(made) == len(set(made)) == 3
    assert all(output.endswith("\n3 done\n") for output in outputs)
    assert contents(small / "shared") == contents(small / "serial")


# --- the order of things, without notebooks


def job(name: str, **parameters: object) -> Job:
    return Job(name, Path(), {"threads": 1, **parameters}, (), Path(), None, Path())


class Recorder(ThreadPoolExecutor):
    """An executor that calls something else instead of a run."""

    def __init__(self, call) -> None:
        super().__init__(8)
        self.call, self.now, self.most, self.lock = call, 0, 0, threading.Lock()

    def submit(self, function, *arguments) -> Future:
        return super().submit(self._counted, *arguments)

    def _counted(self, given: Job, attempt: int) -> Status:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        return self.call(given, attempt)


def records(jobs: list[Job], executor: Recorder, limit: int) -> Iterator[tuple[str, Status]]:
    with executor:
        for ended in filter(None, run_all(jobs, executor, limit, {}, threading.Event())):
            yield ended[0].run_id, ended[1]


def test_as_many_runs_at_once_as_asked_for() -> None:
    executor = Recorder(lambda given, attempt: Status("done"))
    ended = dict(records([job(str(i)) for i in range(12)], executor, 3))
    assert ended == {str(i): Status("done") for i in range(12)}
    assert executor.most == 3


def test_a_busy_run_comes_again_until_it_is_done() -> None:
    seen = Counter()

    def call(given: Job, attempt: int) -> Status:
        seen[given.run_id] += 1
        assert attempt == seen[given.run_id]
        return Status("running" if given.run_id == "a" and attempt < 4 else "done")

    ended = list(records([job("a"), job("b")], Recorder(call), 1))
    assert [name for name, _ in ended] == ["b", "a"] and seen == {"a": 4, "b": 1}


def test_a_run_that_an_executor_loses_is_a_failure(tmp_path: Path) -> None:
    errors = {
        "a": type("KilledWorker", (Exception,), {})("out of memory"),  # dask's
        "b": ModuleNotFoundError("csnb"),
        "c": CancelledError(),
    }

    def call(given: Job, attempt: int) -> Status:
        raise errors[given.run_id]

    jobs = [Job(name, tmp_path, {}, (), Path(), None, Path()) for name in errors]
    ended = {name: found.reason for name, found in records(jobs, Recorder(call), 2)}
    assert ended == {
        "a": "killed: out of memory",
        "b": "raised: ModuleNotFoundError: csnb",
        "c": "killed: CancelledError",
    }
    assert json.loads((tmp_path / "a" / "failed.json").read_text())["reason"] == "killed"


def test_cores_are_divided_among_runs_and_a_gpu_is_one_run_s(monkeypatch) -> None:
    monkeypatch.setattr(sweeps, "devices", list)
    monkeypatch.setattr(sweeps, "cores", lambda: 8)
    counts = [count_jobs([job("a"), job("b", threads=threads)]) for threads in (1, 2, 3, 16)]
    assert counts == [8, 4, 2, 1]
    assert count_jobs([job("a", threads=0)]) == 1 and count_jobs([]) == 8
    monkeypatch.setattr(sweeps, "devices", lambda: ["0", "1"])
    assert count_jobs([job("a")]) == 2


def test_cores_are_those_that_this_process_may_use(monkeypatch, tmp_path: Path) -> None:
    here = os.sched_getaffinity(0)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(sweeps, "QUOTA", quota)
    assert cores() == len(here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7, 9})
    for text, number in (("max 100000", 4), ("250000 100000", 3), ("9900000 100000", 4)):
        quota.write_text(f"{text}\n")
        assert cores() == number
    quota.unlink()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


# --- elsewhere


@pytest.mark.slow
def test_a_dask_cluster_runs_a_sweep_as_this_machine_does(small: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("dask.distributed")
    cluster = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**cluster) as made, distributed.Client(made) as client:
        frame = sweep(small / "sweep.yaml", runs=small / "dask", executor=client.get_executor())
        assert list(frame["state"]) == ["done"] * 3
        assert contents(small / "dask") == contents(small / "serial")
        address = ["--dask", made.scheduler_address, "--jobs", "1"]
        code, output = csnb_sweep(small / "sweep.yaml", small / "shell", *address)
        assert code == 0, output
        assert contents(small / "shell") == contents(small / "serial")


WINDOWS = """
import os, sys
sys.modules["fcntl"] = None
for name in ("killpg", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
"""


@pytest.mark.slow
def test_what_windows_lacks_is_not_missed(small: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    options = ["--only", "method=STD", "--jobs", "1"]
    code, output = csnb_sweep(small / "sweep.yaml", tmp_path / "runs", *options, **path)
    assert code == 0, output
    known = contents(small / "serial")
    made = contents(tmp_path / "runs")
    assert made == {name: known[name] for name in made} and len(made) == 1
    command = [sys.executable, "-m", "csnb", "status", str(tmp_path / "runs")]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | path)
    assert (shown.returncode, shown.stdout) == (0, "1 runs: 1 done\n"), shown.stderr


@pytest.mark.slow
def test_the_digits_table_takes_two_minutes(tmp_path: Path) -> None:
    start_time = time.perf_counter()
    code, output = csnb_sweep(ROOT / "params/sweeps/digits_table.yaml", tmp_path)
    assert code == 0 and output.endswith("\n10 done\n"), output
    assert time.perf_counter() - start_time < 120
