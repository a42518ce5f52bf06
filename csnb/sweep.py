"""Batches of runs from a sweep file: plan, execute in parallel, resume."""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from csnb.display import Board
from csnb.errors import InputError
from csnb.plan import Job, Plan, Status, make_plan
from csnb.status import is_running, progress

if TYPE_CHECKING:
    from csnb.execution import Record

BACKENDS = ("loky", "dask", "ray")


def sweep(
    file: str | Path,
    *,
    jobs: int | None = None,
    runs: str | Path = "runs",
    dry_run: bool = False,
    retry_failed: bool = False,
    only: Mapping[str, Any] | None = None,
    backend: str = "loky",
    address: str = "",
) -> pd.DataFrame:
    """Execute the runs of a sweep file that are not done; returns a row per run: ``run, state, reason, seconds``.

    ``jobs``: how many at once (default: cores divided by the threads of a run, or one for each GPU). ``runs``: folder of
    the runs' folders. ``dry_run``: print the plan only. ``retry_failed``: execute only what failed before. ``only``: the
    runs whose parameters have these values. ``backend``: loky (processes of this machine), or dask or ray, at ``address``.

    A run is done when its result.json verifies: every file as written, the parameters, csnb's sources and the notebook's
    code those of now. Everything else is executed, so that the same call goes on after any interruption. A run that
    another sweep is executing is waited for. Raises InputError before any work for a bad file or parameter.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend: {backend!r} is not allowed; allowed: {', '.join(BACKENDS)}")
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs: {jobs} is not allowed; allowed: a whole number from 1")
    plan = make_plan(file, runs, only)
    _print_plan(plan, jobs)
    if not dry_run:
        states = ("failed", "broken") if retry_failed else ("todo", "failed", "stale", "broken")
        todo = [job for job, status in zip(plan.jobs, plan.statuses, strict=True) if status.state in states]
        plan = _execute(plan, todo, jobs, backend, address)
    rows = [(job.run_id, s.state, s.reason, s.seconds) for job, s in zip(plan.jobs, plan.statuses, strict=True)]
    return pd.DataFrame(rows, columns=["run", "state", "reason", "seconds"])


def _print_plan(plan: Plan, jobs: int | None) -> None:
    """Runs by state, why those that were not just left out must be executed, and the time that it may take."""
    counts = plan.count()
    names = {"done": "done", "todo": "to do", "failed": "failed", "stale": "of other code", "broken": "broken"}
    print(f"{len(plan.jobs)} runs: " + ", ".join(f"{counts[state]} {text}" for state, text in names.items() if counts[state]))
    for job, status in zip(plan.jobs, plan.statuses, strict=True):
        if status.reason:
            print(f"{status.state:7} {job}: {status.reason}")
    seconds = plan.seconds_left()
    if plan.open and seconds is None:
        print("estimated time: unknown, no run is done yet")
    elif plan.open:
        print(f"estimated time: {seconds / 60 / (jobs or 1):.1f} minutes, {jobs or 1} at once")


def _execute(plan: Plan, todo: list[Job], jobs: int | None, backend: str, address: str) -> Plan:
    """Execute what is to do; returns the plan with what came of it. Ctrl-C ends the kernels and says how to go on."""
    try:
        from csnb.batch import cluster, count_jobs, run_all
        from csnb.execution import Task
    except ImportError as error:
        raise InputError(f"sweep: {error.name} is not installed; allowed: after pip install 'csnb[notebooks]'") from None
    statuses = {job.run_id: status for job, status in zip(plan.jobs, plan.statuses, strict=True)}
    runner = os.getpid() if backend == "loky" else 0
    tasks = [Task(job, plan.code, plan.timeout, Path.cwd(), runner) for job in todo]
    threads = max((int(job.parameters["threads"]) for job in todo), default=1)
    try:
        with (
            cluster(backend, address),
            Board(len(todo), lambda: _live(todo, statuses)) as board,
            closing(run_all(tasks, count_jobs(jobs, backend, threads), backend)) as records,
        ):
            for record in records:
                if record.ending != "busy":
                    statuses[record.job.run_id] = _status(record)
                    board.line(_line(record))
    except KeyboardInterrupt:
        done = sum(status.state == "done" for status in statuses.values())
        print(f"interrupted: {done} of {len(plan.jobs)} runs are done; the same command goes on with the others", flush=True)
        raise
    return replace(plan, statuses=[statuses[job.run_id] for job in plan.jobs])


def _status(record: "Record") -> Status:
    if record.ending == "failed":
        return Status("failed", f"{record.reason}: {record.message}", record.seconds)
    return Status("done", seconds=record.seconds, summary=record.summary)


def _line(record: "Record") -> str:
    """A line for an ended run."""
    if record.ending == "failed":
        return f"FAILED  {record.job}: {record.reason}: {record.message}"
    by = " (by another sweep)" if record.ending == "elsewhere" else ""
    return f"done    {record.job}: {record.summary}, {record.seconds:.0f} s{by}"


def _live(todo: list[Job], statuses: Mapping[str, Status]) -> str:
    """The runs that are under way now."""
    at = [job for job in todo if statuses[job.run_id].state != "done" and is_running(job.folder)]
    return "; ".join(f"{job.run_id.rsplit('-', 1)[0]} {progress(job.folder)}" for job in at)
