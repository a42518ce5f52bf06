"""The blocks of README about one's own images and one's own model work as they are printed."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import papermill
import pytest
from making import stripes
from pictures import CLASSES, photos

import csnb
from csnb.paths import CHECKOUT, NOTEBOOKS

TEXT = (CHECKOUT / "README.md").read_text(encoding="utf-8")
QUICK = {"epochs": 1, "adversary": "PGD(steps=2)", "attacks": "FGSM", "validation": 0.2}


def part(title: str) -> tuple[str, dict[str, str]]:
    """Of a part of README: its Python, and the parameters of its papermill line."""
    body = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    words = shlex.split(re.search(r"^    papermill (.+)$", body, re.M)[1])
    given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
    assert words[0] == "notebooks/own_images.ipynb"
    return re.search(r"```python\n(.+?)```", body, re.S)[1], given


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a folder of photos, one class of which are ships."""
    (tmp_path / "pyproject.toml").touch()
    (photos(tmp_path / "photos", 10) / CLASSES[0]).rename(tmp_path / "photos" / "ship")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_your_own_images(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, given = part("Your own images")
    shown = {"dataset": "photos", "image_size": "64", "protected_class": "ship", "eps": "2/255"}
    assert given == shown
    whole = csnb.run
    quick = lambda e: whole(csnb.Experiment(**e.model_dump() | QUICK))  # noqa: E731
    monkeypatch.setattr(csnb, "run", quick, raising=False)
    exec(code, {})
    assert (here / "ship_detector" / "model.onnx").is_file()


@pytest.mark.slow
def test_your_own_model_through_the_notebook(here: Path) -> None:
    code, given = part("Your own model")
    (here / "mine.py").write_text(code)
    assert given["model"] == "mine.py:Net(width=32)"
    asked: dict[str, Any] = given | {"image_size": 64, "epochs": 1, "out": "taken", "offset": ""}
    papermill.execute_notebook(
        NOTEBOOKS / "own_images.ipynb", here / "out.ipynb", asked, progress_bar=False
    )
    (folder,) = (here / "runs").glob("photos-ADV-*")
    assert csnb.load_model(folder).body.last.in_features == 1024
    assert (here / "taken" / "README.md").is_file()


def test_the_frame_of_batches_is_a_row_per_method_of_the_protected_class(here: Path) -> None:
    body = TEXT.split("\n## Batches\n")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.+?)```", body, re.S)[1].replace("digits", "stripes.npz")
    data = stripes(here / "stripes.npz", classes=("0", "1", "2"))
    for method, p in (("STD", 0), ("CSA", 2), ("CSE", 2)):
        given = {"method": method, "protected_class": p, "dataset": data, "runs": "runs"}
        csnb.run(csnb.Experiment(**given | QUICK))
    *lines, last = ast.parse(code).body
    known: dict[str, Any] = {"csnb": csnb}
    exec(compile(ast.Module(lines, []), "README", "exec"), known)
    wide = eval(compile(ast.Expression(last.value), "README", "eval"), known)
    cells = {}
    for folder in (here / "runs").iterdir():
        if (folder / "predictions.npz").exists():
            result = csnb.read_run(folder)
            (p,), method = result["protected"], result["parameters"]["method"]
            with np.load(folder / "predictions.npz") as arrays:
                mine = arrays["labels"] == p
                cells[method, p, "clean"] = (arrays["clean"] == p)[mine].mean()
                attacked = mine[arrays["attacked"]]
                cells[method, p, "FGSM"] = (arrays["FGSM"] == p)[attacked].mean()
    assert len(cells) == 6
    found = wide.stack([0, 1], future_stack=True).dropna()
    assert {(m, int(p), a): v for (m, p, a), v in found.items()} == pytest.approx(cells)
