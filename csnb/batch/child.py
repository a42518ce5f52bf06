"""The process of one run: its notebook through papermill, in a kernel that ends with it.

Started by its path: it waits most of its time, and imports neither torch nor csnb.
"""

import errno
import json
import logging
import os
import re
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

FULL = ("No space left on device", "os error 28", "Errno 28")


class Failure(Exception):
    """A run failed: a short name, and one line."""


def main() -> int:
    """Execute the task on stdin (JSON, one line); stdin's end is the runner's, and nothing remains.

    Writes the executed notebook, and outcome.json (a failure's name and line) into its folder.
    """
    task = json.loads(sys.stdin.readline())
    logging.disable()  # stderr is the kernel's, which may say why it cannot start
    folder, outcome = Path(task["folder"]), []
    threading.Thread(target=_end_with_runner, args=(folder,), daemon=True).start()
    try:
        execute(Path(task["notebook"]), folder / "notebook.ipynb", task["parameters"], folder)
    except Exception as error:
        outcome = named(error)
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    return int(bool(outcome))


def execute(notebook: Path, target: Path, parameters: dict[str, Any], sockets: Path) -> None:
    """Run a notebook to its end, or raise. ``sockets``: a private folder with a short path.

    Kernel and client talk through files there: ports collide when many start at once.
    """
    # jsonschema's grammar of addresses: it takes seconds to load, and no notebook needs it
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill
    from traitlets.config import Config

    os.environ.pop("MPLBACKEND", None)  # Agg, say: the notebook would be without its figures
    sockets = sockets / "k"
    files = {"transport": "ipc", "ip": str(sockets), "connection_file": f"{sockets}.json"}
    ended = papermill.execute_notebook(
        verbatim(notebook),
        verbatim(target),
        parameters,
        progress_bar=False,
        start_timeout=300,
        iopub_timeout=60,
        shutdown_kernel="immediate",
        config=Config({"KernelManager": files} if os.name == "posix" else {}),
    )
    outputs = [output for cell in ended.cells for output in cell.get("outputs", [])]
    if any(output.output_type == "error" for output in outputs):  # papermill takes it for success
        raise Failure("sys.exit", "a cell called sys.exit(0)")


def verbatim(path: Path) -> str:
    """A path as papermill takes it: between braces it would put parameters."""
    return re.sub(r"([{}])", r"\1\1", str(path))


def named(error: BaseException) -> tuple[str, str]:
    """A failure's short name, and one line."""
    if isinstance(error, Failure):
        return error.args
    kind, text = type(error).__name__, " ".join(str(error).split())[:200]
    if kind == "PapermillExecutionError":
        text = " ".join(f"{error.ename}: {error.evalue}".split())[:300]
        if error.ename == "SystemExit":
            return "sys.exit", f"cell {error.exec_count} called sys.exit({error.evalue})"
    if getattr(error, "errno", None) == errno.ENOSPC or any(sign in text for sign in FULL):
        return "disk full", text
    if kind == "DeadKernelError":
        return "kernel killed", "the kernel died while the notebook ran (killed, or out of memory)"
    if "Kernel died before replying" in text:
        return "no kernel", "it ended before the notebook began"
    if kind in ("KilledWorker", "BrokenProcessPool", "CancelledError"):  # of executors
        return "killed", text or kind
    clear = kind in ("PapermillExecutionError", "InputError")
    return "raised", text if clear else f"{kind}: {text}"


def _end_with_runner(folder: Path) -> None:
    """Wait for the end of stdin, then take the kernel along.

    Of a child that is itself killed, the kernel notices within a second, and ends.
    """
    while os.read(0, 1):
        pass
    import psutil

    below = psutil.Process().children(recursive=True)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(below, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
