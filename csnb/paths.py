"""Where things lie, what a relative path of a run is relative to; files read and written whole."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csnb.errors import InputError, one_line, shown

CHECKOUT = Path(__file__).resolve().parents[1]  # of an editable installation
NOTEBOOKS, PARAMS, RESULTS = (
    CHECKOUT / "notebooks",
    CHECKOUT / "params",
    CHECKOUT / "results/runs",
)
LONGEST = 255  # bytes of a name, on any file system
MARKS = (".git", "pyproject.toml")


def project() -> Path:
    """The nearest folder upwards that is a project's root (it holds .git or pyproject.toml), else
    the working directory.

    JupyterLab starts a notebook in the notebook's folder, papermill where it was called: both find
    the same root.
    """
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if any(_there(f / m) for m in MARKS)), here)


def _there(place: Path) -> bool:
    """Whether this user sees it: a folder above may be another's."""
    try:
        return place.exists()
    except PermissionError:
        return False


def read_file(file: Path) -> bytes:
    """All of a file. Raises OSError, also for what is none: a pipe or a device has no end."""
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "not a file", str(file))
    return file.read_bytes()


def write_atomically(file: Path, content: bytes) -> None:
    """``file`` holds all of ``content`` or what it held before."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with naming(file):
            temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """An error of writing names the file: that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno:
            error.filename = str(file)
        raise


def resolve(path: str | Path, what: str = "path") -> Path:
    """An absolute path; a relative one is taken from `project`. Raises InputError as `expand`."""
    path = expand(path, what)
    return path if path.is_absolute() else project() / path


def expand(path: str | Path, what: str = "path") -> Path:
    """A path with ``~`` as the home folder, whether or not something lies there.

    Raises InputError for what can name nothing: an unknown user's home, a name that is too long or
    holds NUL. ``what``: such as "runs".
    """
    try:
        found = Path(path).expanduser()
        if any(len(os.fsencode(part)) > LONGEST for part in found.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        os.lstat(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            f"{what}: {shown(path)} names nothing ({reason}); allowed: a path of this machine"
        ) from None
    return found
