"""How far a run is: each state with its reason, and nothing that lies in a folder stops it."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from making import contents, identity, write_run

from csnb import InputError, read_run, read_runs
from csnb.runs import Stage, inspect, progress, status
from csnb.runs.folder import FILES, write_result
from csnb.runs.identity import NUMERICS

ALL = (*FILES, "result.json")


# --- the states


def test_a_done_run_says_its_main_numbers(folder: Path) -> None:
    found = inspect(folder)
    assert (found.state, found.reason, found.folder) == ("done", "", folder)
    assert found.seconds == pytest.approx(3.235)
    # dog is protected: of two, one right when clean and one under PGD
    assert found.summary == "clean 0.5000 [0.0945, 0.9055], PGD 0.5000 [0.0945, 0.9055]"
    assert found.result == read_run(folder)


def test_nothing_there_is_to_do(runs: Path) -> None:
    assert inspect(runs / "nothing-here").state == "todo"
    runs.mkdir()
    assert inspect(runs / "nothing-here").state == "todo"
    (runs / "nothing-here").mkdir()
    assert inspect(runs / "nothing-here").state == "todo"


LIVE = """
import sys, time
from pathlib import Path
from csnb.runs import Stage
stages = [Stage(Path(sys.argv[1]), run_id) for run_id in sys.argv[2:]]
for stage in stages:
    stage.progress(stage="train", epoch=3, epochs=20, loss=0.12345)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_live_run_is_running_and_a_killed_one_interrupted(runs: Path) -> None:
    again, first = write_run(runs).name, "run-0123456789"
    command = [sys.executable, "-c", LIVE, str(runs), again, first]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            assert inspect(runs / again).state == "done"  # until another takes its place
            found = inspect(runs / first)
            assert (found.state, found.reason) == ("running", "epoch 3 of 20, loss 0.1235")
            rows = status(runs).values.tolist()
            assert rows == [[again, "done", ""], [first, "running", found.reason]]
            for run_id in (again, first):
                with pytest.raises(InputError, match="it is under way"):
                    Stage(runs, run_id)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert inspect(runs / again).state == "done"
    found = inspect(runs / first)
    assert (found.state, found.reason) == ("interrupted", "epoch 3 of 20, loss 0.1235")
    for run_id in (again, first):
        Stage(runs, run_id).release(remove=True)


def test_progress_says_what_was_evaluated_last(runs: Path) -> None:
    stage = Stage(runs, "a-1")
    assert progress(runs / "a-1") == "" and inspect(runs / "a-1").state == "running"
    stage.progress(stage="evaluate", attack="PGD(steps=100)")
    assert progress(runs / "a-1") == "evaluated: PGD(steps=100)"
    for nonsense in ("", "{", "null", '{"stage": "train"}', "[]", "\xff"):
        (stage.folder / "progress.jsonl").write_text(nonsense, encoding="latin-1")
        assert progress(runs / "a-1") == "" and inspect(runs / "a-1").state == "running"
    stage.release()
    assert inspect(runs / "a-1").state == "interrupted"


def test_a_failure_says_why_and_costs_no_finished_run(folder: Path, runs: Path) -> None:
    failure = {"reason": "timed out", "message": "after 3 s", "seconds": 3.5}
    for place in (folder, runs / "other-1"):
        place.mkdir(exist_ok=True)
        (place / "failed.json").write_text(json.dumps(failure))
    assert inspect(folder).state == "done"
    found = inspect(runs / "other-1")
    assert (found.state, found.reason, found.seconds) == ("failed", "timed out: after 3 s", 3.5)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"reason": "x"}', "\xff", "[" * 9999])
def test_a_garbled_failure_is_a_failure_or_broken(content: str, runs: Path) -> None:
    (runs / "a-1").mkdir(parents=True)
    (runs / "a-1" / "failed.json").write_text(content, encoding="latin-1")
    found = inspect(runs / "a-1")
    assert found.state in ("failed", "broken") and found.reason


def test_a_failures_escape_sequences_do_not_reach_the_terminal(runs: Path) -> None:
    (runs / "a-1").mkdir(parents=True)
    failure = {"reason": "\x1b[31mred", "message": "a\nb", "seconds": 1}
    (runs / "a-1" / "failed.json").write_text(json.dumps(failure))
    assert inspect(runs / "a-1").reason.isprintable()


def test_raised_numbers_make_a_run_stale_with_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csnb.runs.state.NUMERICS", NUMERICS + 1)
    found = inspect(folder)
    words = f"csnb's numbers have changed (NUMERICS {NUMERICS}, now {NUMERICS + 1})"
    assert (found.state, found.reason) == ("stale", words)
    with pytest.raises(InputError, match="stale: csnb's numbers have changed"):
        read_run(folder)


