"""One run of a sweep: its notebook through papermill, in a kernel of its own, into its folder."""

import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import papermill
import torch
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from csnb.errors import InputError, one_line
from csnb.locks import try_lock
from csnb.plan import Code, Job, inspect, read_code
from csnb.runs import NOTEBOOK_DIGEST, write_atomically

Ending = Literal["done", "elsewhere", "busy", "failed"]
FULL = ("No space left on device", "os error 28", "Errno 28")


@dataclass(frozen=True)
class Task:
    """A run with all that executing it on some machine takes. ``timeout``: seconds a cell may take, None: any."""

    job: Job
    code: Code
    timeout: int | None
    cwd: Path
    runner: int  # its process id: the processes that it starts end with it; 0: a cluster's workers do not


@dataclass(frozen=True)
class Record:
    """How a run ended: done here, done ``elsewhere`` meanwhile, ``busy`` in another process, or failed and why."""

    job: Job
    ending: Ending
    reason: str = ""
    message: str = ""
    summary: str = ""
    seconds: float = 0.0


def run_one(task: Task) -> Record:
    """Execute a run unless it is done or another process is at it. Raises nothing: a failure is a record."""
    start = time.perf_counter()
    _end_with_runner(task.runner)
    try:
        task.job.folder.mkdir(parents=True, exist_ok=True)
        with try_lock(task.job.folder / ".lock") as lock:
            if lock is None:
                return Record(task.job, "busy")
            status = inspect(task.job, task.code)
            if status.state == "done":
                return Record(task.job, "elsewhere", summary=status.summary, seconds=status.seconds)
            return _execute_and_check(task, lock, start)
    except Exception as error:  # no failure of one run ends the others
        return fail(task.job, *_name(error), time.perf_counter() - start)


def fail(job: Job, reason: str, message: str, seconds: float) -> Record:
    """Remember a failure in the run's folder, where that can be written, and say it."""
    content = {"reason": reason, "message": message, "seconds": round(seconds, 3)}
    with suppress(OSError):
        write_atomically(job.folder / "failed.json", json.dumps(content, indent=1).encode())
    return Record(job, "failed", reason, message, seconds=seconds)


def _execute_and_check(task: Task, lock: int, start: float) -> Record:
    """The run is this process's alone: execute it, and believe only what its folder holds afterwards."""
    folder = task.job.folder
    for name in ("result.json", "failed.json", "notebook.ipynb", "progress.jsonl"):
        (folder / name).unlink(missing_ok=True)
    try:
        _execute(task, lock)
        (folder / ".notebook.ipynb").replace(folder / "notebook.ipynb")
        status = inspect(task.job, task.code)
        if status.state != "done":
            raise _Incomplete(status.reason or "the notebook wrote no result.json")
    except BaseException:
        (folder / "result.json").unlink(missing_ok=True)  # what came after it did not end as it should
        with suppress(FileNotFoundError):
            (folder / ".notebook.ipynb").replace(folder / "notebook.ipynb")
        raise
    return Record(task.job, "done", summary=status.summary, seconds=time.perf_counter() - start)


class _Incomplete(Exception):
    """The notebook came to its end, and what it left does not verify."""


class _Exited(Exception):
    """A cell called sys.exit(0), which papermill takes for success."""


def _execute(task: Task, lock: int) -> None:
    """Run the notebook to its end, or raise."""
    if read_code(task.code.notebook) != task.code:
        raise InputError(f"notebook: {task.code.notebook.name} or csnb is not what was planned; allowed: start the sweep again")
    with ExitStack() as stack:
        slot = stack.enter_context(gpu_slot(devices() if task.job.parameters.get("device") != "cpu" else []))
        threads = str(task.job.parameters["threads"] or os.cpu_count())
        environment = dict(os.environ) | {NOTEBOOK_DIGEST: task.code.digest, "OMP_NUM_THREADS": threads} | slot.environment
        sockets = Path(stack.enter_context(_short_folder()))
        notebook = papermill.execute_notebook(
            str(task.code.notebook),
            str(task.job.folder / ".notebook.ipynb"),
            task.job.parameters,
            progress_bar=False,
            execution_timeout=task.timeout,
            kernel_manager_class=_kernel(environment, task.cwd, (lock, *slot.locks)),
            config=Config(
                {"KernelManager": {"transport": "ipc", "ip": str(sockets / "k"), "connection_file": str(sockets / "k.json")}}
            ),
            shutdown_kernel="immediate",
        )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if any(output.output_type == "error" for output in outputs):
        raise _Exited("a cell called sys.exit(0)")


