"""Compiled code: kept for the next process, and never loaded unless as it was tried."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from csnb import locks
from csnb.models import compiled
from csnb.models.compiled import load

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one function; an empty cache; a compiler that writes down each compilation."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "small.cpp"
    file.write_text('extern "C" int answer() { return 42; }')
    compiler(tmp_path, monkeypatch, f'echo once >> "{tmp_path}/log"; exec {COMPILER} "$@"')
    return file


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str = "") -> None:
    """A shell script in the compiler's place."""
    script = folder / "compiler"
    version = version or f"exec {COMPILER} --version"
    script.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; fi\n{line}\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


def compilations(source: Path) -> int:
    return len((source.parent / "log").read_text().splitlines())


def answer(source: Path) -> int:
    library = load(source, ["answer"])
    assert library is not None
    return library.answer()


def kept(source: Path) -> Path:
    """The library in the cache."""
    (file,) = source.parent.glob("csnb/*.so")
    return file


def test_a_library_is_compiled_once(source: Path) -> None:
    assert [answer(source) for _ in range(3)] == [42] * 3
    assert compilations(source) == 1
    left = {path.suffix for path in kept(source).parent.iterdir()}
    assert left - {".lock"} == {".so", ".sha256"}  # which older filelock removes
    source.write_text('extern "C" int answer() { return 43; }')
    assert answer(source) == 43 and compilations(source) == 2


def another(file: Path, text: str) -> None:
    """A library that loads well, in the place of ours."""
    wrong = file.with_name("wrong.cpp")
    wrong.write_text(text)
    file.unlink()
    subprocess.run([COMPILER, "-shared", "-fPIC", str(wrong), "-o", str(file)], check=True)
    wrong.unlink()


def written(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Into a new file: the old one is mapped into this process."""

    def write(file: Path) -> None:
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(change(content))

    return write


def in_its_place(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink(missing_ok=file.suffix == ".lock")
    make(file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": written(lambda content: b""),
    "truncated": written(lambda content: content[: len(content) // 2]),
    "a byte short": written(lambda content: content[:-1]),
    "random": written(lambda content: os.urandom(len(content))),
    "header only": written(lambda content: content[:64] + bytes(len(content) - 64)),
    "flipped": written(lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]),
    "gone": lambda file: file.unlink(),
    "dangling link": lambda file: in_its_place(file, lambda file: file.symlink_to("nowhere")),
    "without the function": lambda file: another(file, 'extern "C" int other() { return 1; }'),
    "another function": lambda file: another(file, 'extern "C" int answer() { return 1; }'),
    "no digest": lambda file: file.with_suffix(".sha256").unlink(),
    "another digest": lambda file: file.with_suffix(".sha256").write_text("0" * 64),
    "garbled digest": lambda file: file.with_suffix(".sha256").write_bytes(b"\xff" * 9),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_never_loaded_but_compiled_again(damage: str, source: Path) -> None:
    assert answer(source) == 42
    DAMAGES[damage](kept(source))
    assert answer(source) == 42 and compilations(source) == 2
    assert answer(source) == 42 and compilations(source) == 2  # and kept again


@pytest.mark.parametrize("kind", [".so", ".sha256", ".lock"])
def test_a_folder_in_the_way_costs_only_time(kind: str, source: Path) -> None:
    assert answer(source) == 42
    in_its_place(kept(source).with_suffix(kind), lambda file: (file / "x").mkdir(parents=True))
    assert answer(source) == 42


def test_a_library_that_does_not_do_is_not_kept(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(source, ["answer", "another"]) is None
    compiler(source.parent, monkeypatch, 'for last; do :; done; echo nonsense > "$last"')
    assert load(source, ["answer"]) is None
    assert not list(source.parent.glob("csnb/*.so")) + list(source.parent.glob("csnb/*.part*"))


def test_where_nothing_may_be_run_another_place_is_tried(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a home that is mounted noexec."""
    run = compiled._run

    def refuse(command: list[str]) -> bytes:
        if compiled.TRIAL in command and str(source.parent / "csnb") in " ".join(command):
            raise subprocess.CalledProcessError(1, command)
        return run(command)

    monkeypatch.setattr(compiled, "_run", refuse)
    assert answer(source) == 42
    assert not list(source.parent.glob("csnb/*.so"))


def test_somebody_else_s_cache_is_not_used(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.getuid() + 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: other)
        assert answer(source) == 42
    assert not list(source.parent.glob("csnb/*"))


def test_where_there_are_no_users_or_process_groups(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in ((os, "getuid"), (os, "killpg"), (signal, "SIGKILL")):
        monkeypatch.delattr(owner, name)
    assert answer(source) == 42 and kept(source).is_file()


def test_a_cache_without_locks_is_a_cache(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*args: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks, "_said", set())
    monkeypatch.setattr("fcntl.flock", flock)
    assert [answer(source) for _ in range(2)] == [42, 42] and compilations(source) == 1


def test_what_killed_processes_left_is_removed(source: Path) -> None:
    assert answer(source) == 42
    library = kept(source)
    left = [library.with_suffix(f".part{number}") for number in (1, 999_999_999)]
    for file in (*left, library.with_name("other.part1")):
        file.write_bytes(b"half a library")
    library.unlink()
    assert answer(source) == 42
    assert not any(file.exists() for file in left)
    assert library.with_name("other.part1").exists()  # of other code, which may be under way


@pytest.mark.parametrize("at", ["--version", "compiling"])
def test_a_compiler_that_hangs_is_ended_with_its_children(
    at: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = f'sleep 600 & echo $! > "{source.parent}/child"; wait'
    version = {"version": hang} if at == "--version" else {}
    compiler(source.parent, monkeypatch, hang, **version)
    monkeypatch.setattr(compiled, "PATIENCE", 0.5)
    start = time.monotonic()
    assert load(source, ["answer"]) is None
    assert time.monotonic() - start < 10
    child = int((source.parent / "child").read_text())
    deadline = time.monotonic() + 5
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not list(source.parent.glob("csnb/*.part*"))


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_python_is_no_trial(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where csnb is embedded: what was not tried is not loaded."""
    monkeypatch.setattr(sys, "executable", "")
    assert load(source, ["answer"]) is None