# --- what is wanted


def test_the_wanted_run_is_found_under_another_readable_name(runs: Path) -> None:
    made = identity()
    folder = write_run(runs, made, name="my-own-name")
    found = inspect(runs / made.run_id, made)
    assert (found.state, found.folder) == ("done", folder)
    assert inspect(runs / made.run_id).state == "todo"  # unless it is not known what to look for


def test_another_run_is_not_the_wanted_one(folder: Path) -> None:
    other = identity(eps=0.5)
    found = inspect(folder, other)
    assert found.state == "broken" and identity().run_id in found.reason


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("train", "digits"),
        ("test", "digits"),
        ("costs", "cost_matrix"),
        ("init_from", "init_from"),
        ("mine.py", "mine.py"),
    ],
)
def test_a_run_beside_whose_input_was_another_is_named(kind: str, name: str, runs: Path) -> None:
    before = identity()
    write_run(runs, before)
    wanted = replace(before, digests=before.digests | {kind: "f" * 16})
    found = inspect(runs / wanted.run_id, wanted)
    assert (found.state, found.reason) == ("stale", f"{name} has changed")
    assert found.folder == runs / wanted.run_id


def test_renamed_classes_are_a_change_of_the_data(folder: Path) -> None:
    wanted = replace(identity(), classes=("cat", "hound"))
    assert wanted.run_id == folder.name  # the same training, other names in the scores
    found = inspect(folder, wanted)
    assert (found.state, found.reason) == ("stale", "digits has changed")


@pytest.mark.parametrize("change", [{"eps": 0.5}, {"seed": 1}, {"method": "CSE"}])
def test_a_run_of_other_parameters_is_no_older_version(change: dict, runs: Path) -> None:
    write_run(runs, identity(**change))
    wanted = identity()
    for digests in (wanted.digests, wanted.digests | {"train": "f" * 16}):
        wanted = replace(wanted, digests=digests)
        assert inspect(runs / wanted.run_id, wanted).state == "todo"


def test_a_broken_run_beside_is_no_reason(runs: Path) -> None:
    before = identity()
    folder = write_run(runs, before)
    (folder / "result.json").write_text("{")
    wanted = replace(before, digests=before.digests | {"train": "f" * 16})
    assert inspect(runs / wanted.run_id, wanted).state == "todo"


# --- corruption: every file of a run, every kind


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def delete(file: Path) -> None:
    file.unlink()


def exchange(file: Path) -> None:
    """With the same file of another run of the same parameters."""
    other = write_run(file.parents[1] / "elsewhere", seed=7)
    file.write_bytes((other / file.name).read_bytes())


def folder_in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


DAMAGES = [truncate, empty, flip, append, delete, exchange, folder_in_its_place, dangling]


def broken(folder: Path) -> str:
    """The one reason that everything gives which reads a run."""
    found = inspect(folder)
    assert found.state == "broken" and found.reason and found.result is None
    assert "\n" not in found.reason and len(found.reason) < 400
    with pytest.raises(InputError) as error:
        read_run(folder)
    assert "broken: " in str(error.value) and "\n" not in str(error.value)
    (row,) = status(folder.parent).query("run == @folder.name").to_dict("records")
    assert (row["state"], row["now"]) == ("broken", found.reason)
    return found.reason


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*ALL, "notebook.ipynb"])
def test_damage_to_any_file_is_noticed_and_the_others_are_read(
    name: str, damage: Callable[[Path], None], runs: Path
) -> None:
    folder = write_run(runs)
    if name == "notebook.ipynb":
        with_notebook(folder)
    whole = write_run(runs, identity(seed=1))
    assert inspect(folder).state == inspect(whole).state == "done"
    if name == "notebook.ipynb" and damage is exchange:
        (folder / name).write_text('{"another": 1}')
    else:
        damage(folder / name)
    reason = broken(folder)
    assert name in reason or name == "result.json" or damage is exchange
    with pytest.warns(UserWarning, match="1 of 2 results left out: .*broken"):
        frame = read_runs(runs)
    assert frame["run"].unique().tolist() == [whole.name]


def with_notebook(folder: Path) -> None:
    """As a sweep leaves it."""
    import hashlib

    result = read_run(folder)
    (folder / "notebook.ipynb").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    write_result(folder, result | {"sha256": result["sha256"] | {"notebook.ipynb": digest}})


