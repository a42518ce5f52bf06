"""Batches: a sweep file is a list of runs; each run is a notebook, in a process of its own."""

from csnb.batch.plan import make_plan, run_ids
from csnb.batch.sweeps import sweep

__all__ = ["make_plan", "run_ids", "sweep"]
