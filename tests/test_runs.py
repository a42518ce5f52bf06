import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from csnb import runs
from csnb.errors import InputError
from csnb.evaluation import Outcome, score
from csnb.models import Normalized
from csnb.runs import append_progress, load_weights, prepare_folder, read_run, write_atomically, write_run

FILES = ("model.safetensors", "history.csv", "predictions.npz")
OUTCOME = Outcome(
    np.array([0, 1, 1, 0]),
    np.array([1, 2]),
    {"clean": np.array([0, 1, 0, 0], np.uint8), "PGD": np.array([0, 1], np.uint8)},
    {"PGD": (0.1, 0.3)},
)
SCORES = score(OUTCOME, classes=("cat", "dog"), protected=1, costs=np.array([[0, 10.0], [10, 0]]))
HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [0.75, 0.5]})


def network(seed: int = 0, hidden: int = 3) -> Normalized:
    torch.manual_seed(seed)
    return Normalized(nn.Sequential(nn.Flatten(), nn.Linear(4, hidden), nn.Linear(hidden, 2)), (0.5,), (0.25,))


def write(folder: Path, model: nn.Module | None = None) -> Path:
    return write_run(
        prepare_folder(folder),
        parameters={"epochs": 2, "dataset": "digits", "attacks": ["PGD"]},
        model=model or network(),
        history=HISTORY,
        outcome=OUTCOME,
        scores=SCORES,
        seconds={"train": 1.23456, "attack": 2},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete run's."""
    return write(tmp_path / "run").parent


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


# --- a run, written and read


def test_a_run_reads_back_as_written(folder: Path) -> None:
    result = read_run(folder)
    assert result["parameters"] == {"epochs": 2, "dataset": "digits", "attacks": ["PGD"]}
    assert result["seconds"] == {"train": 1.235, "attack": 2}
    assert result["sha256"] == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    assert read_run(str(folder)) == result


def test_scores_survive_the_file(folder: Path) -> None:
    frame = pd.DataFrame(read_run(folder)["scores"])
    assert list(frame.columns) == list(SCORES.columns)
    for column in ("attack", "measure", "class"):
        assert frame[column].tolist() == SCORES[column].tolist()
    for column in ("correct", "total", "value", "low", "high"):
        np.testing.assert_allclose(frame[column].astype(float), SCORES[column].astype(float), rtol=1e-9)


def test_weights_history_and_predictions_are_in_files_that_others_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    expected = network().state_dict()
    assert set(weights) == set(expected) and all(torch.equal(weights[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "history.csv"), HISTORY)
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"labels", "attacked", "clean", "PGD"}
        np.testing.assert_array_equal(arrays["labels"], OUTCOME.labels)
        np.testing.assert_array_equal(arrays["attacked"], OUTCOME.attacked)
        for name, predictions in OUTCOME.predictions.items():
            np.testing.assert_array_equal(arrays[name], predictions)
            assert arrays[name].dtype == np.uint8


def test_a_run_says_what_made_it(folder: Path) -> None:
    made = read_run(folder)["provenance"]
    assert made["versions"]["numpy"] == np.__version__
    assert made["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]  # "+cpu" is not always there
    assert made["device"] == "cpu" and made["threads"] == torch.get_num_threads()
    folder = Path(runs.__file__).parent
    sources = sorted([*folder.glob("*.py"), *folder.glob("*.cpp")])
    assert made["sources"] == hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]


@pytest.mark.parametrize(
    "broken", [(runs, "save_file"), (pd.DataFrame, "to_csv"), (np, "savez_compressed"), (runs, "write_atomically")]
)
def test_a_run_whose_writing_fails_has_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[object, str]
) -> None:
    write(tmp_path)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path)
    assert not (tmp_path / "result.json").exists()
    with pytest.raises(InputError):
        read_run(tmp_path)


# --- what is not a complete run


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="has changed") as error:
        read_run(folder)
    assert name in one_line(error)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match="not a complete run") as error:
        read_run(folder)
    assert name in one_line(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"{}", b"[]", b"null", b"3", b'{"sha256": null}', b'{"sha256": []}', b'{"sha256": {}}'],
)
def test_a_garbled_result_is_refused(folder: Path, content: bytes) -> None:
    (folder / "result.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_run(folder)
    assert str(folder) in one_line(error)


def test_a_folder_without_a_result_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no such folder"):
        with pytest.raises(InputError, match="not a complete run") as error:
            read_run(place)
        assert str(place) in one_line(error)


# --- the folder


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    assert prepare_folder(tmp_path / "runs" / "one") == tmp_path / "runs" / "one"
    assert (tmp_path / "runs" / "one").is_dir()


def test_a_rerun_takes_the_old_result_and_progress_away_and_nothing_else(folder: Path) -> None:
    append_progress(folder, stage="training")
    prepare_folder(folder)
    assert (folder / "progress.jsonl").read_text() == ""
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "progress.jsonl"])


@pytest.mark.parametrize("below", ["", "run", "runs/run"])
def test_a_place_that_cannot_be_written_in_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(InputError, match="cannot write") as error:
        prepare_folder(tmp_path / "file" / below)
    assert str(tmp_path / "file") in one_line(error)
    assert (tmp_path / "file").read_text() == "keep"


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


@pytest.mark.parametrize("broken", [(os, "replace", no), (Path, "write_bytes", half)], ids=["replacing", "writing"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_file_keeps_its_content_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: tuple[object, str, object], old: bytes | None
) -> None:
    file = tmp_path / "file"
    if old is not None:
        file.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(*broken)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(file, b"new content")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {"file": old})


def test_progress_is_one_json_object_a_line_in_order(tmp_path: Path) -> None:
    append_progress(tmp_path, stage="training", epoch=1, loss=0.5)
    append_progress(tmp_path, stage="two\nlines", done=["clean"])
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    times = [pd.Timestamp(line.pop("time")) for line in lines]
    assert lines == [{"stage": "training", "epoch": 1, "loss": 0.5}, {"stage": "two\nlines", "done": ["clean"]}]
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


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\xff" * 100], ids=["no file", "empty", "garbage", "bytes"])
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