def test_a_flipped_bit_anywhere_in_the_result_is_noticed(folder: Path) -> None:
    file = folder / "result.json"
    content = file.read_bytes()
    for position in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 7)
        file.write_bytes(damaged)
        found = inspect(folder)
        same = _same_json(content, bytes(damaged))
        assert found.state == ("done" if same else "broken"), (position, damaged[position])


def _same_json(a: bytes, b: bytes) -> bool:
    """A blank for a line end says the same."""
    try:
        return json.dumps(json.loads(a)) == json.dumps(json.loads(b))
    except ValueError:
        return False


def test_exchanged_folders_are_noticed(runs: Path) -> None:
    a, b = write_run(runs), write_run(runs, identity(seed=1))
    aside = runs / "aside"
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    assert "holds the run" in broken(a) and "holds the run" in broken(b)


def test_a_foreign_notebook_is_noticed(folder: Path) -> None:
    (folder / "notebook.ipynb").write_text("{}")
    assert broken(folder) == "notebook.ipynb is not the run's"


def test_a_file_in_a_runs_place_is_noticed(runs: Path) -> None:
    runs.mkdir()
    (runs / "a-0123456789").write_text("no folder")
    assert inspect(runs / "a-0123456789").state == "broken"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"\xff\xfe", b"{}", b"[]", b"null", b"3", b'"text"', b"NaN"),
        *(b'{"sha256": null}', b'{"sha256": []}', b'{"sha256": {}}', b"[" * 100_000),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_garbled_result_is_noticed(folder: Path, content: bytes) -> None:
    (folder / "result.json").write_bytes(content)
    broken(folder)


REMOVED = ["parameters", "given", "classes", "protected", "costs", "digests", "files", "numerics"]
REMOVED += ["scores", "seconds", "provenance", "sha256"]


@pytest.mark.parametrize("value", [None, [], {}, 3, "text", [None], [[1]], {"a": None}], ids=repr)
@pytest.mark.parametrize("part", REMOVED)
def test_a_well_signed_result_with_a_part_of_another_kind_raises_nothing(
    folder: Path, part: str, value: object
) -> None:
    write_result(folder, {**read_run(folder), part: value})
    found = inspect(folder)
    assert found.state in ("broken", "stale", "done") and (found.reason or found.state == "done")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (len(read_runs(folder.parent)) > 0) == (found.state == "done" and part != "scores")
    if found.state == "done":
        read_run(folder)
    else:
        with pytest.raises(InputError, match=found.state):
            read_run(folder)


@pytest.mark.parametrize("part", REMOVED)
def test_a_well_signed_result_without_a_part_is_broken(folder: Path, part: str) -> None:
    result = read_run(folder)
    del result[part]
    write_result(folder, result)
    broken(folder)


def test_a_lock_that_is_a_folder_stops_nothing(folder: Path) -> None:
    lock = folder.parent / ".locks" / folder.name
    lock.unlink(missing_ok=True)
    lock.mkdir(parents=True)
    assert inspect(folder).state == "done"
    assert status(folder.parent)["state"].tolist() == ["done"]


def test_no_locks_at_all_stop_no_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / ".locks" / folder.name).touch()

    def acquire(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("csnb.locks.fcntl", None)
    monkeypatch.setattr("csnb.locks.FileLock.acquire", acquire)
    assert inspect(folder).state == "done"


def test_looking_changes_nothing(runs: Path) -> None:
    write_run(runs)
    stage = Stage(runs, "a-1")
    stage.release()
    before = contents(runs)
    status(runs)
    with pytest.raises(InputError):
        read_run(runs / "a-1")
    read_runs(runs)
    assert contents(runs) == before


@pytest.mark.parametrize("name", ALL)
def test_what_may_not_be_read_is_broken(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in broken(folder)


def test_a_table_of_states_names_each_run_and_what_to_know(runs: Path) -> None:
    done = write_run(runs)
    (runs / "b-1").mkdir()
    stage = Stage(runs, "c-2")
    stage.release()
    frame = status(runs)
    assert list(frame.columns) == ["run", "state", "now"]
    assert dict(zip(frame["run"], frame["state"], strict=True)) == {
        done.name: "done", "b-1": "todo", "c-2": "interrupted",
    }  # fmt: skip
    with pytest.raises(InputError, match="is not a folder"):
        status(runs / "nowhere")


def test_no_code_is_run_by_looking_at_what_others_made(runs: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'EVIL')!r}, 'w')")
    made = identity(dataset="evil.py:data", attacks="evil.py:Attack")
    write_run(runs, replace(made, files={"evil.py": str(evil)}))
    status(runs)
    read_runs(runs)
    assert not (tmp_path / "EVIL").exists()
