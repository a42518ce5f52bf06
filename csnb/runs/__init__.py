"""A run's folder: written, verified, read; and the one answer to whether a run is done."""

from csnb.paths import RESULTS
from csnb.runs.checkpoint import start_from
from csnb.runs.folder import (
    Stage,
    load_weights,
    publish,
    read_weights,
    run_folders,
)
from csnb.runs.frames import read_histories, read_hits, read_run, read_runs, read_scores
from csnb.runs.identity import Identity
from csnb.runs.provenance import provenance
from csnb.runs.result import weights_digest
from csnb.runs.state import Status, finished, inspect, is_here, progress, status

__all__ = [
    "Identity",
    "RESULTS",
    "Stage",
    "Status",
    "finished",
    "inspect",
    "is_here",
    "load_weights",
    "progress",
    "provenance",
    "publish",
    "read_histories",
    "read_hits",
    "read_run",
    "read_runs",
    "read_scores",
    "read_weights",
    "run_folders",
    "start_from",
    "status",
    "weights_digest",
]
