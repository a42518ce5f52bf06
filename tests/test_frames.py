import json
import time
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_runs import SCORES, write

from csnb import Experiment, InputError, fuzziness, read_run, read_runs, run
from csnb.frames import read_histories, read_scores
from csnb.plan import run_ids
from csnb.runs import _digest, read_weights

BASE = {"dataset": "digits", "model": "lenet", "protected_class": 0, "seed": 0, "eps": 0.3, "bounded": False}


def put(folder: Path, result: dict, **parameters: object) -> None:
    """A run folder with the result of another run under other parameters."""
    content = {name: value for name, value in result.items() if name != "digest"} | {"parameters": BASE | parameters}
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content | {"digest": _digest(content)}, indent=1))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return read_run(write(tmp_path_factory.mktemp("one") / "run").parent)


def test_the_frame_has_every_row_of_every_run_with_what_differs(result: dict, tmp_path: Path) -> None:
    for name, parameters in {
        "a": {"method": "CSA"},
        "b": {"method": "CSE", "seed": 3},
        "c": {"method": "CSE", "eps": 1},
    }.items():
        put(tmp_path / name, result, **parameters)
    frame = read_runs(tmp_path)
    assert list(frame["run"].unique()) == ["a", "b", "c"] and len(frame) == 3 * len(SCORES)
    assert set(frame.columns) - set(SCORES.columns) == {
        *("run", "dataset", "model", "method", "protected_class", "seed", "seconds", "eps")
    }
    for name in ("a", "b", "c"):
        part = frame[frame["run"] == name].reset_index(drop=True)
        for column in SCORES.columns:
            expected, found = ([-1 if pd.isna(x) else x for x in rows[column]] for rows in (SCORES, part))
            assert found == (pytest.approx(expected, rel=1e-9) if column in ("value", "low", "high") else expected)
    assert frame.groupby("run", observed=True)["seed"].first().to_dict() == {"a": 0, "b": 3, "c": 0}
    assert frame.groupby("run", observed=True)["eps"].first().to_dict() == {"a": 0.3, "b": 0.3, "c": 1.0}
    assert frame["seconds"].unique() == pytest.approx([3.235])
    assert frame.attrs["parameters"]["bounded"] is False and "runs" not in frame.attrs["parameters"]


def test_a_result_that_was_edited_or_is_garbled_is_left_out_with_a_warning(result: dict, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / name, result, method="CSA")
    file = tmp_path / "b" / "result.json"
    file.write_text(file.read_text().replace('"total": ', '"total": 1', 1))
    (tmp_path / "c" / "result.json").write_text("{")
    (tmp_path / "unfinished").mkdir()
    with pytest.warns(UserWarning, match="2 of 3 results left out: b"):
        frame = read_runs(tmp_path)
    assert frame["run"].unique().tolist() == ["a"]


def test_classes_by_index_and_by_name_stand_together(result: dict, tmp_path: Path) -> None:
    put(tmp_path / "a", result, method="CSA", protected_class=1)
    put(tmp_path / "b", result, method="CSA", protected_class="cat")
    assert read_runs(tmp_path).groupby("run", observed=True)["protected_class"].first().to_dict() == {"a": "1", "b": "cat"}


def test_only_the_runs_of_a_sweep_are_read_where_one_is_named(result: dict, tmp_path: Path) -> None:
    put(tmp_path / run_ids("digits_table")[0], result, method="CSE")
    put(tmp_path / "another", result, method="CSA")
    assert set(read_runs(tmp_path)["method"]) == {"CSE", "CSA"}
    assert set(read_runs(tmp_path, "digits_table")["method"]) == {"CSE"}


def test_no_runs_are_an_empty_frame_and_no_folder_is_refused(tmp_path: Path) -> None:
    frame = read_runs(tmp_path)
    assert len(frame) == 0 and {"run", "method", "attack", "value"} <= set(frame.columns)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        read_runs(tmp_path / "nowhere")


def test_ten_thousand_folders_are_read_within_ten_seconds_in_little_memory(result: dict, tmp_path: Path) -> None:
    result = result | {"scores": result["scores"] * 4}  # as many rows as six attacks on one class of MNIST give
    for number in range(10_000):
        put(tmp_path / f"{number:05}", result, method=("CSA", "CSE")[number % 2], seed=number)
    start = time.perf_counter()
    frame = read_runs(tmp_path)
    assert time.perf_counter() - start < 10
    assert isinstance(frame, pd.DataFrame) and len(frame) == 10_000 * len(result["scores"])
    size = frame.memory_usage(deep=True).sum()
    for folder in sorted(tmp_path.iterdir())[2000:]:
        (folder / "result.json").unlink()
    del frame
    tracemalloc.start()  # slows reading several times, so on a fifth of the runs
    read_runs(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < size / 5 * 6  # a few times the frame itself
    tracemalloc.stop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short runs."""
    common = {"epochs": 2, "attacks": "FGSM", "runs": str(tmp_path_factory.mktemp("trained"))}
    return [run(Experiment(method=method, **common)).folder for method in ("CSE", "STD")]


def test_histories_stand_together_with_what_made_them(trained: list[Path], tmp_path: Path) -> None:
    frame = read_histories(trained)
    for folder in trained:
        rows, result = frame[frame["run"] == folder.name].reset_index(drop=True), read_run(folder)
        history = pd.read_csv(folder / "history.csv")
        pd.testing.assert_frame_equal(rows[history.columns], history)
        assert rows["epoch"].tolist() == [1, 2] and rows["epochs"].tolist() == [2, 2]
        assert set(rows["method"]) == {result["parameters"]["method"]}
        assert set(rows["machine"]) == {result["provenance"]["machine"]}
        convs = [torch.from_numpy(w) for name, w in read_weights(folder).items() if name.startswith("body") and w.ndim == 4]
        assert rows["fuzziness"].iloc[-1] == pytest.approx(float(fuzziness(convs)), rel=1e-6)
    with pytest.raises(InputError, match="not a complete run"):
        read_histories([tmp_path])


def test_scores_of_chosen_runs_are_those_of_all_runs(trained: list[Path]) -> None:
    pd.testing.assert_frame_equal(read_scores(trained), read_runs(trained[0].parent))
    assert "runs" not in read_scores(trained).attrs["parameters"]
    assert list(read_scores(trained[1:])["run"].unique()) == [trained[1].name]
