"""Many runs side by side, on this machine or any executor; and what people see of it."""

import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pandas as pd

from csnb.batch.execute import ELSEWHERE, devices, fail, run_one
from csnb.batch.plan import Job, Plan, estimate, make_plan
from csnb.errors import InputError, shown
from csnb.experiment import Experiment
from csnb.progress import bar, say
from csnb.runs import Status, progress

MOST_JOBS = 10_000
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container on Linux: microseconds of so many


def sweep(
    file: str | Path,
    *,
    jobs: int | None = None,
    runs: str | Path = "runs",
    dry_run: bool = False,
    retry_failed: bool = False,
    only: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
) -> pd.DataFrame:
    """Execute the runs of a sweep file that are not done.

    ``jobs``: how many at once (default: cores that this process may use by threads of a run, or
    one for each GPU; of an executor: all). ``runs``: folder of the runs' folders. ``dry_run``:
    print the plan only. ``retry_failed``: execute only what failed before. ``only``: the runs whose
    parameters have these values. ``executor``: where else to execute them, such as dask's
    ``client.get_executor()``; its machines must see the same files.

    Returns a row per run: ``run``, ``state``, ``reason``, ``seconds``. The same call goes on after
    any interruption: what is done (see `csnb.runs.inspect`) stays, and what another process is at
    is waited for. Raises InputError before any work for a bad file or parameter.
    """
    if jobs is not None and (type(jobs) is not int or not 1 <= jobs <= MOST_JOBS):
        raise InputError(f"jobs: {shown(jobs)} is not allowed; allowed: 1 to {MOST_JOBS}")
    plan = make_plan(file, runs, only)
    failed = ("failed", "broken")
    todo = [j for j, s in plan if (s.state in failed if retry_failed else s.state != "done")]
    limit = jobs or (len(todo) if executor else count_jobs(todo))
    _say_plan(plan, limit)
    statuses = {job.run_id: status for job, status in plan}
    if todo and not dry_run:
        _execute(todo, statuses, limit, executor)
    rows = [(name, s.state, s.reason, s.seconds) for name, s in statuses.items()]
    return pd.DataFrame(rows, columns=["run", "state", "reason", "seconds"])


def count_jobs(jobs: list[Job]) -> int:
    """How many runs at once fit this machine: one for each GPU, or cores by threads of a run."""
    given = {job.parameters["threads"] for job in jobs}  # in any notation
    threads = max((Experiment(threads=value).threads for value in given), default=1) or cores()
    return len(devices()) or max(1, cores() // threads)


def cores() -> int:
    """Cores that this process may use: Slurm, taskset or a container's quota may keep others."""
    here = hasattr(os, "sched_getaffinity")  # Linux
    count = len(os.sched_getaffinity(0)) if here else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text(encoding="utf-8").split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # "max": no quota
        return count


def run_all(
    jobs: list[Job],
    executor: Executor,
    limit: int,
    under_way: dict[str, Job],
    stop: threading.Event,
) -> Iterator[tuple[Job, Status] | None]:
    """Each run with its status as it ends, and None every second.

    A run that another process is at comes again until it is done. ``under_way``, by id, is kept.
    """
    local = isinstance(executor, ThreadPoolExecutor)  # an event does not travel
    call = partial(run_one, stop=stop) if local else run_one
    waiting, attempts = deque(jobs), Counter()
    ended: SimpleQueue[tuple[Job, Future[Status]]] = SimpleQueue()
    while waiting or under_way:
        while waiting and len(under_way) < limit:
            job = waiting.popleft()
            under_way[job.run_id] = job
            attempts[job.run_id] += 1
            future = executor.submit(call, job, attempts[job.run_id])
            future.add_done_callback(lambda future, job=job: ended.put((job, future)))
        try:
            job, future = ended.get(timeout=1)
        except Empty:
            yield None
            continue
        del under_way[job.run_id]
        error = future.exception()  # of an executor that lost it: `run_one` raises nothing
        status = fail(job, error, time.perf_counter()) if error else future.result()
        if status.state == "running":
            waiting.append(job)
        else:
            yield job, status


def _execute(
    todo: list[Job], statuses: dict[str, Status], limit: int, executor: Executor | None
) -> None:
    """Execute runs; ``statuses`` follow. Ctrl-C ends what is under way and says how to go on."""
    under_way, stop = dict[str, Job](), threading.Event()
    pool = executor or ThreadPoolExecutor(limit)
    try:
        with bar(len(todo), "runs") as shown:
            for ended in run_all(todo, pool, limit, under_way, stop):
                if ended is not None:
                    job, statuses[job.run_id] = ended
                    say(_line(*ended))
                    shown.step()
                elif not shown.disable:
                    shown.note(_live(list(under_way.values())))
    except KeyboardInterrupt:
        done = sum(status.state == "done" for status in statuses.values())
        say(f"interrupted: {done} of {len(statuses)} runs are done; the same command goes on")
        raise
    finally:
        stop.set()
        if executor is None:
            pool.shutdown(cancel_futures=True)


def _say_plan(plan: Plan, limit: int) -> None:
    """Runs by state, why those that are not done are not, and the time that it may take."""
    counts = Counter(status.state for _, status in plan)
    say(f"{len(plan)} runs: " + ", ".join(f"{n} {state}" for state, n in counts.items()))
    for job, status in plan:
        if status.reason:
            say(f"{status.state:7} {job.run_id}: {status.reason}")
    left = len(plan) - counts["done"]
    if left:
        limit, (seconds, sources) = min(limit, left), estimate(plan)
        time = timedelta(seconds=round(seconds / limit)) if seconds else "unknown"
        known = "; ".join(f"{source}: {count}" for source, count in sources.items())
        say(f"estimated time: {time}, {limit} at once (as runs {known})")


def _line(job: Job, status: Status) -> str:
    """A line for an ended run."""
    if status.state == "failed":
        return f"FAILED  {job.run_id}: {status.reason}"
    by = f" ({ELSEWHERE})" if status.reason else ""
    return f"done    {job.run_id}: {status.summary}, {status.seconds:.0f} s{by}"


def _live(jobs: list[Job]) -> str:
    """What is under way: the first few."""
    return "; ".join(
        f"{j.run_id.rpartition('-')[0]} {progress(j.folder)}".strip() for j in jobs[:3]
    )
