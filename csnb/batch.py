"""Many runs at once, in processes: by joblib on this machine, or as tasks of a dask or Ray cluster."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import joblib

from csnb.errors import InputError, one_line
from csnb.execution import Record, Task, devices, fail, run_one

DEATHS = 3  # pools of workers that may die in a row without a run ended in between


def run_all(tasks: list[Task], jobs: int | None, backend: str) -> Iterator[Record]:
    """Each task's record as it ends, `busy` ones too; these are tried again until another process is through with them.

    A worker that is killed takes its pool with it: what had not ended starts again in a new one, up to `DEATHS` times.
    """
    left = {task.job.run_id: task for task in tasks}
    deaths = 0
    while left:
        before = len(left)
        try:
            for record in RUNNERS[backend](list(left.values()), jobs):
                if record.ending != "busy":
                    del left[record.job.run_id]
                yield record
            deaths = 0
        except Exception as error:  # never of a run: `run_one` raises nothing
            deaths = deaths + 1 if len(left) == before else 1
            if deaths >= DEATHS:
                message = (
                    f"{DEATHS} pools of workers died ({type(error).__name__}: {one_line(error)}): killed, or out of memory"
                )
                yield from (fail(task.job, "worker killed", message, 0.0) for task in left.values())
                return
        if left:
            time.sleep(1)


def _by_joblib(tasks: Iterable[Task], jobs: int | None) -> Iterator[Record]:
    """In processes of this machine."""
    pool = joblib.Parallel(jobs, backend="loky", return_as="generator_unordered", batch_size=1)
    return pool(joblib.delayed(run_one)(task) for task in tasks)


def _by_dask(tasks: Iterable[Task], jobs: int | None) -> Iterator[Record]:
    """On the cluster of `cluster`, ``jobs`` at once (None: as many as it takes)."""
    from dask.distributed import Client, as_completed

    client, waiting = Client.current(), iter(tasks)
    running = as_completed([client.submit(run_one, task, pure=False) for task in islice(waiting, jobs)])
    for future in running:
        running.update([client.submit(run_one, task, pure=False) for task in islice(waiting, 1)])
        yield future.result()


def _by_ray(tasks: Iterable[Task], jobs: int | None) -> Iterator[Record]:
    """The same on a Ray cluster, a core for each run."""
    import ray

    remote, waiting = ray.remote(run_one), iter(tasks)
    running = [remote.remote(task) for task in islice(waiting, jobs)]
    while running:
        (ended,), running = ray.wait(running)
        running += [remote.remote(task) for task in islice(waiting, 1)]
        yield ray.get(ended)


RUNNERS = {"loky": _by_joblib, "dask": _by_dask, "ray": _by_ray}


@contextmanager
def cluster(backend: str, address: str) -> Iterator[None]:
    """A connection to a dask or Ray cluster at ``address``, or to one that is made on this machine; none for loky."""
    if backend == "loky":
        yield
    elif backend == "dask":
        try:
            from dask.distributed import Client
        except ImportError:
            raise InputError("backend: dask is not installed; allowed: after pip install 'dask[distributed]'") from None
        with Client(address or None, **({} if address else {"threads_per_worker": 1})):
            yield
    else:
        try:
            import ray
        except ImportError:
            raise InputError("backend: ray is not installed; allowed: after pip install ray") from None
        if not ray.is_initialized():
            ray.init(address=address or None, log_to_driver=False)
        yield


def count_jobs(jobs: int | None, backend: str, threads: int) -> int | None:
    """How many runs at once: as asked for, else what a cluster takes (None), one for each GPU, or cores by ``threads``."""
    if jobs is not None:
        return jobs
    if backend != "loky":
        return None
    return len(devices()) or max(1, (os.cpu_count() or 1) // max(1, threads))
