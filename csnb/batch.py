"""Many runs at once, in processes: joblib on this machine, or the same tasks on a dask or Ray cluster."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import joblib

from csnb.errors import InputError
from csnb.execution import Record, Task, devices, fail, run_one

DEATHS = 3  # pools of workers that may die in a row without a run ended in between


def run_all(tasks: list[Task], jobs: int, backend: str) -> Iterator[Record]:
    """Each task's record as it ends, `busy` ones too; these are tried again until another process is through with them.

    A worker that is killed takes its pool with it: what had not ended starts again in a new one, up to `DEATHS` times.
    """
    left = {task.job.run_id: task for task in tasks}
    deaths = 0
    while left:
        before = len(left)
        try:
            for record in _pool(jobs, backend)(joblib.delayed(run_one)(task) for task in list(left.values())):
                if record.ending != "busy":
                    del left[record.job.run_id]
                yield record
            deaths = 0
        except Exception as error:  # never of a run: `run_one` raises nothing
            deaths = deaths + 1 if len(left) == before else 1
            if deaths >= DEATHS:
                message = f"{DEATHS} pools of workers died ({type(error).__name__}): killed, or out of memory"
                yield from (fail(task.job, "worker killed", message, 0.0) for task in left.values())
                return
        if left:
            time.sleep(1)


def _pool(jobs: int, backend: str) -> joblib.Parallel:
    return joblib.Parallel(jobs, backend=backend, return_as="generator_unordered", batch_size=1)


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
            from ray.util.joblib import register_ray
        except ImportError:
            raise InputError("backend: ray is not installed; allowed: after pip install ray") from None
        if not ray.is_initialized():
            ray.init(address=address or None, log_to_driver=False)
        register_ray()
        yield


def count_jobs(jobs: int | None, backend: str, threads: int) -> int:
    """How many runs at once: as asked for, else a cluster's size, a run for each GPU, or the cores divided by ``threads``."""
    if jobs is not None:
        return jobs
    if backend != "loky":
        return -1
    return len(devices()) or max(1, (os.cpu_count() or 1) // max(1, threads))
