"""What made a result: versions, commit, machine, time."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from csnb.models import native
from csnb.paths import CHECKOUT

PACKAGES = ("csnb", "torch", "torchvision", "advertorch", "numpy")


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions, commit, machine, device, threads, LeNet's layer compiled or not, time (UTC)."""
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    cuda = device.type == "cuda"
    system = f"{platform.system()} {platform.machine()}"
    return {
        "versions": versions,
        "commit": commit(),
        "machine": f"{system}, {_processor()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "threads": torch.get_num_threads(),
        "native": native.available(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str:
    """The checkout's commit, with "+" if files differ from it; empty where csnb is in none."""
    tracked = ["git", "ls-files", "--error-unmatch", str(Path(__file__).relative_to(CHECKOUT))]
    describe = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    options = {"cwd": CHECKOUT, "capture_output": True, "text": True, "timeout": 10, "check": True}
    try:
        for command in (tracked, describe):
            answer = subprocess.run(command, **options)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _version(name: str) -> str:
    """An installed package's version; "unknown" where its metadata are missing (a vendored one)."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
