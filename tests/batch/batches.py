"""Small sweeps for tests: two classes, and a notebook that does nothing but the run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import psutil
import yaml

from csnb import Experiment, read_run

ROOT = Path(__file__).resolve().parents[2]
START = """import csnb
run = csnb.Run(csnb.Experiment.from_namespace(globals()))
run.train()
run.evaluate()"""
END = "run.write()"
SLEEP = "import time; time.sleep(600)"


def write_notebook(file: Path, *cells: str) -> Path:
    """A notebook with the parameters of an experiment and these code cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    lines = [f"{name} = {field.default!r}" for name, field in Experiment.model_fields.items()]
    parameters = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})
    notebook.cells = [parameters, *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(notebook, file)
    return file


def write_stripes(file: Path) -> Path:
    """Two classes, bright above or below."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = rng.uniform(0, 0.5, (200, 12, 12)).astype(np.float32)
    x[y == 0, :6] += 0.5
    x[y == 1, 6:] += 0.5
    train = {"x_train": x[:160], "y_train": y[:160]}
    test = {"x_test": x[160:], "y_test": y[160:]}
    np.savez(file, **train, **test, classes=np.array(["above", "below"]))
    return file


def write_sweep(
    folder: Path, *cells: str, timeout: int | None = None, also: list | None = None, **grid: Any
) -> Path:
    """A sweep file with notebook, base parameters and data beside it."""
    write_notebook(folder / "quick.ipynb", *(cells or (START, END)))
    base = {"dataset": str(write_stripes(folder / "stripes.npz")), "attacks": "FGSM", "epochs": 1}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    content = {"notebook": "quick.ipynb", "params": "base.yaml", "grid": grid, "also": also}
    content |= {"timeout": timeout}
    file = folder / "sweep.yaml"
    given = {name: value for name, value in content.items() if value is not None}
    file.write_text(yaml.safe_dump(given))
    return file


def start(file: Path, runs: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """``csnb sweep`` as a process group of its own, its output in one stream."""
    command = [sys.executable, "-m", "csnb", "sweep", str(file), "--runs", str(runs), *options]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    )


def _hear_ctrl_c() -> None:
    """Tests that a shell runs in its background inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def csnb_sweep(file: Path, runs: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a whole call."""
    process = start(file, runs, *options, **environment)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def contents(runs: Path, *, notebooks: bool = True) -> dict[str, dict[str, Any]]:
    """Of each run, what must not depend on how it was executed."""
    found = {}
    for folder in sorted(path for path in runs.iterdir() if path.name[0] != "." and path.is_dir()):
        history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
        with np.load(folder / "predictions.npz") as arrays:
            predictions = {name: arrays[name].tolist() for name in arrays}
        found[folder.name] = {
            "weights": (folder / "model.safetensors").read_bytes(),
            "history": history.to_csv(),
            "predictions": predictions,
            "scores": json.dumps(read_run(folder)["scores"]),
        }
        assert (folder / "notebook.ipynb").exists() is notebooks
    return found


def stamps(runs: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("[!.]*/result.json")}


def processes(parent: int, sign: str) -> list[int]:
    """Ids of the descendants with ``sign`` in their command line."""
    try:
        below = psutil.Process(parent).children(recursive=True)
        return [p.pid for p in below if sign in " ".join(p.cmdline())]
    except psutil.Error:  # one of them ended meanwhile
        return []


def alive(process: int) -> bool:
    """Whether it can do anything yet."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)
