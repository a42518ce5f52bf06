"""A file outside csnb brings an attack, a method, a model and a data set, each one function."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import csnb
from csnb.paths import NOTEBOOKS

OWN = '''
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

import csnb
from csnb.methods import Method


@csnb.dataset
def halves(root, *, count: int = 120):
    """Bright above or below."""
    random, y = np.random.default_rng(0), np.arange(2 * count) % 2
    x = random.uniform(0, 0.5, (2 * count, 12, 12)).astype("float32")
    x[y == 0, :6] += 0.5
    x[y == 1, 6:] += 0.5
    splits = {"train": slice(None, count), "test": slice(count, None)}
    arrays = {f"{k}_{s}": v[at] for s, at in splits.items() for k, v in {"x": x, "y": y}.items()}
    return csnb.Dataset.from_arrays("halves", arrays, ("above", "below"))


@csnb.model
def Tiny(image_shape, classes, *, width: int = 4):
    """One hidden layer."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    hidden, last = nn.Linear(pixels, width), nn.Linear(width, classes)
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), last)


@csnb.method("MYTRADES", source="Zhang et al. 2019")
def trades(task, *, beta: float = 6.0):
    """cross-entropy of clean images + beta KL(adversarial, clean)"""
    def divergence(logits, clean):
        return kl_div(logits.log_softmax(1), clean, reduction="sum")

    def maximise(batch):
        with torch.no_grad():
            clean = batch.model(batch.x).softmax(1)
        return lambda logits, labels: divergence(logits, clean)

    def loss(batch):
        logits = batch.model(batch.x)
        total = cross_entropy(logits, batch.y)
        if batch.adversarial is not None:
            near = divergence(batch.model(batch.adversarial), logits.softmax(1))
            total = total + beta * near / len(batch.y)
        return total, logits

    return Method(loss, ("cross-entropy", "KL"), adversarial=True, maximise=maximise)


@csnb.attack
def Darken(target, x, y, *, steps: int = 1):
    """A step of eps down for every pixel, in so many parts."""
    for _ in range(steps):
        x = x - target.eps / steps
    return x
'''
SHORT = {"epochs": 2, "adversary": "PGD(steps=2)", "space": "pixel", "eps": 0.1, "threads": 1}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(OWN, encoding="utf-8")
    return file


def parameters(own: Path, runs: Path) -> dict[str, object]:
    return SHORT | {
        "dataset": f"{own}:halves(count=60)",
        "model": f"{own}:Tiny(width=3)",
        "method": f"{own}:MYTRADES(beta=2)",
        "attacks": f"FGSM, {own}:Darken(steps=2)",
        "protected_class": "below",
        "runs": str(runs),
    }


def check(result: dict[str, object], scores: pd.DataFrame) -> None:
    """That a run used all four."""
    assert result["parameters"]["dataset"] == "mine.py:halves(count=60)"
    assert result["parameters"]["model"] == "mine.py:Tiny(width=3)"
    assert result["parameters"]["method"] == "mine.py:MYTRADES(beta=2)"
    assert result["classes"] == ["above", "below"]
    assert result["protected"] == [1]
    assert result["digests"]["mine.py"]
    attacks = list(dict.fromkeys(scores["attack"].astype(str)))
    assert attacks == ["clean", "FGSM", "Darken(steps=2)"]
    moved = scores[(scores["attack"] == "Darken(steps=2)") & (scores["measure"] == "linf")]
    assert moved["value"].to_list() == pytest.approx([0.1], abs=1e-6)
    clean = scores[(scores["attack"] == "clean") & (scores["measure"] == "average")]
    assert clean["value"].item() > 0.9, "it learned"


def test_through_python(own: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    experiment = csnb.Experiment(**parameters(own, runs))
    done = csnb.run(experiment)
    check(csnb.read_run(done.folder), done.scores)
    assert csnb.find_or_run(experiment) == done.folder
    again = csnb.load_model(done.folder)
    x = done.data.x_test[:4]
    assert torch.equal(again(x), done.model.cpu()(x))


def test_an_edited_file_is_another_content(own: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = csnb.run(csnb.Experiment(**parameters(own, runs))).folder
    own.write_text(OWN.replace("x - target.eps / steps", "x + target.eps / steps"))
    assert csnb.runs.inspect(first).reason == "mine.py has changed"
    wanted = csnb.Experiment(**parameters(own, runs)).identity()
    found = csnb.runs.inspect(runs / wanted.run_id, wanted)
    assert (found.state, found.reason) == ("stale", "mine.py has changed")


def test_a_method_owns_what_its_attack_maximises(own: Path) -> None:
    """With MYTRADES the attack climbs the divergence from the clean answers, not cross-entropy."""
    data = csnb.load_dataset(f"{own}:halves")
    model = csnb.build_model(f"{own}:Tiny", data)
    method = csnb.METHODS.parse(f"{own}:MYTRADES")(csnb.methods.Task(model, torch.zeros(2, 2)))
    x, y = data.x_train[:8], data.y_train[:8]
    climbed = method.maximise(csnb.methods.Batch(model, x, y))(model(x + 0.05), y)
    p, q = model(x).softmax(1).detach().numpy(), model(x + 0.05).softmax(1).detach().numpy()
    assert climbed.item() == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-4, abs=1e-6)


@pytest.mark.slow  # a sweep's child goes the same way
def test_through_papermill(own: Path, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out.ipynb"
    given = [part for k, v in parameters(own, runs).items() for part in ("-p", k, str(v))]
    notebook = str(NOTEBOOKS / "protect.ipynb")
    command = [sys.executable, "-m", "papermill", notebook, str(out), *given]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder,) = runs.glob("*-p1-*")  # the run compared with protects class 0
    check(csnb.read_run(folder), csnb.read_runs(runs, [folder.name]))


def test_through_a_sweep(own: Path, tmp_path: Path) -> None:
    runs, sweep = tmp_path / "runs", tmp_path / "own.yaml"
    grid = {k: v for k, v in parameters(own, runs).items() if k != "runs"}
    grid["attacks"] = [grid["attacks"]]
    sweep.write_text(yaml.safe_dump({"notebook": str(NOTEBOOKS / "protect.ipynb"), "grid": grid}))
    only = {"method": f"{own}:MYTRADES(beta=2.0)"}
    done = csnb.sweep(sweep, runs=runs, jobs=1, only=only)
    assert done["state"].to_list() == ["done"], done["reason"].to_list()
    check(csnb.read_run(runs / done["run"].item()), csnb.read_runs(runs, [done["run"].item()]))


def test_own_files_of_committed_runs_are_found_wherever_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [(place, csnb.read_run(place)) for place in csnb.runs.run_folders(csnb.runs.RESULTS)]
    assert not any(Path(f).is_absolute() for _, run in runs for f in run["files"].values())
    own = [(place, run["files"]) for place, run in runs if "textile.py" in run["files"]]
    assert own
    place, files = own[0]
    assert files == {"textile.py": "params/textile.py"}
    assert csnb.load_model(place)(torch.rand(1, 3, 250, 250)).shape == (1, 3)
