"""Ctrl-C, and kill -9 of anything: nothing is lost, nothing made twice, every byte the same."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from batches import (
    SLEEP,
    alive,
    contents,
    csnb_sweep,
    processes,
    stamps,
    start,
    wait_for,
    write_sweep,
)

from csnb import sweep
from csnb.batch import make_plan

SIGNS = {"child": "batch/child.py", "kernel": "ipykernel_launcher"}


def states(file: Path, runs: Path) -> list[str]:
    return [found.state for _, found in make_plan(file, runs)]


def test_ctrl_c_ends_the_kernels_and_says_how_to_go_on(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, SLEEP, seed=[0, 1])
    process = start(file, tmp_path / "runs", "--jobs", "2")
    wait_for(lambda: len(processes(process.pid, SIGNS["kernel"])) == 2)
    kernels = processes(process.pid, SIGNS["kernel"])
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "interrupted: 0 of 2 runs are done; the same command goes on\n" in output
    assert not any(map(alive, kernels))
    assert states(file, tmp_path / "runs") == ["todo", "todo"]
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_kernels_and_folders_do_not_outlive_a_killed_runner(tmp_path: Path) -> None:
    """Nor does a kernel outlive its child: the runner hears of that, and names it."""
    file = write_sweep(tmp_path, SLEEP, seed=[0, 1, 2])
    (tmp_path / "tmp").mkdir()
    process = start(file, tmp_path / "runs", "--jobs", "2", TMPDIR=str(tmp_path / "tmp"))
    wait_for(lambda: len(processes(process.pid, SIGNS["kernel"])) == 2)
    kernels = processes(process.pid, SIGNS["kernel"])
    child = processes(process.pid, SIGNS["child"])[0]
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: sum(map(alive, kernels)) == 1, 5)
    wait_for(lambda: len(processes(process.pid, SIGNS["kernel"])) == 2)  # the third run's
    kernels = processes(process.pid, SIGNS["kernel"])
    children = processes(process.pid, SIGNS["child"])
    process.kill()
    output = process.communicate(timeout=60)[0]
    wait_for(lambda: not any(map(alive, kernels + children)), 5)
    assert "killed: its process ended with SIGKILL" in output
    assert sorted(states(file, tmp_path / "runs")) == ["failed", "todo", "todo"]
    assert not list((tmp_path / "tmp").glob("csnb-*"))


def test_an_interrupted_rerun_leaves_the_finished_run_whole(small: Path, tmp_path: Path) -> None:
    runs = shutil.copytree(small / "serial", tmp_path / "runs")
    job = make_plan(small / "sweep.yaml", runs)[1][0]
    before = contents(runs)
    again = f"""import csnb, time
run = csnb.Run(csnb.Experiment(**{job.parameters}))
run.train()
time.sleep(600)"""
    process = subprocess.Popen([sys.executable, "-c", again])
    wait_for((runs / f".{job.run_id}.new" / "progress.jsonl").exists)
    process.kill()
    process.wait()
    assert contents(runs) == before
    assert states(small / "sweep.yaml", runs) == ["done"] * 3


def test_four_kills_leave_what_an_undisturbed_serial_sweep_leaves(small: Path) -> None:
    """A kernel, a child and the runner at work; then a child again."""
    file, runs = small / "sweep.yaml", small / "killed"

    def kill(parent: int, kind: str) -> None:
        wait_for(lambda: victims.extend(processes(parent, SIGNS[kind])) or victims)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(victims.pop(), signal.SIGKILL)
        victims.clear()

    victims: list[int] = []
    process = start(file, runs, "--jobs", "2")
    wait_for(lambda: list(runs.glob(".*.new")))  # one of two trains
    kill(process.pid, "kernel")
    kill(process.pid, "child")
    wait_for(lambda: processes(process.pid, SIGNS["kernel"]) or process.poll() is not None)
    process.kill()
    output = process.communicate()[0]
    assert output.count("FAILED") <= 2, output
    assassin = threading.Timer(2, kill, (os.getpid(), "child"))
    assassin.start()
    assert Counter(sweep(file, runs=runs, jobs=2)["state"])["failed"] == 1
    assassin.join()
    assert set(sweep(file, runs=runs, jobs=2)["state"]) == {"done"}
    assert contents(runs) == contents(small / "serial")
    assert not [path.name for path in runs.glob(".*") if path.name != ".locks"]


def disturb(file: Path, runs: Path, kills: int, seed: int) -> Counter[str]:
    """Call the sweep again and again; kill its runner, children and kernels at random."""
    chance, killed = random.Random(seed), Counter()
    made: dict[str, int] = {}
    while killed.total() < kills:
        process = start(file, runs, "--jobs", "2")
        while process.poll() is None and killed.total() < kills:
            time.sleep(chance.uniform(0.2, 5))
            kind = chance.choice(["runner", "child", "child", "kernel", "kernel"])
            victims = processes(process.pid, SIGNS.get(kind, SIGNS["kernel"]))
            if victims:  # of the runner, too: when it has something to lose
                with suppress(ProcessLookupError):
                    victim = process.pid if kind == "runner" else chance.choice(victims)
                    os.kill(victim, signal.SIGKILL)
                    killed[kind] += 1
        process.kill()
        process.communicate()
        now = stamps(runs)
        assert made.items() <= now.items()  # what was finished stays as it was
        made = now
        if all(state == "done" for state in states(file, runs)):
            for name in chance.sample(sorted(made), 2):  # so that there is something to kill
                (runs / name / "result.json").unlink()
                del made[name]
    return killed


@pytest.mark.slow
def test_thirty_kills_at_random_leave_what_an_undisturbed_serial_sweep_leaves(small: Path) -> None:
    file, runs = small / "sweep.yaml", small / "killed at random"
    before = {path.name for path in Path(tempfile.gettempdir()).glob("csnb-*")}
    killed = disturb(file, runs, 30, seed=30)
    assert killed.total() == 30 and len(killed) == 3
    for _ in range(2):  # a run that a kernel's death failed is repeated by the next call
        code, output = csnb_sweep(file, runs, "--jobs", "2")
    assert code == 0, output
    assert states(file, runs) == ["done"] * 3
    assert contents(runs) == contents(small / "serial")
    assert not [path.name for path in runs.glob(".*") if path.name != ".locks"]
    assert {path.name for path in Path(tempfile.gettempdir()).glob("csnb-*")} <= before
