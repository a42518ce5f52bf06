"""Runs read back in frames: every row, what differs, and thousands of them quickly."""

import json
import os
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from making import (
    HISTORY,
    PROVENANCE,
    QUICK,
    SCORES,
    identity,
    network,
    stripes,
    write_run,
)

from csnb import Experiment, InputError, read_run, read_runs, run
from csnb.losses import fuzziness
from csnb.runs import Stage, read_histories, read_hits, read_scores, read_weights
from csnb.runs.folder import FILES, write_result

KNOWN = {"run", "dataset", "model", "method", "protected_class", "seed", "seconds"}


def first(frame: pd.DataFrame, column: str) -> dict[str, object]:
    """A column's value of each run."""
    return frame.groupby("run", observed=True)[column].first().to_dict()


def test_the_frame_has_every_row_of_every_run_with_what_differs(tmp_path: Path) -> None:
    for name, parameters in {
        "a": {"method": "CSA"},
        "b": {"method": "CSE", "seed": 3},
        "c": {"method": "CSE", "eps": 1.0},
    }.items():
        write_run(tmp_path, identity(**parameters), name=name)
    frame = read_runs(tmp_path)
    names = {run.partition("-")[0]: run for run in frame["run"].unique()}
    assert list(names) == ["a", "b", "c"] and len(frame) == 3 * len(SCORES)
    assert set(frame.columns) - set(SCORES.columns) == {*KNOWN, "eps"}
    for run_id in names.values():
        part = frame[frame["run"] == run_id].reset_index(drop=True)
        for column in SCORES.columns:
            expected, found = (
                [-1 if pd.isna(x) else x for x in rows[column]] for rows in (SCORES, part)
            )
            number = column in ("value", "low", "high")
            assert found == (pytest.approx(expected, rel=1e-9) if number else expected)
    assert list(first(frame, "seed").values()) == [0, 3, 0]
    assert list(first(frame, "eps").values()) == [0.3, 0.3, 1.0]
    assert frame["seconds"].unique() == pytest.approx([3.235])
    shared = frame.attrs["parameters"]
    assert shared["bounded"] is False and shared["dataset"] == "digits"
    assert not {"runs", "device", "run", "eps", "seed"} & set(shared)


def test_a_result_that_was_edited_or_is_garbled_is_left_out_with_a_warning(tmp_path: Path) -> None:
    a, b, c = (write_run(tmp_path, identity(seed=seed)) for seed in range(3))
    file = b / "result.json"
    file.write_text(file.read_text().replace('"total": ', '"total": 1', 1))
    (c / "result.json").write_text("{")
    (tmp_path / "unfinished").mkdir()
    with pytest.warns(UserWarning, match=f"2 of 3 results left out: {b.name} .broken: ") as caught:
        frame = read_runs(tmp_path)
    assert len(caught) == 1 and frame["run"].unique().tolist() == [a.name]


def test_what_is_under_way_or_failed_is_left_out_in_silence(tmp_path: Path) -> None:
    a = write_run(tmp_path)
    (tmp_path / ".other-1.new").mkdir()
    (tmp_path / "failed-2").mkdir()
    (tmp_path / "failed-2" / "failed.json").write_text("{}")
    assert read_runs(tmp_path)["run"].unique().tolist() == [a.name]


def test_hits_by_hand(tmp_path: Path) -> None:
    """Labels 0 1 1 0, of which 1 and 2 are attacked: under PGD, 0 is not right, 1 is."""
    made = write_run(tmp_path)
    clean, row = read_hits([made]).to_dict("records")
    assert (clean["attack"], clean["p"], len(clean["hits"])) == ("clean", 1, 2)
    known = {"run": made.name, "dataset": "digits", "method": "CSA", "protected_class": 1}
    assert {name: row[name] for name in known} == known and row["seed"] == 0
    assert (row["attack"], row["p"]) == ("PGD", 1)
    assert row["hits"].dtype == bool and row["hits"].tolist() == [False, True]


def test_hits_of_each_attack_and_class_stand_in_the_order_of_the_images(tmp_path: Path) -> None:
    labels, attacked = np.array([2, 0, 1, 0, 2, 1]), np.array([0, 1, 3, 4, 5])
    predictions = {
        "labels": labels,
        "attacked": attacked,
        "clean": np.array([2, 1, 1, 0, 0, 1]),  # of all
        "PGD": np.array([2, 0, 1, 0, 1]),  # of the images 0 1 3 4 5, labels 2 0 0 2 1
        "CW": np.array([0, 1, 0, 2, 0]),
    }
    wanted = {
        ("clean", 0): [False, True],
        ("clean", 1): [True],
        ("clean", 2): [True, False],
        ("PGD", 0): [True, False],
        ("PGD", 1): [True],
        ("PGD", 2): [True, False],
        ("CW", 0): [False, True],
        ("CW", 1): [False],
        ("CW", 2): [False, True],
    }
    made = [identity(seed=seed) for seed in (0, 1)]
    for run_identity in made:
        stage = Stage(tmp_path, run_identity.run_id)
        rows = json.loads(SCORES.to_json(orient="records"))
        result = {"scores": rows, "seconds": {}, "provenance": PROVENANCE}
        parts = {"model": network(), "history": HISTORY, "predictions": predictions}
        stage.write(run_identity, **parts, result=result)
        stage.publish()
    ids = [run_identity.run_id for run_identity in reversed(made)]
    frame = read_hits(tmp_path / run for run in ids)
    assert list(frame["run"].unique()) == ids  # in the order asked for
    for _, rows in frame.groupby("run"):
        found = {(row.attack, row.p): row.hits.tolist() for row in rows.itertuples()}
        assert found == wanted


