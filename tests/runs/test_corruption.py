"""Whatever happens to a run's files: every reader says what is wrong, and reads the others."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from making import QUICK, contents, stripes

import csnb
from csnb import Experiment, InputError, find_or_run, read_run, read_runs
from csnb.__main__ import main
from csnb.batch import make_plan
from csnb.models import LeNet
from csnb.paths import project
from csnb.runs import (
    Stage,
    inspect,
    load_weights,
    read_histories,
    read_hits,
    read_scores,
    read_weights,
)
from csnb.runs.folder import FILES, write_result

ALL = ("result.json", *FILES, "notebook.ipynb")
REFUSED, OWN, EITHER = "refused", "its own", "either"  # what may be read as the run's weights


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder with a sweep file and its two finished runs, as a sweep leaves them.

    Other users may read it, unlike pytest's own.
    """
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield fill(Path(name))
    os.umask(before)


def fill(root: Path) -> Path:
    base = QUICK | {"dataset": stripes(root / "stripes.npz")}
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "", "outputs": []}
    (root / "quick.ipynb").write_text(json.dumps({"cells": [cell]}))
    grid = {name: [value] for name, value in base.items()} | {"seed": [0, 1]}
    (root / "sweep.yaml").write_text(yaml.safe_dump({"notebook": "quick.ipynb", "grid": grid}))
    for seed in (0, 1):
        folder = csnb.run(Experiment(**base, seed=seed, runs=str(root / "runs"))).folder
        result, content = read_run(folder), json.dumps({"cells": [cell], "seed": seed}).encode()
        (folder / "notebook.ipynb").write_bytes(content)
        digests = {"notebook.ipynb": hashlib.sha256(content).hexdigest()}
        write_result(folder, result | {"sha256": result["sha256"] | digests})
    shutil.rmtree(root / "runs" / ".locks")
    return root


class Case:
    """Copies of both runs: one that something happens to, one beside it."""

    def __init__(self, made: Path, runs: Path) -> None:
        self.made, self.runs = made, runs
        shutil.copytree(made / "runs", runs)
        base = QUICK | {"dataset": str(made / "stripes.npz"), "runs": str(runs)}
        self.experiments = [Experiment(**base, seed=seed) for seed in (0, 1)]
        self.run, self.beside = (runs / e.identity().run_id for e in self.experiments)

    def sign(self, **parts: Any) -> None:
        """Another result, with its digest right."""
        write_result(self.run, read_run(self.run) | parts)

    def unfinished(self) -> Path:
        """Nothing is left but the folder."""
        for name in ALL:
            (self.run / name).unlink()
        return self.run

    def under_way(self, content: bytes) -> None:
        """It was begun again, and says this of itself."""
        (self.runs / f".{self.run.name}.new").mkdir()
        (self.runs / f".{self.run.name}.new" / "progress.jsonl").write_bytes(content)