def _kernel(environment: dict[str, str], cwd: Path, locks: tuple[int, ...]) -> type[AsyncKernelManager]:
    """A kernel manager whose kernel has this environment and folder, and holds the locks until it is dead.

    So a kernel that outlives a killed worker for a moment still owns its run. On Linux the system ends it with the worker;
    elsewhere it looks for its parent every second.
    """

    special = {"env": environment, "cwd": str(cwd), "pass_fds": locks}
    if sys.platform == "linux":
        special["preexec_fn"] = _end_with_parent(os.getpid())

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(**options | special)

    return Kernel


def _end_with_parent(parent: int) -> Callable[[], None]:
    """For a new process on Linux: it is killed when its parent dies, even in the moment before it can look for that."""
    prctl = ctypes.CDLL(None).prctl

    def before_exec() -> None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return before_exec


@contextmanager
def _short_folder() -> Iterator[str]:
    """A private folder whose path leaves room for a socket's name (108 characters in all)."""
    folder = tempfile.mkdtemp(prefix="csnb-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Slot:
    """A GPU that is this run's alone, as environment and lock; empty on a machine without."""

    environment: dict[str, str]
    locks: tuple[int, ...] = ()


def devices() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(index) for index in range(count)]


@contextmanager
def gpu_slot(names: list[str], wait: float = 1.0) -> Iterator[Slot]:
    """One of the devices for this run alone, among all sweeps of this machine; waits until one is free (seconds a try)."""
    if not names:
        yield Slot({})
        return
    folder = Path(tempfile.gettempdir()) / f"csnb-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for name in names:
            with try_lock(folder / name.replace("/", "_")) as lock:
                if lock is not None:
                    yield Slot({"CUDA_VISIBLE_DEVICES": name}, (lock,))
                    return
        time.sleep(wait)


def _name(error: Exception) -> tuple[str, str]:
    """A failure's short name, and one line."""
    text = one_line(error)
    if isinstance(error, PapermillExecutionError):
        text = " ".join(f"{error.ename}: {error.evalue}".split())[:300]
        if error.ename == "SystemExit":
            return "sys.exit", f"cell {error.exec_count} called sys.exit({error.evalue})"
    if isinstance(error, _Exited | _Incomplete):
        return ("sys.exit" if isinstance(error, _Exited) else "incomplete"), text
    if getattr(error, "errno", None) == errno.ENOSPC or any(sign in text for sign in FULL):
        return "disk full", text
    if isinstance(error, CellTimeoutError):
        return "time-out", text
    if isinstance(error, DeadKernelError) or "Kernel died" in text:
        return "kernel killed", "the kernel died while the notebook ran (killed, or out of memory)"
    return "raised", text if isinstance(error, PapermillExecutionError | InputError) else f"{type(error).__name__}: {text}"


_watched: set[int] = set()


def _end_with_runner(runner: int) -> None:
    """In a worker of this machine: end when the runner is dead, and leave Ctrl-C to it."""
    if runner in (0, os.getpid(), *_watched):
        return
    _watched.add(runner)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: None)  # a function, since the kernel would inherit SIG_IGN

    def watch() -> None:
        while os.getppid() == runner:
            time.sleep(0.2)
        os._exit(1)

    if os.getppid() != runner:  # dead before the worker got to its first run
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
