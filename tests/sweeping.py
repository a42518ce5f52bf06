"""Small sweeps for tests: a data set that is learned at once, and a notebook that does nothing but the run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import yaml

from csnb import read_run

ROOT = Path(__file__).resolve().parents[1]
PROTECT = ROOT / "notebooks" / "protect.ipynb"
START = "import csnb\nrun = csnb.Run(csnb.Experiment.from_namespace(globals()))\nrun.train()\nrun.evaluate()"
END = "run.write()"


def write_notebook(file: Path, *cells: str) -> Path:
    """A notebook with the parameters of protect.ipynb and these code cells."""
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    (parameters,) = [c for c in nbformat.read(PROTECT, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
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
    np.savez(file, x_train=x[:160], y_train=y[:160], x_test=x[160:], y_test=y[160:], classes=np.array(["above", "below"]))
    return file


def write_sweep(folder: Path, *cells: str, timeout: int | None = None, also: list | None = None, **grid: Any) -> Path:
    """A sweep file with notebook, base parameters and data beside it."""
    write_notebook(folder / "quick.ipynb", *(cells or (START, END)))
    base = {"dataset": str(write_stripes(folder / "stripes.npz")), "attacks": "PGD", "pgd_steps": 3, "epochs": 1}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    content = {"notebook": "quick.ipynb", "params": "base.yaml", "grid": grid, "also": also, "timeout": timeout}
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({name: value for name, value in content.items() if value is not None}))
    return file


def start(file: Path, runs: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """``csnb sweep`` as a process group of its own, its output in one stream."""
    command = [sys.executable, "-m", "csnb", "sweep", str(file), "--runs", str(runs), *options]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=ROOT, start_new_session=True,
        preexec_fn=_hear_ctrl_c,
    )  # fmt: skip


def _hear_ctrl_c() -> None:
    """Tests that are themselves started in the background of a shell have inherited that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def csnb_sweep(file: Path, runs: Path, *options: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of a whole call."""
    process = start(file, runs, *options, **environment)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def contents(runs: Path) -> dict[str, dict[str, Any]]:
    """All of each run that must not depend on how it was executed: weights and predictions in bytes, history, scores."""
    found = {}
    for folder in sorted(path for path in runs.iterdir() if path.is_dir()):
        result = read_run(folder)
        history = pd.read_csv(folder / "history.csv").drop(columns="seconds")
        with np.load(folder / "predictions.npz") as arrays:
            predictions = {name: arrays[name].tolist() for name in arrays}
        found[folder.name] = {
            "weights": (folder / "model.safetensors").read_bytes(),
            "history": history.to_csv(),
            "predictions": predictions,
            "scores": json.dumps(result["scores"]),
            "notebook": (folder / "notebook.ipynb").exists(),
        }
    return found