@pytest.fixture
def case(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr("csnb.runner.run", lambda e: SimpleNamespace(folder=Path("run again")))
    yield Case(made, made / "case")
    shutil.rmtree(made / "case")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything: another user takes its place."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def refused(call: Callable[[], object]) -> str:
    """The line of an InputError, which ``call`` must raise."""
    with pytest.raises(InputError) as error:
        call()
    said = str(error.value)
    assert said.isprintable() and len(said) < 300 and "allowed: " in said
    return said


def all_say(
    case: Case, state: str, capsys: pytest.CaptureFixture[str], *, weights: str = REFUSED
) -> str:
    """The reason, after a look whether every reader says it, and reads the run beside."""
    run, beside = case.run, case.beside
    wanted = case.experiments[0].identity()
    found = inspect(run)
    assert (found.state, found.result) == (state, None)
    assert found.reason.isprintable() and len(found.reason) <= 400
    assert found.reason or state in ("todo", "interrupted")
    assert inspect(run, wanted).state == state and inspect(beside).state == "done"

    capsys.readouterr()
    assert main(["status", str(case.runs)]) == (state in ("failed", "broken"))
    said = capsys.readouterr().out
    assert f"{state:11} {run.name}{found.reason and ': '}{found.reason}\n" in said
    assert "1 done" in said and "\x1b" not in said

    for read in (
        lambda: read_run(run),
        lambda: read_scores([beside, run]),
        lambda: read_histories([beside, run]),
        lambda: read_hits([beside, run]),
        lambda: csnb.load_model(run),
    ):
        assert f"{run.name}: {state}" in refused(read)
    frame_leaves_it_out(case, warns=state in ("stale", "broken"))
    weights_are(case, weights)

    assert find_or_run(case.experiments[0]) == Path("run again")
    assert find_or_run(case.experiments[1]) == beside
    assert planned(case) == {run.name: state, beside.name: "done"}
    return found.reason


def frame_leaves_it_out(case: Case, warns: bool) -> None:
    if warns:
        with pytest.warns(UserWarning, match=f"1 of 2 results left out: {case.run.name} "):
            frame = read_runs(case.runs)
    else:
        frame = read_runs(case.runs)
    assert frame["run"].unique().tolist() == [case.beside.name]


def weights_are(case: Case, expected: str) -> None:
    """Refused, or what the run wrote."""
    model = LeNet((1, 12, 12), 3)
    try:
        found = read_weights(case.run)
    except InputError:
        assert expected != OWN
        for read in (lambda: read_weights(case.run), lambda: load_weights(model, case.run)):
            assert "model.safetensors" in refused(read)
        return
    assert expected != REFUSED
    own = read_weights(case.made / "runs" / case.run.name)
    assert own.keys() == found.keys()
    assert all(np.array_equal(own[name], found[name]) for name in own)


def planned(case: Case) -> dict[str, str]:
    return {job.run_id: s.state for job, s in make_plan(case.made / "sweep.yaml", case.runs)}


def all_read(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing has happened to either run."""
    capsys.readouterr()
    main(["status", str(case.runs)])
    assert "2 done" in capsys.readouterr().out
    assert len(read_run(case.run)["scores"]) and len(read_scores([case.run, case.beside]))
    assert len(read_runs(case.runs)["run"].unique()) == 2
    assert len(read_histories([case.run])) and len(read_hits([case.run]))
    weights_are(case, OWN)
    assert csnb.load_model(case.run)
    assert find_or_run(case.experiments[0]) == case.run
    assert set(planned(case).values()) == {"done"}


# --- a run's files


def rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(change(file.read_bytes())) and None


def flipped(place: float) -> Callable[[Path], None]:
    def flip(content: bytes) -> bytes:
        at = min(int(len(content) * place), len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return rewritten(flip)


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(file: Path) -> None:
        file.unlink()
        make(file)

    return replace


DEEP = 100_000
KINDS: dict[str, Callable[[Path], None]] = {
    "a byte short": rewritten(lambda content: content[:-1]),
    "half": rewritten(lambda content: content[: len(content) // 2]),
    "one byte": rewritten(lambda content: content[:1]),
    "empty": rewritten(lambda content: b""),
    "a byte more": rewritten(lambda content: content + b"\0"),
    **{f"flipped at {place}": flipped(place) for place in (0, 0.02, 0.25, 0.5, 0.75, 1)},
    "garbage": rewritten(lambda content: bytes(range(256)) * 20),
    "deep lists": rewritten(lambda content: b"[" * DEEP),
    "deep objects": rewritten(lambda content: b'{"a":' * DEEP),
    "long number": rewritten(lambda content: b"1" * 5000),
    "lone surrogate": rewritten(lambda content: b'{"digest": "\\ud800"}'),
    "deleted": replaced(lambda file: None),
    "folder": replaced(Path.mkdir),
    "dangling link": replaced(lambda file: file.symlink_to("nowhere")),
    "link to itself": replaced(lambda file: file.symlink_to(file.name)),
    "device": replaced(lambda file: file.symlink_to("/dev/zero")),
    "pipe": replaced(os.mkfifo),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL)
def test_damage_to_a_file_is_said(
    name: str, kind: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    KINDS[kind](case.run / name)
    weights = REFUSED if name in ("result.json", "model.safetensors") else OWN
    reason = all_say(case, "broken", capsys, weights=weights)
    assert name in reason or name == "result.json"


@pytest.mark.parametrize("name", ALL)
def test_another_runs_file_is_noticed(
    name: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (case.run / name).write_bytes((case.beside / name).read_bytes())
    weights = REFUSED if name in ("result.json", "model.safetensors") else OWN
    assert all_say(case, "broken", capsys, weights=weights)


PLACES = ("parameters", "given", "classes", "protected", "costs", "digests", "files", "numerics")
PLACES += ("scores", "seconds", "provenance", "sha256")
TYPES = (None, True, 3, 1.5, "\x1b[31mtext", [], [None], [[1]], {}, {"a": None}, {"a": {"b": []}})
RIGHT = {("numerics", "3"): "stale", ("files", "{}"): "done", ("seconds", "{}"): "done"}


@pytest.mark.parametrize("value", TYPES, ids=repr)
@pytest.mark.parametrize("place", PLACES)
def test_another_type_in_a_well_signed_result_is_said(
    place: str, value: object, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.sign(**{place: value})
    state = RIGHT.get((place, repr(value)), "broken")
    if state == "done":  # nothing wrong with that
        assert inspect(case.run).state == "done"
        return
    all_say(case, state, capsys, weights=REFUSED if place == "sha256" else EITHER)


@pytest.mark.parametrize("kind", ["dataset", "cost_matrix"])
def test_no_device_that_a_result_names_is_read_for_ever(kind: str, case: Case) -> None:
    case.sign(files={kind: "/dev/zero"})
    assert inspect(case.run).state == "stale"


@pytest.mark.parametrize("value", [[], {}, True], ids=repr)
@pytest.mark.parametrize("column", ["attack", "measure", "class", "correct", "value", "low"])
def test_another_type_among_the_scores_is_said(
    column: str, value: object, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    row, *rows = read_run(case.run)["scores"]
    case.sign(scores=[*rows, row | {column: value}])
    assert column in all_say(case, "broken", capsys, weights=OWN)


def test_a_run_that_is_replaced_as_a_whole_is_noticed(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(case.run)
    shutil.copytree(case.beside, case.run)
    assert all_say(case, "broken", capsys) == f"the folder holds the run {case.beside.name}"


@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_link_to_nothing_in_a_runs_place_is_said_and_can_be_replaced(
    target: str, case: Case, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(case.run)
    case.run.symlink_to(case.run.name if target == "itself" else target)
    all_say(case, "broken", capsys)
    ready = case.runs / f".{case.run.name}.ready"
    shutil.copytree(made / "runs" / case.run.name, ready)
    all_read(case, capsys)


# --- what lies beside


PROGRESS = (b"", b"{", b"null", b"[]", b'{"stage": "train"}', b"\xff\xfe", b"[" * DEEP, b"1" * 5000)
PROGRESS += (
    b'{"stage": "train", "epoch": [], "epochs": {}, "loss": "x"}',
    b'{"stage": "train", "epoch": "\\u001b[31m", "epochs": 2, "loss": 0.5}',
    b'{"stage": "evaluate", "attack": "\\u001b[31m' + b"x" * DEEP + b'"}',
)


@pytest.mark.parametrize("content", PROGRESS, ids=lambda content: repr(content[:40]))
def test_broken_progress_costs_only_what_it_says(
    content: bytes, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.under_way(content)
    (case.run / "progress.jsonl").write_bytes(content)
    all_read(case, capsys)
    case.unfinished()
    all_say(case, "interrupted", capsys)


FAILED = (b"", b"{", b"null", b"[]", b"3", b'{"reason": "x"}', b"\xff", b"[" * DEEP)
FAILED += (
    b'{"reason": null, "message": [], "seconds": {}}',
    b'{"reason": "\\u001b[31mred", "message": "a\\nb\\u009b", "seconds": 1}',
    b'{"reason": "\\ud800", "message": "' + b"x" * DEEP + b'", "seconds": 1}',
    b'{"reason": "r", "message": "m", "seconds": 1' + b"0" * 400 + b"}",
    b'{"reason": "r", "message": "m", "seconds": NaN}',
)


@pytest.mark.parametrize("content", FAILED, ids=lambda content: repr(content[:40]))
def test_a_broken_failure_is_a_failure(
    content: bytes, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (case.run / "failed.json").write_bytes(content)
    all_read(case, capsys)
    case.unfinished()
    all_say(case, "failed", capsys)


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_no_file_where_a_failure_should_be_is_a_failure(
    kind: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (case.unfinished() / "failed.json").touch()
    KINDS[kind](case.run / "failed.json")
    assert all_say(case, "failed", capsys) == "failed.json cannot be read"


def files(case: Case, *names: str) -> None:
    for name in names:
        (case.runs / name).write_bytes(b"\xff")


def folders(case: Case, *names: str) -> None:
    for name in names:
        (case.runs / name).mkdir(parents=True)


BESIDE: dict[str, Callable[[Case], object]] = {
    "foreign files": lambda case: files(case, "a.lock", "b", ".c.new", ".d", "\udcff-0123456789"),
    "foreign folders": lambda case: folders(case, "a.lock", "-", "\x1b[31m", ".new", "..new"),
    "locks that are a file": lambda case: files(case, ".locks"),
    "locks that are nowhere": lambda case: (case.runs / ".locks").symlink_to("nowhere"),
    "a lock that is a folder": lambda case: folders(case, f".locks/{case.run.name}"),
    "a lock that is nowhere": lambda case: (
        folders(case, ".locks"),
        (case.runs / ".locks" / case.run.name).symlink_to("nowhere"),
    ),
    "an empty publication": lambda case: folders(case, f".{case.run.name}.ready"),
    "a file as publication": lambda case: files(case, f".{case.run.name}.ready"),
    "an empty old one": lambda case: folders(case, f".{case.run.name}.old"),
    "a file as stage": lambda case: files(case, f".{case.run.name}.new"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_costs_no_run(
    what: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(case.run)
    BESIDE[what](case)
    all_read(case, capsys)
    assert contents(case.run) == before


def test_a_broken_run_of_the_same_name_is_no_reason(made: Path, case: Case) -> None:
    """One whose inputs may have been others."""
    result = case.run / "result.json"
    other = case.run.with_name(f"{case.run.name[:-10]}0123456789")
    case.run.rename(other)
    for content in (b"[" * DEEP, b"{", b"[]", b'{"digest": null}'):
        (other / result.name).write_bytes(content)
        assert planned(case) == {case.run.name: "todo", case.beside.name: "done"}


# --- without permission


@pytest.mark.parametrize("name", [*ALL, "."])
def test_what_may_not_be_read_is_said(
    name: str, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    (case.run / name).chmod(0)
    try:
        with unprivileged():
            reason = all_say(case, "broken", capsys, weights=EITHER)
    finally:
        (case.run / name).chmod(0o755)
    assert "Permission denied" in reason


def test_inputs_that_another_user_may_not_read_are_no_fault(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    data = case.made / "stripes.npz"
    for place in (data, data.parent / "away"):
        case.made.joinpath("away").mkdir(exist_ok=True)
        place.chmod(0)
        try:
            with unprivileged():
                assert inspect(case.run).state == "done", place
        finally:
            place.chmod(0o755)


def test_a_folder_below_one_that_may_not_be_looked_into_is_its_own_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "locked" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    inner.parent.chmod(0)
    try:
        with unprivileged():
            assert project() == inner
    finally:
        inner.parent.chmod(0o755)


def test_looking_needs_no_right_to_write(
    case: Case, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody else's folder, or a read-only one: also for what is under way or broke off."""
    shutil.copytree(case.run, case.runs / f".{case.run.name}.ready")
    stages = [Stage(case.runs, name) for name in ("live-0123456789", "ended-0123456789")]
    for stage in stages:
        stage.progress(stage="train", epoch=3, epochs=20, loss=0.5)
    stages[1].release()
    before = contents(case.runs)
    case.runs.chmod(0o555)
    try:
        with unprivileged():
            assert main(["status", str(case.runs)]) == 0
            assert len(read_runs(case.runs)["run"].unique()) == 2
            assert main(["sweep", str(made / "sweep.yaml"), "--runs", str(case.runs)]) == 0
        assert contents(case.runs) == before
    finally:
        case.runs.chmod(0o755)
        stages[0].release()
    said = capsys.readouterr().out
    assert "4 runs: " in said and "2 done" in said
    assert "running     live-0123456789: epoch 3 of 20" in said
    assert "interrupted ended-0123456789: epoch 3 of 20" in said


def test_a_folder_that_may_not_be_listed_is_refused_in_a_line(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.runs.chmod(0)
    try:
        with unprivileged():
            assert main(["status", str(case.runs)]) == 2
    finally:
        case.runs.chmod(0o755)
    assert "cannot be read (Permission denied)" in capsys.readouterr().err
