"""A run's folder: written with result.json last, verified, and read back."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from csnb import native
from csnb.errors import InputError, one_line
from csnb.evaluation import Outcome

RESULTS = Path(__file__).resolve().parents[1] / "results" / "runs"  # the runs committed with csnb; in a checkout only
FILES = ("model.safetensors", "history.csv", "predictions.npz")
NOTEBOOK_DIGEST = "CSNB_NOTEBOOK"  # environment variable by which a sweep tells a run the digest of its notebook's code
PACKAGES = ("csnb", "torch", "torchvision", "advertorch", "numpy")


def prepare_folder(folder: Path) -> Path:
    """Make ``folder``, see that files can be written in it, and take away an older result.json. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "progress.jsonl"
        probe.write_text("")
        (folder / "result.json").unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"runs: cannot write in {folder} ({error.strerror}); allowed: a writable folder") from None
    return folder


def write_atomically(file: Path, content: bytes) -> None:
    """``file`` holds all of ``content`` or what it held before."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def append_progress(folder: Path, **status: object) -> None:
    """Add a line to progress.jsonl: what the run is doing now."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds")} | status
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def write_run(
    folder: Path,
    *,
    parameters: Mapping[str, Any],
    model: nn.Module,
    history: pd.DataFrame,
    outcome: Outcome,
    scores: pd.DataFrame,
    seconds: Mapping[str, float],
) -> Path:
    """Write weights, history and predictions, then result.json: its presence means that the run is complete."""
    save_file({name: value.cpu().contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    history.to_csv(folder / "history.csv", index=False)
    np.savez_compressed(folder / "predictions.npz", labels=outcome.labels, attacked=outcome.attacked, **outcome.predictions)
    result = {
        "parameters": dict(parameters),
        "scores": json.loads(scores.to_json(orient="records", double_precision=10)),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "provenance": provenance(next(model.parameters()).device),
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES},
    }
    result["digest"] = _digest(result)
    write_atomically(folder / "result.json", json.dumps(result, indent=1).encode())
    return folder / "result.json"


def read_run(folder: str | Path) -> dict[str, Any]:
    """A complete run's result.json, after a check that it and the other files are those the run wrote."""
    folder = Path(folder)
    try:
        result = read_result(folder)
        for name in FILES:
            digest = result["sha256"][name]
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise InputError(f"run {folder}: {name} has changed since the run; allowed: the file of the run")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"run {folder}: not a complete run ({error})") from None
    return result


def read_result(folder: Path) -> dict[str, Any]:
    """result.json, after a check that nobody edited it."""
    result = json.loads((folder / "result.json").read_bytes())
    if not isinstance(result, dict) or result.pop("digest", None) != _digest(result):
        raise InputError(f"run {folder}: result.json has changed since the run; allowed: the file of the run")
    return result


def _digest(result: Mapping[str, Any]) -> str:
    """Of what a result says, however its file is laid out."""
    return hashlib.sha256(json.dumps(result).encode()).hexdigest()


def read_weights(folder: str | Path) -> dict[str, np.ndarray]:
    """A run's weights by name, such as ``body.conv1.weight``. Raises InputError."""
    try:
        return {name: weight.numpy() for name, weight in load_file(Path(folder) / "model.safetensors").items()}
    except Exception as error:  # as in `load_weights`
        raise InputError(f"run {folder}: model.safetensors cannot be read ({one_line(error)})") from None


def load_weights(model: nn.Module, folder: str | Path) -> None:
    """Put the weights of the run in ``folder`` into ``model``; they must fit. Raises InputError."""
    file = Path(folder) / "model.safetensors"
    try:
        model.load_state_dict(load_file(file))
    except Exception as error:  # missing or broken file, or other shapes: torch and safetensors raise types of their own
        raise InputError(f"init_from: {file} does not hold this model's weights ({one_line(error)})") from None


def provenance(device: torch.device) -> dict[str, Any]:
    """What made a result: versions, commit, digests of csnb's sources and of a sweep's notebook, machine, time (UTC)."""
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
        "sources": sources_digest(),
        "notebook": os.environ.get(NOTEBOOK_DIGEST, ""),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "native": native.available(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def sources_digest() -> str:
    """Of csnb's own files: the code version that counts, committed or not."""
    sources = sorted((*Path(__file__).parent.glob("*.py"), *Path(__file__).parent.glob("*.cpp")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]


def _commit() -> str:
    """The checkout's commit, with "+" if files differ from it; empty where csnb is not in a checkout of its own."""
    tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    describe = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        for command in (tracked, describe):
            answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
