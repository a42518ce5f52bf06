"""A run's folder: what is written reads back, and a finished run stays whole whatever happens."""

import contextlib
import errno
import hashlib
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from making import (
    HISTORY,
    OUTCOME,
    QUICK,
    SCORES,
    contents,
    fill,
    identity,
    network,
    write_run,
)
from safetensors.torch import load_file
from torch import nn

from csnb import Experiment, InputError, Run
from csnb.paths import write_atomically
from csnb.runs import (
    Stage,
    inspect,
    load_weights,
    publish,
    read_run,
    read_weights,
    run_folders,
)
from csnb.runs.folder import FILES, HOLD, settle, staged


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 300
    return message


# --- a run, written and read


def test_a_run_reads_back_as_written(folder: Path) -> None:
    result = read_run(folder)
    assert result["parameters"] == identity().parameters
    assert result["given"] == ["epochs"] and result["protected"] == [1]
    assert result["classes"] == ["cat", "dog"] and result["costs"] == [[0, 10], [10, 0]]
    assert result["seconds"] == {"train": 1.235, "PGD": 2}
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in FILES}
    assert result["sha256"] == digests
    assert read_run(str(folder)) == result


def test_scores_survive_the_file(folder: Path) -> None:
    frame = pd.DataFrame(read_run(folder)["scores"])
    assert list(frame.columns) == list(SCORES.columns)
    for column in ("attack", "measure", "class"):
        assert frame[column].tolist() == SCORES[column].tolist()
    for column in ("correct", "total", "value", "low", "high"):
        found, expected = (f[column].astype(float) for f in (frame, SCORES))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_weights_history_and_predictions_are_in_files_that_others_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    expected = network().state_dict()
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), HISTORY)
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"labels", "attacked", "clean", "PGD"}
        np.testing.assert_array_equal(arrays["labels"], OUTCOME.labels)
        np.testing.assert_array_equal(arrays["attacked"], OUTCOME.attacked)
        for name, predictions in OUTCOME.predictions.items():
            np.testing.assert_array_equal(arrays[name], predictions)
            assert arrays[name].dtype == np.uint8


def test_a_run_leaves_its_four_files_and_a_lock(folder: Path, runs: Path) -> None:
    assert set(contents(folder)) == {*FILES, "result.json"}
    assert set(contents(runs)) - {f"{folder.name}/{n}" for n in contents(folder)} <= {
        f".locks/{folder.name}"
    }


