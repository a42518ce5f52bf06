"""What keeps processes apart: locks, and a temporary folder for each.

A file system without locks (Lustre, some NFS) keeps nobody from work: that two processes at once
are not told apart there is said once.
"""

import errno
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
BUSY = (errno.EACCES, errno.EAGAIN)
# a soft lock stays when its holder is killed: the run would be under way for ever
SOFT = "fallback_to_soft"
HARD = {SOFT: False} if SOFT in signature(BaseFileLock.__init__).parameters else {}
PREFIX = "csnb-"
YOUNG = 60.0  # seconds in which a new temporary folder may not have its lock yet
_said, _saying = set[int](), threading.Lock()
_mine = set[Path]()  # files that this process holds


class Lock:
    """A file that one process holds at a time; where there are no locks, everybody."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = FileLock(file, thread_local=False, **HARD)

    def acquire(self, wait: float = 0.0) -> bool:
        """Whether it is this one's now; tries for ``wait`` seconds. Raises OSError."""
        try:
            self._lock.acquire(timeout=wait, poll_interval=0.02)
        except Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            if not _no_locks(error, self.file):
                raise
        _mine.add(self.file.absolute())
        return True

    def release(self) -> None:
        """Let it go, if it is held."""
        if self._lock.is_locked:
            _mine.discard(self.file.absolute())
        self._lock.release()


def is_mine(file: Path) -> bool:
    """Whether it is this very process that holds the lock."""
    return file.absolute() in _mine


def is_held(file: Path) -> bool:
    """Whether a process holds the lock; where that cannot be known, no. Looking writes nothing."""
    try:
        return file.is_file() and _held(file)
    except (OSError, NotImplementedError) as error:
        _no_locks(error, file)
        return False


@contextmanager
def scratch(place: str | None = None) -> Iterator[Path]:
    """A temporary folder, in ``place`` or where the system has them, that ends with the context.

    Those that killed processes left there are removed first.
    """
    _remove_left(Path(place or tempfile.gettempdir()))
    options = {"prefix": PREFIX, "dir": place, "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(**options) as name:
        lock = Lock(Path(name, "lock"))
        lock.acquire()
        try:
            yield Path(name)
        finally:
            lock.release()


def _held(file: Path) -> bool:
    """Raises OSError or NotImplementedError where it cannot be known."""
    if fcntl is None:
        lock = FileLock(file, **HARD)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False
    with file.open("rb") as stream:  # a shared one needs no right to write
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in BUSY:
                raise
            return True
    return False


def _no_locks(error: Exception, file: Path) -> bool:
    """Whether it says that there are no locks; if so, that is passed on once a file system."""
    if not isinstance(error, NotImplementedError) and error.errno not in MISSING:
        return False
    system = file.parent.stat().st_dev
    with _saying:
        known = system in _said
        _said.add(system)
    if not known:
        text = f"{file.parent}: no locks in this file system; two at a time are not told apart"
        print(text, file=sys.stderr, flush=True)
    return True


def _remove_left(place: Path) -> None:
    """The temporary folders of this user that nobody holds any more."""
    for lock in place.glob(f"{PREFIX}*/lock"):
        with suppress(OSError, NotImplementedError):
            info = lock.lstat()
            own = not hasattr(os, "getuid") or info.st_uid == os.getuid()
            old = time.time() - info.st_mtime > YOUNG
            if own and old and stat.S_ISREG(info.st_mode) and not _held(lock):
                shutil.rmtree(lock.parent, ignore_errors=True)
