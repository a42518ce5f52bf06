"""Contestants that take turns, so that what else the machine does meets all alike."""

import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

import pandas as pd
import torch

from csnb.runs import RESULTS, provenance

ROUNDS = 3


def in_turn(
    contestants: dict[str, Callable[[], object]], rounds: int = ROUNDS, warm_up: int = 1
) -> tuple[dict[str, list[float]], dict[str, object], dict[str, float]]:
    """Seconds of every round, last result and most memory (MiB) by name.

    ``warm_up`` rounds are not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results, memory = {}, dict.fromkeys(contestants, 0.0)
    for number in range(rounds + warm_up):
        for name, call in contestants.items():
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
            before, start = resident("VmRSS"), time.perf_counter()
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                results[name] = call()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
            memory[name] = max(memory[name], resident("VmHWM") - before)
    return seconds, results, memory


def resident(field: str) -> float:
    """This process's resident memory in MiB: now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Of the rounds' ratios."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


def keep(rows: Sequence[dict[str, object]], name: str, digits: int = 3) -> None:
    """Print the rows, and write them with threads, machine and commit to results/``name``."""
    source = provenance(torch.device("cpu"))
    made = {"threads": torch.get_num_threads()} | {k: source[k] for k in ("machine", "commit")}
    frame = pd.DataFrame(rows).assign(**made)
    print(frame.to_string())
    frame.to_csv(RESULTS.parent / name, index=False, float_format=f"%.{digits}g")