def test_files_are_readable_by_whom_the_umask_allows(runs: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = write_run(runs)
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("umask", [0o002, 0o077])
def test_what_a_sweep_leaves_follows_the_umask_too(
    umask: int, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the mode of the notebook that it was given."""
    made = identity()
    monkeypatch.setenv(HOLD, made.run_id)
    (tmp_path / "out.ipynb").write_text("{}")
    (tmp_path / "out.ipynb").chmod(0o600)
    before = os.umask(umask)
    try:
        stage = Stage(runs, made.run_id)
        stage.progress(stage="train")
        fill(stage, made)
        stage.publish()
        stage.release()
        folder = publish(runs, made.run_id, tmp_path / "out.ipynb")
        write_atomically(folder / "failed.json", b"{}")
    finally:
        os.umask(before)
    names = {*FILES, "result.json", "notebook.ipynb", "progress.jsonl", "failed.json"}
    files = [path for path in folder.iterdir() if path.name in names]
    assert len(files) == len(names)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    places = [runs, folder, runs / ".locks"]
    assert {path.stat().st_mode & 0o777 for path in places} == {0o777 & ~umask}


def test_weights_on_which_tensors_lean_on_each_other_are_written(runs: Path) -> None:
    made = identity()
    stage = Stage(runs, made.run_id)
    model = nn.Linear(4, 2)
    model.register_buffer("turned", torch.arange(6.0).view(2, 3).T)  # not contiguous
    parts = {"history": HISTORY, "predictions": {}, "result": {}}
    stage.write(made, model=model, **parts)
    stage.release()
    assert torch.equal(read_weights_of(stage.folder)["turned"], model.turned)


def read_weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in read_weights(folder).items()}


# --- the finished run stays


class Killed(BaseException):
    """No handler takes this for an error."""


class Ops:
    """Counts what is done to files; from the ``stop``-th on (or ``once``) nothing is done."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        error: Callable[[], BaseException],
        stop: int,
        once: bool = False,
    ) -> None:
        self.done, self.error, self.stop, self.once = 0, error, stop, once
        for owner, name in (
            *((os, name) for name in ("rename", "replace", "unlink", "rmdir", "mkdir")),
            (Path, "write_bytes"),
        ):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name), name))

    def counted(self, call: Callable[..., object], name: str) -> Callable[..., object]:
        def counting(*args: object, **kwargs: object) -> object:
            if Path(str(args[0])).parent.name == ".locks":  # filelock's: the system lets it go
                return call(*args, **kwargs)
            self.done += 1
            if self.done == self.stop and name == "write_bytes":  # half-way
                path, content = args
                with io.open(path, "wb") as stream:  # noqa: UP020
                    stream.write(content[: len(content) // 2])
            if self.done == self.stop or (self.done > self.stop and not self.once):
                raise self.error()
            return call(*args, **kwargs)

        return counting


def every_step(
    act: Callable[[Path], object],
    error: Callable[[], BaseException],
    tmp_path: Path,
    once: bool = False,
) -> Iterator[tuple[Path, int]]:
    """A folder of runs for each step at which ``act`` on a finished run was stopped."""
    step = 0
    while True:
        step += 1
        runs = tmp_path / f"{step}"
        write_run(runs, seed=1)
        with pytest.MonkeyPatch.context() as patch:
            ops = Ops(patch, error, step, once)
            with contextlib.suppress(Killed, OSError, InputError):
                act(runs)
            if ops.done < step:
                assert step > 5
                return
        yield runs, step


def rerun(runs: Path) -> None:
    write_run(runs, seed=2)


def rerun_in_a_sweep(runs: Path) -> None:
    """As a sweep does it: a child that leaves the result aside, then the sweep itself."""
    made = identity()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOLD, made.run_id)
        stage = Stage(runs, made.run_id)
        fill(stage, made, seed=2)
        stage.publish()
        stage.release()  # the child ended
    (runs / "out.ipynb").write_bytes(b"{}")
    publish(runs, made.run_id, runs / "out.ipynb")


def seed_of(folder: Path) -> int:
    """Which of the two complete runs lies there; every byte of it."""
    result = read_run(folder)
    assert set(result["sha256"]) - {"notebook.ipynb"} == set(FILES)
    assert set(contents(folder)) == {*result["sha256"], "result.json"}
    weights = read_weights_of(folder)
    (seed,) = (
        s
        for s in (1, 2)
        if all(torch.equal(weights[n], v) for n, v in network(s).state_dict().items())
    )
    return seed


@pytest.mark.parametrize("act", [rerun, rerun_in_a_sweep])
def test_a_kill_at_any_step_leaves_the_old_run_or_the_new_one_whole(
    act: Callable[[Path], None], tmp_path: Path
) -> None:
    found = []
    for runs, _ in every_step(act, Killed, tmp_path):
        folder = runs / identity().run_id
        assert inspect(folder).state == "done"  # this look puts right what was left
        found.append(seed_of(folder))
        act(runs)  # and it can be made again
        assert seed_of(folder) == 2
        visible = {p.name for p in runs.iterdir() if not p.name.startswith(".")}
        assert visible == {folder.name}
    assert found == sorted(found) and {1, 2} <= set(found)  # old ones, then new ones


@pytest.mark.parametrize("act", [rerun, rerun_in_a_sweep])
def test_a_kill_while_a_kill_is_put_right_costs_nothing_either(
    act: Callable[[Path], None], tmp_path: Path
) -> None:
    for runs, _ in every_step(act, Killed, tmp_path):
        folder = runs / identity().run_id
        for stop in (1, 2, 3):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(BaseException) as ended:
                Ops(patch, Killed, stop)
                inspect(folder)
                raise Killed  # nothing was left to do
            assert ended.type is Killed
        assert inspect(folder).state == "done"
        assert seed_of(folder) in (1, 2)


@pytest.mark.parametrize("act", [rerun, rerun_in_a_sweep])
@pytest.mark.parametrize("once", [False, True], ids=["for good", "once"])
def test_a_full_disk_at_any_step_leaves_a_finished_run_whole(
    act: Callable[[Path], None], once: bool, tmp_path: Path
) -> None:
    def full() -> OSError:
        return OSError(errno.ENOSPC, "disk full")

    for runs, step in every_step(act, full, tmp_path, once):
        folder = runs / identity().run_id
        assert inspect(folder).state == "done", step
        assert seed_of(folder) in (1, 2)


@pytest.mark.parametrize("name", [*FILES, "result.json"])
def test_a_run_whose_first_writing_fails_has_no_result(
    name: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        if name in path.name:
            raise OSError(errno.ENOSPC, "disk full")
        path.touch()

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_run(runs)
    folder = runs / identity().run_id
    assert not folder.exists()
    with pytest.raises(InputError):
        read_run(folder)


@pytest.mark.parametrize("name", [*FILES, "result.json"])
def test_a_full_disk_names_the_file_and_costs_no_training(
    name: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is room, the same run is written."""
    write, made = Path.write_bytes, identity()

    def full(path: Path, content: bytes) -> None:
        write(path, content[: len(content) // 2])
        if name in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    stage = Stage(runs, made.run_id)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=f"No space left on device: '.*{name}'") as error:
            fill(stage, made)
    assert error.value.errno == errno.ENOSPC
    fill(stage, made)
    assert inspect(stage.publish()).state == "done"


def test_a_run_that_was_not_written_can_be_written_again(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model, scores and lock are still there; progress that does not fit ends nothing.

    Its training is on the disk since it was done.
    """
    made = Run(Experiment(**QUICK, dataset=data, runs=str(tmp_path / "runs")))
    progress = Stage.progress

    def without_room(made: Stage, **status: object) -> None:
        file = made.folder / "progress.jsonl"
        if not file.exists():
            file.symlink_to("/dev/full")
        progress(made, **status)

    monkeypatch.setattr(Stage, "progress", without_room)
    made.train()
    made.evaluate()
    (made.folder.parent / f".{made.folder.name}.new" / "progress.jsonl").unlink()

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*history.csv"):
            made.write()
    assert inspect(made.folder).state == "running"
    assert inspect(made.write()).state == "done"


def test_a_result_that_is_held_back_for_a_sweep_is_no_run_yet(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = identity()
    monkeypatch.setenv(HOLD, made.run_id)
    stage = Stage(runs, made.run_id)
    fill(stage, made)
    assert stage.publish() == staged(runs, made.run_id)
    assert inspect(runs / made.run_id).state == "running"  # the process that holds it goes on
    stage.release()
    assert inspect(runs / made.run_id).state == "interrupted"
    (runs / "out.ipynb").write_text("{}")
    folder = publish(runs, made.run_id, runs / "out.ipynb")
    assert folder == runs / made.run_id and inspect(folder).state == "done"
    assert (folder / "notebook.ipynb").read_text() == "{}" and not (runs / "out.ipynb").exists()


def test_what_is_held_back_for_another_run_is_not_held_back(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOLD, "another")
    assert write_run(runs) == runs / identity().run_id


def test_an_incomplete_result_is_not_published(runs: Path, tmp_path: Path) -> None:
    stage = Stage(runs, identity().run_id)
    (tmp_path / "out.ipynb").write_text("{}")
    with pytest.raises((OSError, ValueError)):
        publish(runs, stage.run_id, tmp_path / "out.ipynb")
    stage.release()
    assert not (runs / stage.run_id).exists()


# --- one process at a time


def test_a_second_one_at_the_same_run_is_refused_and_changes_nothing(folder: Path) -> None:
    runs, run_id = folder.parent, folder.name
    first = Stage(runs, run_id)
    first.progress(stage="train", epoch=1, epochs=2, loss=0.5)
    before = contents(runs)
    with pytest.raises(InputError, match="another process is at it") as error:
        Stage(runs, run_id)
    assert run_id in one_line(error) and contents(runs) == before
    first.release()
    Stage(runs, run_id).release(remove=True)


def test_another_run_in_the_same_folder_is_not_kept_waiting(runs: Path) -> None:
    stages = [Stage(runs, name) for name in ("a-1", "b-2")]
    for stage in stages:
        stage.release(remove=True)


def test_whoever_only_looks_keeps_nobody_from_starting(folder: Path) -> None:
    going = threading.Event()

    def look() -> None:
        while not going.is_set():
            inspect(folder)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(40):
            Stage(folder.parent, folder.name).release(remove=True)
    finally:
        going.set()
        for watcher in watchers:
            watcher.join()


# --- the folder aside


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "a" / "runs", "one")
    assert stage.folder == tmp_path / "a" / "runs" / ".one.new" and stage.folder.is_dir()
    stage.release(remove=True)
    assert not stage.folder.exists()


def test_a_rerun_begins_aside_with_nothing_and_leaves_the_finished_run_as_it_is(
    folder: Path,
) -> None:
    before = contents(folder)
    for _ in range(2):
        stage = Stage(folder.parent, folder.name)
        assert contents(stage.folder) == {}
        stage.progress(stage="train")
        stage.release()
    assert contents(folder) == before and list(contents(stage.folder)) == ["progress.jsonl"]


@pytest.mark.parametrize("below", ["", "run", "runs/run"])
def test_a_place_that_cannot_be_written_in_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(InputError, match="cannot write") as error:
        Stage(tmp_path / "file" / below, "one")
    assert str(tmp_path / "file") in one_line(error)
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize("name", [".{}.new", ".{}.old", ".{}.ready", "{}"])
def test_a_file_where_a_folder_should_be_stops_nothing(name: str, folder: Path) -> None:
    runs, run_id = folder.parent, folder.name
    place = runs / name.format(run_id)
    if place == folder:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    place.write_text("a file")
    inspect(runs / run_id)
    assert seed_of(write_run(runs, seed=2)) == 2
    assert inspect(runs / run_id).state == "done"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write"):
        Stage(tmp_path / "runs", "one")
    tmp_path.chmod(0o700)


def test_a_refused_start_lets_the_run_go_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.mkdir()
    with monkeypatch.context() as patch:
        mkdir = Path.mkdir

        def fail(path: Path, *args: object, **kwargs: object) -> None:
            if path.name.endswith(".new"):
                raise OSError(errno.ENOSPC, "disk full")
            mkdir(path, *args, **kwargs)

        patch.setattr(Path, "mkdir", fail)
        with pytest.raises(InputError, match="disk full"):
            Stage(runs, "one")
    Stage(runs, "one").release(remove=True)


def test_folders_of_runs_are_those_done_and_those_begun(folder: Path) -> None:
    runs = folder.parent
    stage = Stage(runs, "begun-1")
    (runs / "empty-2").mkdir()
    (runs / "file").touch()
    assert [f.name for f in run_folders(runs)] == ["begun-1", folder.name, "empty-2"]
    stage.release(remove=True)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        list(run_folders(runs / "nowhere"))


def test_nothing_left_is_nothing_to_settle(folder: Path) -> None:
    before = contents(folder.parent)
    settle(folder.parent, folder.name)
    assert contents(folder.parent) == before


# --- atomic writing and progress


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for content in (b"first, and longer", b"second"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def half(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content[: len(content) // 2])
    raise OSError("disk full")


def no(*args: object) -> None:
    raise OSError("disk full")


@pytest.mark.parametrize(
    "broken",
    [(os, "replace", no), (Path, "write_bytes", half)],
    ids=["replacing", "writing"],
)
@pytest.mark.parametrize("old", [b"old", None])
def test_a_file_keeps_its_content_when_writing_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken: tuple[object, str, object],
    old: bytes | None,
) -> None:
    file = tmp_path / "file"
    if old is not None:
        file.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(*broken)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(file, b"new content")
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept == ({} if old is None else {"file": old})


def test_progress_is_one_json_object_a_line_in_order(runs: Path) -> None:
    stage = Stage(runs, "one")
    stage.progress(stage="training", epoch=1, loss=0.5)
    stage.progress(stage="two\nlines", done=["clean"])
    stage.release()
    text = (stage.folder / "progress.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    times = [pd.Timestamp(line.pop("time")) for line in lines]
    expected = [{"stage": "training", "epoch": 1, "loss": 0.5}]
    assert lines == [*expected, {"stage": "two\nlines", "done": ["clean"]}]
    assert times[0].utcoffset().total_seconds() == 0 and times[0] <= times[1]


# --- weights


def test_weights_of_a_run_make_another_network_the_same(folder: Path) -> None:
    x, other = torch.rand(5, 1, 2, 2), network(seed=1)
    assert not torch.equal(other(x), network()(x))
    load_weights(other, folder)
    assert torch.equal(other(x), network()(x))


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    for model in (network(hidden=5), nn.Linear(4, 2)):
        with pytest.raises(InputError, match="init_from") as error:
            load_weights(model, folder)
        assert str(folder) in one_line(error)


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"\xff" * 100], ids=["no file", "empty", "garbage", "bytes"]
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="init_from") as error:
        load_weights(network(), tmp_path)
    assert str(tmp_path / "model.safetensors") in one_line(error)


def test_truncated_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="init_from") as error:
        load_weights(network(), folder)
    one_line(error)


def test_weights_are_read_by_name(folder: Path) -> None:
    weights = read_weights(folder)
    assert set(weights) == set(network().state_dict())
    assert weights["body.1.weight"].shape == (3, 4)
