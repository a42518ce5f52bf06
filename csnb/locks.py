"""File locks that the operating system releases when every process that holds them is dead."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def try_lock(file: Path) -> Iterator[int | None]:
    """The descriptor of ``file``, locked for this process alone; None where somebody else holds it.

    A child process that inherits the descriptor holds the lock too: it stays taken until the child is dead as well.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def is_locked(file: Path) -> bool:
    """Whether some process holds ``file``."""
    if not file.exists():
        return False
    with try_lock(file) as descriptor:
        return descriptor is None
