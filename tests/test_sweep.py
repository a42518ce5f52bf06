"""Batches: what is planned, executed, resumed, reported; and that nothing half-done is ever taken for done."""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import papermill
import psutil
import pytest
import yaml
from sweeping import END, PROTECT, ROOT, START, contents, csnb_sweep, start, write_notebook, write_sweep

from csnb import Experiment, InputError, read_run, sweep
from csnb.__main__ import main
from csnb.batch import count_jobs
from csnb.execution import Task, gpu_slot, run_one
from csnb.locks import is_locked, try_lock
from csnb.plan import make_plan, parse_only, read_code, run_ids
from csnb.status import status

SWEEPS = sorted((ROOT / "params" / "sweeps").glob("*.yaml"))
GRID = {"method": ["CSA", "CSE"], "protected_class": [0, "below"]}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of five runs, with an undisturbed serial execution in ``serial``."""
    folder = tmp_path_factory.mktemp("small")
    file = write_sweep(folder, also=[{"method": "STD"}], **GRID)
    code, output = csnb_sweep(file, folder / "serial", "--jobs", "1")
    assert code == 0, output
    return folder


def states(file: Path, runs: Path) -> list[str]:
    return [status.state for status in make_plan(file, runs).statuses]


def stamps(runs: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}


# --- planning


def test_a_plan_is_the_grid_and_what_comes_beside_it_each_run_once(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, also=[{"method": "STD", "seed": [0, 1]}, {"method": "CSA", "protected_class": 0}], **GRID)
    base = {"dataset": str(tmp_path / "stripes.npz"), "attacks": "PGD", "pgd_steps": 3, "epochs": 1}
    wanted = [{"method": method, "protected_class": p} for method in GRID["method"] for p in GRID["protected_class"]]
    wanted += [{"method": "STD", "seed": 0}, {"method": "STD", "seed": 1}]
    plan = make_plan(file, tmp_path / "runs")
    assert [job.run_id for job in plan.jobs] == [Experiment(**base | own).run_id for own in wanted]
    assert [job.folder for job in plan.jobs] == [tmp_path / "runs" / job.run_id for job in plan.jobs]
    assert {status.state for status in plan.statuses} == {"todo"} and not (tmp_path / "runs").exists()


def test_only_keeps_runs_that_have_the_values_in_any_notation(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, also=[{"method": "STD", "eps": 0.5}], **GRID)
    for text, number in (("method=CSA", 2), ("method=CSA,protected_class=below", 1), ("eps=1/2", 1), ("protected_class=0", 3)):
        assert len(make_plan(file, tmp_path, parse_only(text)).jobs) == number, text
    with pytest.raises(InputError, match="fits no run"):
        make_plan(file, tmp_path, {"method": "ADV"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"methods": ["CSA"]}}, "methods: no such parameter"),
        ({"grid": {"eps": [0.1, -1]}}, "eps: -1 is not allowed"),
        ({"also": [{"method": "CSB"}]}, "method: 'CSB' is not allowed"),
        ({"also": {"method": "STD"}}, "grid, also: not as allowed"),
        ({"grid": {"threads": [1, 2]}}, "for one run in"),
        ({"grid": {"runs": ["here"]}}, "runs: 'here'"),
        ({"grids": {}}, "grids: no such entry"),
        ({"timeout": "1h"}, "timeout: '1h'"),
        ({"params": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"notebook": "nowhere.ipynb"}, "nowhere.ipynb cannot be read"),
        ({"notebook": "sweep.yaml"}, "sweep.yaml cannot be read"),
        ({"grid": {"method": []}}, "leaves no run"),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line_before_any_work(
    change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, method=["CSA"])
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    assert main(["sweep", str(file), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("options", [{"backend": "threads"}, {"jobs": 0}])
def test_bad_options_are_refused(options: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        sweep(write_sweep(tmp_path, method=["CSA"]), runs=tmp_path / "runs", **options)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("mnist_table2", 32), ("cifar10_table3", 31), ("fashion_mnist_table2", 32), ("cifar100_table4", 10)),
        *(("figures", 9), ("threat_model", 4), ("digits_table", 10)),
    ],
)
def test_the_sweeps_of_the_paper_are_all_there(name: str, number: int, tmp_path: Path) -> None:
    assert [file.stem for file in SWEEPS].count(name) == 1
    plan = make_plan(name, tmp_path)
    assert [job.run_id for job in plan.jobs] == run_ids(ROOT / "params" / "sweeps" / f"{name}.yaml")
    assert len(plan.jobs) == number and plan.code.notebook == PROTECT


def test_figures_use_the_runs_of_the_tables_but_where_an_attack_is_watched() -> None:
    tables = {run for name in ("mnist_table2", "cifar10_table3", "cifar100_table4") for run in run_ids(name)}
    own = {run.rsplit("-", 1)[0] for run in run_ids("figures") if run not in tables}
    watched = {f"{data}-{method}-p0-s0" for data in ("mnist", "cifar10") for method in ("STD", "CSE")}
    short = {"cifar100-STD-p21-s0", "cifar100-CSE-p21-s0"}  # attacked by PGD alone
    assert own == {"mnist-CSA+L2-p0-s0"} | watched | short
    assert {run.rsplit("-", 1)[0] for run in run_ids("figures") if run in tables} == {"mnist-ADV-p0-s0", "mnist-CSA-p0-s0"}


def test_ten_thousand_runs_are_planned_within_ten_seconds_in_little_memory(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, seed=list(range(5000)), **{"method": ["CSA", "CSE"]})
    start_time = time.perf_counter()
    plan = make_plan(file, tmp_path / "runs")
    assert time.perf_counter() - start_time < 10
    assert len({job.folder for job in plan.jobs}) == 10_000
    tracemalloc.start()
    make_plan(file, tmp_path / "runs", {"method": "CSA"})
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


# --- executing and resuming


def test_a_parallel_sweep_equals_a_serial_one_bit_for_bit(small: Path) -> None:
    code, output = csnb_sweep(small / "sweep.yaml", small / "parallel", "--jobs", "2")
    assert code == 0, output
    assert contents(small / "parallel") == contents(small / "serial")
    assert len(re.findall(r"^done .* clean 1?0?\.\d{4} \[.*\], PGD ", output, re.M)) >= 4
    assert output.rstrip().endswith("5 done")


def test_a_second_call_finds_everything_done(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(small / "serial")
    assert main(["sweep", str(small / "sweep.yaml"), "--runs", str(small / "serial")]) == 0
    assert stamps(small / "serial") == before and len(before) == 5
    assert "5 runs: 5 done" in capsys.readouterr().out


def test_the_time_left_is_estimated_from_runs_of_the_same_method(small: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((small / "sweep.yaml").read_text())
    content["also"].append({"method": ["STD", "CSA"], "seed": 7})
    (small / "more.yaml").write_text(yaml.safe_dump(content))
    seconds = {}
    for folder in (small / "serial").iterdir():
        result = read_run(folder)
        seconds.setdefault(result["parameters"]["method"], []).append(sum(result["seconds"].values()))
    plan = make_plan(small / "more.yaml", small / "serial")
    assert plan.seconds_left() == pytest.approx(np.mean(seconds["STD"]) + np.mean(seconds["CSA"]))
    assert make_plan(small / "more.yaml", tmp_path).seconds_left() is None


def test_done_means_the_same_code_and_parameters(small: Path, tmp_path: Path) -> None:
    file, runs = small / "sweep.yaml", small / "serial"
    plan = make_plan(file, runs)
    other = write_notebook(tmp_path / "quick.ipynb", START, "1 + 1", END)
    code = read_code(other)
    assert code.digest != plan.code.digest and code.sources == plan.code.sources
    content = yaml.safe_load(file.read_text()) | {"notebook": str(other)}
    (small / "other.yaml").write_text(yaml.safe_dump(content))
    assert set(states(small / "other.yaml", runs)) == {"stale"}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("result.json", lambda b: b.replace(b'"correct": ', b'"correct": 1', 1), "result.json has changed"),
        ("result.json", lambda b: b[:-10], "not a complete run"),
        ("model.safetensors", lambda b: b[:-1], "model.safetensors has changed"),
        ("predictions.npz", lambda b: b + b"x", "predictions.npz has changed"),
        ("notebook.ipynb", None, "notebook did not come to its end"),
        ("model.safetensors", None, "model.safetensors"),
    ],
)
def test_a_changed_folder_is_reported_by_name(small: Path, name: str, change, reason: str) -> None:
    plan = make_plan(small / "sweep.yaml", small / "serial")
    file = plan.jobs[1].folder / name
    content = file.read_bytes()
    try:
        file.unlink() if change is None else file.write_bytes(change(content))
        after = make_plan(small / "sweep.yaml", small / "serial").statuses
        assert [status.state for status in after] == ["done", "broken", "done", "done", "done"]
        assert reason in after[1].reason
    finally:
        file.write_bytes(content)


def test_a_run_by_plain_papermill_counts_as_done(small: Path, tmp_path: Path) -> None:
    job = make_plan(small / "sweep.yaml", tmp_path / "runs").jobs[0]
    papermill.execute_notebook(str(small / "quick.ipynb"), str(tmp_path / "out.ipynb"), job.parameters, progress_bar=False)
    assert states(small / "sweep.yaml", tmp_path / "runs") == ["done", "todo", "todo", "todo", "todo"]


TROUBLE = """
import os, signal, sys, time
from pathlib import Path
_broken = not Path(dataset).with_name("repaired").exists()
if _broken and seed == 1: raise ValueError("two\\nlines")
if _broken and seed == 2: sys.exit(0)
if _broken and seed == 3: time.sleep(600)
if _broken and seed == 4: os.kill(os.getpid(), signal.SIGKILL)
if _broken and seed == 5: open("/dev/full", "w").write("x" * 100_000)
"""
AFTER = """
file = run.folder / "model.safetensors"
if _broken and seed == 6: file.write_bytes(b"x" + file.read_bytes()[1:])
file = run.folder / "result.json"
if _broken and seed == 7: file.write_text(file.read_text().replace('"value": ', '"value": 1', 1))
if _broken and seed == 8: sys.exit(0)
"""
REASONS = {
    1: "raised: ValueError: two lines",
    2: "sys.exit",
    3: "time-out",
    4: "kernel killed",
    5: "disk full",
    6: "model.safetensors has changed",
    7: "result.json has changed",
    8: "sys.exit",
    9: "raised: InputError: init_from",
}


@pytest.mark.slow
def test_failures_are_reported_by_name_and_the_next_call_repeats_just_those(tmp_path: Path) -> None:
    garbage = tmp_path / "weights"
    garbage.mkdir()
    (garbage / "model.safetensors").write_bytes(b"garbage")
    unreadable = {"seed": 9, "init_from": str(garbage)}
    file = write_sweep(tmp_path, TROUBLE, START, END, AFTER, timeout=40, seed=list(range(9)), also=[unreadable])
    runs = tmp_path / "runs"
    code, output = csnb_sweep(file, runs, "--jobs", "2")
    assert code == 1 and output.rstrip().endswith("9 failed, 1 done"), output
    for job, found in zip((plan := make_plan(file, runs)).jobs, plan.statuses, strict=True):
        seed = job.parameters["seed"]
        assert found.state == ("failed" if seed else "done"), job
        assert REASONS.get(seed, "") in found.reason and "\n" not in found.reason
        assert (f"FAILED  {job}: " in output) == bool(seed)
    frame = status(runs)
    assert Counter(frame["state"]) == {"failed": 9, "done": 1}
    assert main(["status", str(runs)]) == 1

    before = stamps(runs)
    (tmp_path / "repaired").touch()
    assert csnb_sweep(file, runs, "--jobs", "2", "--only", "seed=0")[0] == 0
    code, output = csnb_sweep(file, runs, "--jobs", "2", "--retry-failed")
    assert code == 1 and output.rstrip().endswith("9 done, 1 failed"), output  # the weights are garbage still
    assert before.items() <= stamps(runs).items() and output.count("\ndone ") == 8


def tmpfs(folder: Path, size: str, option: str = "") -> bool:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    if not tmpfs(runs, "150k"):
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        file = write_sweep(tmp_path, seed=[0, 1, 2])
        code, output = csnb_sweep(file, runs, "--jobs", "1")
        assert code == 1 and "disk full" in output, output
        done = stamps(runs)
        assert states(file, runs).count("done") == len(done) < 3
        assert tmpfs(runs, "10m", "remount,")
        assert csnb_sweep(file, runs, "--jobs", "2")[0] == 0
        assert states(file, runs) == ["done"] * 3 and done.items() <= stamps(runs).items()
    finally:
        subprocess.run(["umount", str(runs)], check=True)


@pytest.mark.slow
def test_two_sweeps_at_once_execute_each_run_once(small: Path) -> None:
    both = [start(small / "sweep.yaml", small / "shared", "--jobs", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    executed = [line.split()[1] for output in outputs for line in re.findall(r"^done .*s$", output, re.M)]
    assert len(executed) == len(set(executed)) == 5
    assert all(output.rstrip().endswith("5 done") for output in outputs)
    assert contents(small / "shared") == contents(small / "serial")


def test_a_notebook_can_run_a_sweep(small: Path, tmp_path: Path) -> None:
    call = f"csnb.sweep({str(small / 'sweep.yaml')!r}, runs={str(tmp_path)!r}, only={{'method': 'STD'}}, jobs=1)"
    cell = f"import csnb\nframe = {call}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell("list(frame.state)")])
    nbformat.write(notebook, tmp_path / "caller.ipynb")
    done = papermill.execute_notebook(
        str(tmp_path / "caller.ipynb"), str(tmp_path / "out.ipynb"), kernel_name="python3", progress_bar=False
    )
    assert done.cells[-1].outputs[0].data["text/plain"] == "['done']"


# --- interruptions


def processes(parent: int, sign: str) -> list[psutil.Process]:
    """Descendants with ``sign`` in their command line."""
    try:
        return [p for p in psutil.Process(parent).children(recursive=True) if sign in " ".join(p.cmdline())]
    except psutil.Error:  # one of them ended meanwhile
        return []


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def test_ctrl_c_ends_the_kernels_and_says_how_to_go_on(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, "import time; time.sleep(600)", seed=[0, 1])
    process = start(file, tmp_path / "runs", "--jobs", "2")
    wait_for(lambda: len(processes(process.pid, "ipykernel_launcher")) == 2)
    kernels = processes(process.pid, "ipykernel_launcher")
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "interrupted: 0 of 2 runs are done; the same command goes on" in output, output
    wait_for(lambda: not any(kernel.is_running() and kernel.status() != "zombie" for kernel in kernels), 5)
    assert states(file, tmp_path / "runs") == ["todo", "todo"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_kernel_does_not_outlive_a_killed_runner(jobs: str, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, "import time; time.sleep(600)", seed=[0, 1])
    process = start(file, tmp_path / "runs", "--jobs", jobs)
    wait_for(lambda: len(processes(process.pid, "ipykernel_launcher")) == int(jobs))
    kernels = processes(process.pid, "ipykernel_launcher")
    held = [folder / ".lock" for folder in (tmp_path / "runs").iterdir() if is_locked(folder / ".lock")]
    assert len(held) == int(jobs)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: not any(kernel.is_running() and kernel.status() != "zombie" for kernel in kernels), 5)
    wait_for(lambda: not any(map(is_locked, held)), 10)  # a worker notices, and goes


def test_a_lock_outlives_its_process_in_a_child_that_inherited_it(tmp_path: Path) -> None:
    with try_lock(tmp_path / "lock") as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
        with try_lock(tmp_path / "lock") as second:
            assert second is None
    assert is_locked(tmp_path / "lock")
    child.kill()
    child.wait()
    assert not is_locked(tmp_path / "lock")


def disturb(file: Path, runs: Path, kills: int, seed: int) -> Counter[str]:
    """Call the sweep again and again while its runner, workers and kernels are killed at random; then once in peace."""
    chance, killed = random.Random(seed), Counter()
    while killed.total() < kills:
        process = start(file, runs, "--jobs", "2")
        end = time.monotonic() + chance.uniform(2, 25)
        while process.poll() is None and killed.total() < kills:
            time.sleep(chance.uniform(0.5, 6))
            kind = chance.choice(["runner", "worker", "kernel"]) if time.monotonic() < end else "runner"
            sign = {"worker": "popen_loky_posix", "kernel": "ipykernel_launcher"}.get(kind)
            victims = processes(process.pid, sign) if sign else [psutil.Process(process.pid)]
            if victims and process.poll() is None:
                chance.choice(victims).kill()
                killed[kind] += 1
        process.kill()
        process.wait()
        process.stdout.close()
        if all(state == "done" for state in states(file, runs)):
            for folder in chance.sample(sorted(runs.iterdir()), 3):  # so that there is something to kill
                (folder / "result.json").unlink()
    for _ in range(2):  # a run that a kernel's death failed is repeated by the next call
        code, output = csnb_sweep(file, runs, "--jobs", "2")
    assert code == 0, output
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, 30])
def test_kills_at_random_leave_what_an_undisturbed_serial_sweep_leaves(kills: int, small: Path) -> None:
    runs = small / f"killed{kills}"
    assert disturb(small / "sweep.yaml", runs, kills, seed=kills).total() == kills
    assert states(small / "sweep.yaml", runs) == ["done"] * 5
    assert contents(runs) == contents(small / "serial")


# --- cores, GPUs, clusters


def test_cores_are_divided_among_runs_and_a_cluster_keeps_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [count_jobs(None, "loky", threads) for threads in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert count_jobs(3, "loky", 4) == 3 and count_jobs(None, "dask", 1) is None
    monkeypatch.setattr("csnb.batch.devices", lambda: ["0", "1"])
    assert count_jobs(None, "loky", 1) == 2


def test_a_gpu_is_one_run_s_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    taken = []

    def third() -> None:
        with gpu_slot(["0", "1"], wait=0.01) as slot:
            taken.append(slot.environment["CUDA_VISIBLE_DEVICES"])

    with gpu_slot(["0", "1"]) as first:
        with gpu_slot(["0", "1"]) as second:
            assert first.environment == {"CUDA_VISIBLE_DEVICES": "0"} and second.environment == {"CUDA_VISIBLE_DEVICES": "1"}
            waiting = threading.Thread(target=third)
            waiting.start()
            time.sleep(0.3)
            assert taken == []
        waiting.join(10)
        assert taken == ["1"]
    with gpu_slot([]) as none:
        assert none.environment == {}


def test_a_kernel_sees_its_device_threads_and_lock_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csnb.execution.devices", lambda: ["7"])
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "CSNB_NOTEBOOK")
    cell = f"import os\nraise ValueError(' '.join([os.environ.get(name, '') for name in {names}] + [os.getcwd()]))"
    plan = make_plan(write_sweep(tmp_path, cell, threads=3), tmp_path / "runs")
    record = run_one(Task(plan.jobs[0], plan.code, None, tmp_path, os.getpid()))
    assert (record.ending, record.reason) == ("failed", "raised")
    assert record.message == f"ValueError: 7 3 {plan.code.digest} {tmp_path}"
    assert json.loads((plan.jobs[0].folder / "failed.json").read_text())["message"] == record.message


def digits(tmp_path: Path) -> Path:
    """The digits sweep, shortened."""
    content = yaml.safe_load((ROOT / "params" / "sweeps" / "digits_table.yaml").read_text())
    content |= {"notebook": str(PROTECT), "params": str(ROOT / "params" / "digits.yaml")}
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "digits.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_runs_the_digits_sweep_as_this_machine_does(backend: str, tmp_path: Path) -> None:
    pytest.importorskip({"dask": "dask.distributed", "ray": "ray"}[backend])
    only = ("--only", "protected_class=3")
    code, output = csnb_sweep(digits(tmp_path), tmp_path / "cluster", "--backend", backend, *only)
    assert code == 0, output
    assert csnb_sweep(digits(tmp_path), tmp_path / "here", "--jobs", "2", *only)[0] == 0
    assert contents(tmp_path / "cluster") == contents(tmp_path / "here")


@pytest.mark.slow
def test_the_digits_table_takes_two_minutes(tmp_path: Path) -> None:
    start_time = time.perf_counter()
    code, output = csnb_sweep(ROOT / "params" / "sweeps" / "digits_table.yaml", tmp_path)
    assert code == 0 and output.rstrip().endswith("10 done"), output
    assert time.perf_counter() - start_time < 120
