"""One run of a sweep: one process, whose word is not believed, but the folder that it leaves."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from csnb.batch import child
from csnb.batch.child import Failure, named
from csnb.batch.plan import Job
from csnb.locks import Lock, scratch
from csnb.paths import write_atomically
from csnb.progress import QUIET
from csnb.runs import Status, publish
from csnb.runs.folder import HOLD, leave_training, staged
from csnb.runs.state import is_running

GRACE = 10.0  # seconds until a process that was told to end is killed
LONG = 80  # characters of a folder that leave no room for the names of sockets
BUSY = Status("running")
ELSEWHERE = "by another process"


def run_one(job: Job, attempt: int = 0, stop: threading.Event | None = None) -> Status:
    """Execute a run unless it is done or another process is at it: "done", "failed" or "running".

    Raises nothing. ``attempt`` tells calls apart, for an executor that remembers results.
    ``stop``, once set, ends the run.
    """
    start, stop = time.perf_counter(), stop or threading.Event()
    try:
        (job.runs / ".locks").mkdir(parents=True, exist_ok=True)
        with try_lock(job.runs / ".locks" / f"{job.run_id}.claim") as mine:
            found = job.look()
            if found.state == "done":
                return replace(found, reason=ELSEWHERE, result=None)
            if mine and found.state != "running":
                return _execute(job, stop, start)
        stop.wait(1)  # it comes back, and finds it done or free
        return BUSY
    except Exception as error:  # no failure of one run ends the others
        return BUSY if stop.is_set() else fail(job, error, start)


def fail(job: Job, error: BaseException, start: float) -> Status:
    """Remember a failure in the run's folder, where that can be written, and say it."""
    (reason, message), seconds = named(error), time.perf_counter() - start
    content = {"reason": reason, "message": message, "seconds": round(seconds, 3)}
    with suppress(OSError):
        job.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(job.folder / "failed.json", json.dumps(content, indent=1).encode())
    return Status("failed", f"{reason}: {message}", seconds)


@contextmanager
def try_lock(file: Path) -> Iterator[bool]:
    """Whether ``file`` is this one's alone, while the context lasts."""
    lock = Lock(file)
    try:
        yield lock.acquire()
    finally:
        lock.release()


def _execute(job: Job, stop: threading.Event, start: float) -> Status:
    """The run is this call's alone: execute it, put it in its place, look whether it is done."""
    new = staged(job.runs, job.run_id)
    short = None if len(tempfile.gettempdir()) < LONG else "/tmp"
    with (
        gpu_slot(devices() if job.parameters.get("device") != "cpu" else [], stop) as slot,
        scratch(short) as folder,
    ):
        notebook = folder / "notebook.ipynb"
        try:
            leave_training(new)
            _run_child(job, folder, slot, stop)
            if not (new / "result.json").exists():
                raise Failure("incomplete", "the notebook wrote no result of this run")
            publish(job.runs, job.run_id, notebook)
            found = job.look()
            if found.state != "done":
                raise Failure("incomplete", found.reason)
            return replace(found, seconds=time.perf_counter() - start, result=None)
        except Exception as error:
            if stop.is_set() or is_running(job.folder):  # running: somebody else's by now
                return BUSY
            leave_training(new)
            status = fail(job, error, start)
            with suppress(OSError):
                write_atomically(job.folder / "failed.ipynb", notebook.read_bytes())
            return status


def _run_child(job: Job, folder: Path, slot: dict[str, str], stop: threading.Event) -> None:
    """Execute the notebook in a process, or raise `Failure`; then that and its kernel are gone."""
    threads = int(job.parameters["threads"])
    own = {HOLD: job.run_id, QUIET: "1"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.Popen(
        [sys.executable, "-P", child.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | own | slot,
        cwd=job.cwd,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is the runner's to hear
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    said: deque[str] = deque(maxlen=20)
    # child and kernel hold the other end: when this thread has read it all, both are gone
    reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
    reader.start()
    deadline = time.monotonic() + (job.timeout or math.inf)
    task = {"notebook": str(job.notebook), "parameters": job.parameters, "folder": str(folder)}
    try:
        with suppress(OSError):  # it is dead already
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        while process.poll() is None and not stop.is_set() and time.monotonic() < deadline:
            reader.join(0.1)
        late = process.poll() is None
    finally:
        _end(process, reader)
    if late:
        raise Failure("time-out", f"more than {job.timeout} s")
    last = next((f" ({line.strip()[:200]})" for line in reversed(said) if line.strip()), "")
    try:
        outcome = json.loads((folder / "outcome.json").read_bytes())
    except (OSError, ValueError):
        number = -process.returncode
        how = signal.Signals(number).name if number in set(signal.Signals) else -number
        outcome = ["killed", f"its process ended with {how}{last}"]
    if outcome:
        raise Failure(outcome[0], outcome[1] + (last if outcome[0] == "no kernel" else ""))


def _end(process: subprocess.Popen[str], reader: threading.Thread) -> None:
    """End a child, if it has not ended; wait for its kernel's end."""
    with suppress(OSError):
        process.stdin.close()  # which it takes for its runner's end
    reader.join(GRACE)
    if process.poll() is None:
        process.kill()
        process.wait()
        reader.join(GRACE)
    if not reader.is_alive():
        process.stderr.close()


def devices() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]


@contextmanager
def gpu_slot(
    names: list[str], stop: threading.Event, wait: float = 1.0
) -> Iterator[dict[str, str]]:
    """One of the devices for this run alone, among all sweeps of this machine, as environment.

    Waits until one is free, ``wait`` seconds a try; nothing, at once, where there are none.
    """
    if not names:
        yield {}
        return
    folder = Path(tempfile.gettempdir(), f"csnb-gpus-{getattr(os, 'getuid', int)()}")
    folder.mkdir(exist_ok=True)
    while True:
        for name in names:
            with try_lock(folder / re.sub(r"\W", "_", name)) as mine:
                if mine:
                    yield {"CUDA_VISIBLE_DEVICES": name}
                    return
        if stop.wait(wait):
            raise Failure("stopped", "before a GPU was free")