def test_hits_agree_with_the_scores_of_a_run(trained: list[Path]) -> None:
    """Shares of a class, which evaluation counted another way."""
    hits = read_hits(trained)
    scores = read_scores(trained).query("measure == 'accuracy'")
    counted = [(r.run, r.attack, r.p, r.hits.sum(), len(r.hits)) for r in hits.itertuples()]
    index = read_run(trained[0])["classes"].index
    rows = scores[["run", "attack", "class", "correct", "total"]].values.tolist()
    expected = [(run, attack, index(name), *counts) for run, attack, name, *counts in rows]
    assert sorted(counted) == sorted(expected) and len(counted) == 2 * 3 * 3


def test_hits_of_no_run_are_an_empty_frame_and_of_a_broken_one_refused(tmp_path: Path) -> None:
    assert len(read_hits([])) == 0 and "hits" in read_hits([])
    made = write_run(tmp_path)
    (made / "predictions.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"predictions\.npz has changed"):
        read_hits([made])


def test_classes_by_index_and_by_name_stand_together_as_indices(tmp_path: Path) -> None:
    write_run(tmp_path, identity(protected_class=1), name="a")
    write_run(tmp_path, identity(protected_class="dog", seed=1), name="b")
    frame = read_runs(tmp_path)
    assert list(first(frame, "protected_class").values()) == [1, 1]
    assert pd.api.types.is_integer_dtype(frame["protected_class"])


def test_a_parameter_that_older_runs_lack_is_empty_there(tmp_path: Path) -> None:
    write_run(tmp_path, identity(seed=0), name="a")
    write_run(tmp_path, identity(seed=1, brightness=0.5), name="b")
    brightness = read_runs(tmp_path).drop_duplicates("run")["brightness"]
    assert brightness.isna().tolist() == [True, False]
    assert brightness.iloc[1] == 0.5 and pd.api.types.is_float_dtype(brightness)


def test_only_the_runs_that_are_named_are_read(tmp_path: Path) -> None:
    named = write_run(tmp_path, identity(method="CSE"))
    write_run(tmp_path, identity(method="CSA"))
    assert set(read_runs(tmp_path)["method"]) == {"CSE", "CSA"}
    assert set(read_runs(tmp_path, [named.name])["method"]) == {"CSE"}
    assert len(read_runs(tmp_path, [])) == 0


def test_no_runs_are_an_empty_frame_and_no_folder_is_refused(tmp_path: Path) -> None:
    frame = read_runs(tmp_path)
    assert len(frame) == 0 and {"run", "method", "attack", "value"} <= set(frame.columns)
    with pytest.raises(InputError, match="nowhere is not a folder"):
        read_runs(tmp_path / "nowhere")


MANY = 600


def test_thousands_of_runs_are_read_within_seconds_in_little_memory(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one")
    result = read_run(one)
    result["scores"] *= 4  # as many rows as six attacks on one class of MNIST give
    for number in range(MANY):
        made = identity(method=("CSA", "CSE")[number % 2], seed=number)
        folder = tmp_path / "runs" / made.run_id
        folder.mkdir(parents=True)
        for name in FILES:
            os.link(one / name, folder / name)
        write_result(folder, result | made.to_json())
    start = time.process_time()  # whoever else is at work on this machine
    frame = read_runs(tmp_path / "runs")
    assert time.process_time() - start < 15 * MANY / 10_000 + 3
    assert isinstance(frame, pd.DataFrame) and len(frame) == MANY * len(result["scores"])
    size = frame.memory_usage(deep=True).sum()
    del frame
    some = [f.name for f in sorted((tmp_path / "runs").iterdir())[: MANY // 5]]
    tracemalloc.start()  # slows reading several times, so on a fifth of the runs
    read_runs(tmp_path / "runs", some)
    assert tracemalloc.get_traced_memory()[1] < size / 5 * 8  # a few times the frame itself
    tracemalloc.stop()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two short runs."""
    folder = tmp_path_factory.mktemp("trained")
    data = stripes(folder / "stripes.npz")
    common = QUICK | {"epochs": 2, "dataset": data, "runs": str(folder / "runs")}
    return [run(Experiment(method=method, **common)).folder for method in ("CSE", "STD")]


def test_histories_stand_together_with_what_made_them(trained: list[Path], tmp_path: Path) -> None:
    frame = read_histories(trained)
    for folder in trained:
        rows = frame[frame["run"] == folder.name].reset_index(drop=True)
        result, history = read_run(folder), pd.read_csv(folder / "history.csv")
        pd.testing.assert_frame_equal(rows[history.columns], history)
        assert rows["epoch"].tolist() == [1, 2] and rows["epochs"].tolist() == [2, 2]
        assert set(rows["method"]) == {result["parameters"]["method"]}
        assert set(rows["machine"]) == {result["provenance"]["machine"]}
        assert set(rows["commit"]) == {result["provenance"]["commit"]}
        assert set(rows["dataset"]) == {"stripes"} and set(rows["protected_class"]) == {0}
        weights = read_weights(folder).items()
        convs = [torch.from_numpy(w) for n, w in weights if n.startswith("body") and w.ndim == 4]
        expected = pytest.approx(float(fuzziness(convs)), rel=1e-6)
        assert rows["fuzziness"].iloc[-1] == expected
    with pytest.raises(InputError, match="todo"):
        read_histories([tmp_path])
    with pytest.raises(InputError, match=r"runs: none; allowed: folders of finished runs"):
        read_histories([])


def test_scores_of_chosen_runs_are_those_of_all_runs(trained: list[Path]) -> None:
    pd.testing.assert_frame_equal(read_scores(trained), read_runs(trained[0].parent))
    assert "runs" not in read_scores(trained).attrs["parameters"]
    assert list(read_scores(trained[1:])["run"].unique()) == [trained[1].name]
