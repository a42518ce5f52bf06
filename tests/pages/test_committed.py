"""Runs that are taken over are whole, without what is left behind, and nothing is overwritten."""

import hashlib
import shutil
from pathlib import Path

import pytest
from making import QUICK, stripes

from csnb import Experiment, InputError, find_or_run, read_run
from csnb.pages.committed import take
from csnb.paths import PARAMS, RESULTS
from csnb.runs import inspect
from csnb.runs.folder import write_result


def test_a_finished_run_is_taken_over_once_with_what_is_kept_beside_it(tmp_path: Path) -> None:
    runs, target = tmp_path / "runs", tmp_path / "target"
    asked = QUICK | {"dataset": stripes(tmp_path / "stripes.npz"), "runs": str(runs)}
    folder = find_or_run(Experiment(**asked))
    (folder / "margins-p0-0123456789.npy").write_bytes(b"kept")
    result, digest = read_run(folder), "0" * 64
    (folder / "notebook.ipynb").write_bytes(b"pictures")  # as a sweep leaves it
    write_result(folder, {**result, "sha256": result["sha256"] | {"notebook.ipynb": digest}})
    assert inspect(folder).state == "broken" and take(runs, target) == []
    digest = hashlib.sha256(b"pictures").hexdigest()
    write_result(folder, {**result, "sha256": result["sha256"] | {"notebook.ipynb": digest}})
    (copy,) = take(runs, target)
    assert inspect(copy).state == "done" and read_run(copy)["scores"] == result["scores"]
    names = {file.name for file in copy.iterdir()}
    assert "margins-p0-0123456789.npy" in names
    assert not names & {"notebook.ipynb", "progress.jsonl"}
    (folder / "margins-p1-0123456789.npy").write_bytes(b"kept later")
    (copy / "margins-p0-0123456789.npy").write_bytes(b"its own")
    assert take(runs, target) == []
    assert (copy / "margins-p1-0123456789.npy").read_bytes() == b"kept later"
    assert (copy / "margins-p0-0123456789.npy").read_bytes() == b"its own"
    assert not (copy / "notebook.ipynb").exists() and inspect(copy).state == "done"
    (copy / "history.csv").write_text("edited")
    assert inspect(copy).state == "broken" and take(runs, target) == [copy]
    assert inspect(copy).state == "done" and take(runs, target) == []


def test_a_copy_that_does_not_verify_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, target = tmp_path / "runs", tmp_path / "target"
    asked = QUICK | {"dataset": stripes(tmp_path / "stripes.npz"), "runs": str(runs)}
    folder = find_or_run(Experiment(**asked))
    monkeypatch.setattr("csnb.pages.committed.write_result", spoil)
    with pytest.raises(InputError, match=f"^{folder.name}: its copy is broken, "):
        take(runs, target)
    assert not list(target.iterdir()) and inspect(folder).state == "done"


@pytest.mark.parametrize("more", ["", "OTHER = 1\n"])
def test_a_file_of_another_checkout_is_the_one_of_this(tmp_path: Path, more: str) -> None:
    file, target = tmp_path / "elsewhere" / "params" / "held_out.py", tmp_path / "target"
    file.parent.mkdir(parents=True)
    file.write_text((PARAMS / "held_out.py").read_text() + more)
    data = f"{file}:held_out(of={stripes(tmp_path / 'stripes.npz')!r})"
    folder = find_or_run(Experiment(**QUICK | {"dataset": data, "runs": str(tmp_path / "runs")}))
    assert read_run(folder)["files"] == {"held_out.py": str(file)}
    if more:
        with pytest.raises(InputError, match=r"its copy is stale, held_out\.py has changed"):
            take(tmp_path / "runs", target)
        return
    (copy,) = take(tmp_path / "runs", target)
    assert read_run(copy)["files"] == {"held_out.py": "params/held_out.py"}


def spoil(folder: Path, result: object) -> None:
    (folder / "result.json").write_text("{}")


def test_a_run_of_another_checkout_that_weights_are_from_is_the_one_of_this(tmp_path: Path) -> None:
    known = min(RESULTS.glob("digits-STD-p0-*"))
    there = tmp_path / "elsewhere" / "results" / "runs" / known.name
    shutil.copytree(known, there)
    asked = {"dataset": "digits", "epochs": 1, "attacks": "FGSM", "init_from": str(there)}
    find_or_run(Experiment(**asked, runs=str(tmp_path / "runs")))
    (copy,) = take(tmp_path / "runs", tmp_path / "target")
    assert read_run(copy)["files"] == {"init_from": f"results/runs/{known.name}"}
