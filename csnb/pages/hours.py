"""What finished runs took: hours and machines by sweep."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csnb.batch import run_ids
from csnb.runs import inspect, run_folders

SWEEPS = (  # that are planned without images
    "mnist_table2",
    "cifar10_table3",
    "cifar100_table4",
    "cifar100_narrow",
    "fashion_mnist_table2",
    "figures",
    "threat_model",
    "protection_mnist",
    "protection_fashion_mnist",
    "protection_cifar10",
    "protection_offset",
    "certified_mnist",
    "certified_fashion_mnist",
    "certified_cifar10",
    "textile",
)
OTHERS = "calibration, tuning, digits"


def of_sweeps(folder: Path) -> list[list[str]]:
    """Of the runs in ``folder``: a row per sweep, the first is the head."""
    statuses = {one.name: inspect(one) for one in run_folders(folder)}
    done = {name: one.result for name, one in statuses.items() if one.state == "done"}
    planned = {sweep: run_ids(sweep) for sweep in SWEEPS}
    others = sorted(set(done).difference(*planned.values()))
    rows = [["sweep", "runs", "hours", "machines"]]
    for sweep, ids in (planned | {OTHERS: others}).items():
        results = [done[name] for name in ids if name in done]
        rows.append([sweep, f"{len(results)} of {len(ids)}", *_took(results)])
    return rows


def _took(results: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Hours of training and attacks of all, and on which machines how many."""
    if not results:
        return "-", "-"
    hours = sum(sum(one["seconds"].values()) for one in results) / 3600
    machines = Counter(_machine(one["provenance"]) for one in results)
    return f"{hours:.1f}", "; ".join(f"{name}: {n}" for name, n in sorted(machines.items()))


def _machine(made: Mapping[str, Any]) -> str:
    threads = f"{made['threads']} thread{'s' if made['threads'] != 1 else ''}"
    return f"{made['machine']}, {made['device']}, {threads}"
