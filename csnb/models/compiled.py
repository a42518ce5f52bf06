"""A C++ file compiled for this very processor, kept in the user's cache and checked before use.

A library is tried in a process of its own before it is kept, and a digest of its bytes is kept
beside it: what was damaged since is compiled again and never loaded.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from csnb.locks import Lock, scratch

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared")
PATIENCE = 30  # seconds for the compiler, which takes about three
TRIAL = "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); [lib[s] for s in sys.argv[2:]]"


def load(source: Path, symbols: Sequence[str]) -> ctypes.CDLL | None:
    """The compiled ``source`` with its C functions ``symbols``; None if it cannot be had."""
    given = os.environ.get("CXX", "").split()
    commands = [given] if given else [["c++"], ["g++"], ["clang++"]]
    command = next((words for words in commands if shutil.which(words[0])), None)
    if command is None:
        return None
    try:
        name = f"{source.stem}-{_key(command, source)}.so"
        try:
            return _cached(command, source, symbols, _cache_folder() / name)
        except (OSError, RuntimeError):
            # no home, no right to write there or to run what is there: for this process alone
            with scratch() as folder:
                return _cached(command, source, symbols, folder / name)
    except (OSError, subprocess.SubprocessError):
        return None


def _key(command: list[str], source: Path) -> str:
    """Names all that the compiled code depends on."""
    version = _run([*command, "--version"])
    processor = Path("/proc/cpuinfo")
    text = processor.read_text(encoding="utf-8") if processor.exists() else platform.processor()
    kinds = ("flags", "Features", "model", "CPU")
    features = sorted({line for line in text.splitlines() if line.startswith(kinds)})
    rest = repr((command, shutil.which(command[0]), FLAGS, platform.machine(), features)).encode()
    return hashlib.sha256(b"\0".join([source.read_bytes(), version, rest])).hexdigest()[:32]


def _cache_folder() -> Path:
    """The user's own folder for compiled code. Raises OSError or RuntimeError if there is none."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (base if base.is_absolute() else Path.home() / ".cache") / "csnb"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder}: somebody else's; code from there is not run")
    return folder


def _cached(command: list[str], source: Path, symbols: Sequence[str], path: Path) -> ctypes.CDLL:
    """Loads ``path``, compiled first unless it is there as it was tried.

    Raises OSError or SubprocessError.
    """
    digest = path.with_suffix(".sha256")
    lock = Lock(path.with_suffix(".lock"))
    if not lock.acquire(4 * PATIENCE):
        raise TimeoutError(f"{path}: another process is at it")
    try:
        if not _as_tried(path, digest):
            _compile(command, source, symbols, path, digest)
    finally:
        lock.release()
    return ctypes.CDLL(str(path))


def _compile(
    command: list[str], source: Path, symbols: Sequence[str], path: Path, digest: Path
) -> None:
    """Compiles, tries and keeps. Raises OSError or SubprocessError."""
    for left in path.parent.glob(f"{path.stem}.part*"):  # of who was killed at it
        left.unlink(missing_ok=True)
    part = path.with_suffix(f".part{os.getpid()}")
    try:
        _run([*command, *FLAGS, str(source), "-o", str(part)])
        try:
            _run([sys.executable, "-c", TRIAL, str(part), *symbols])
        except subprocess.CalledProcessError:  # where nothing may be run, say: try another place
            raise PermissionError(f"{part}: does not load") from None
        content = part.read_bytes()
        part.replace(path)  # in one step: whoever sees the file sees all of it
        digest.write_text(hashlib.sha256(content).hexdigest(), encoding="utf-8")
    finally:
        part.unlink(missing_ok=True)


def _as_tried(path: Path, digest: Path) -> bool:
    """Whether the library is there with the bytes that were tried."""
    try:
        known = digest.read_text(encoding="utf-8")
        return hashlib.sha256(path.read_bytes()).hexdigest() == known
    except (OSError, ValueError):
        return False


def _run(command: list[str]) -> bytes:
    """What a command prints; it and its children end with its time. Raises SubprocessError."""
    pipe, group = subprocess.PIPE, hasattr(os, "killpg")  # not on Windows
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=group
    ) as process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        except BaseException:
            if group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output
