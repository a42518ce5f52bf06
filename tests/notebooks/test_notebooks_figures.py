"""The notebooks of figures 2 to 6 and of the threat model on data that is quick to learn."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from in_kernels import NOTEBOOKS, cells, execute, parameters_cell, shown
from making import stripes
from papermill.exceptions import PapermillExecutionError

import csnb
from csnb.batch import make_plan, run_ids
from csnb.paths import PARAMS
from csnb.runs import run_folders

READERS = ("fig3_minmax_csa_adv", "fig4_minmax_l2", "fig5_training_trends", "threat_model")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("stripes", "bands"):
        data = stripes(folder / f"{name}.npz", train=len(name) * 15)
        parameters = {"dataset": data, "epochs": 2, "attacks": "FGSM, PGD(steps=2), LinfBIA"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(parameters))
    return str(folder / "stripes.yaml")


def made(name: str, folder: Path, **parameters: object) -> str:
    """What the notebook shows; its runs are in ``folder/runs``."""
    return execute(name, folder, runs=str(folder / "runs"), **parameters)


def test_fig2_on_any_data_set(recipe: str, tmp_path: Path) -> None:
    said = made("fig2_adversarial_examples", tmp_path, params=recipe, eps="8/255")
    assert "Dataset(stripes: 105 training and 30 test images of 1x12x12, 3 classes)" in said
    assert re.search(r"FGSM \d+ 30 0\.\d+", said) and "No reading" in said


def test_fig3_on_any_data_set(recipe: str, tmp_path: Path) -> None:
    said = made("fig3_minmax_csa_adv", tmp_path, params=recipe)
    assert "150 weights in the first convolution of each model" in said and "ADV < CSA" in said
    assert "No reading" in said


def test_fig4_on_any_data_set(recipe: str, tmp_path: Path) -> None:
    said = made("fig4_minmax_l2", tmp_path, params=recipe, protected_class=1)
    assert "class 'middle', 10 test images" in said and "ADV < CSA+L2 < CSA" in said
    assert re.search(r"\(c\) protection: as claimed (in \d of 6 comparisons)?", said)
    assert "No reading" in said


def test_fig5_on_any_data_sets(recipe: str, tmp_path: Path) -> None:
    both = f"{recipe}, {recipe.replace('stripes.yaml', 'bands.yaml')}"
    said = made("fig5_training_trends", tmp_path, params=both, monitor="FGSM")
    assert "stripes STD" in said and "bands STD" in said and "No reading" in said
    assert len(list(run_folders(tmp_path / "runs"))) == 4


def test_fig6_on_any_sweep(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = {"train": 32, "test": 12}
    images = {f"x_{split}": random.random((n, 32, 32, 3)) for split, n in sizes.items()}
    data = stripes(tmp_path / "tiny.npz", **sizes, **images)
    grid = {"dataset": str(data), "epochs": 1, "attacks": "", "model": "resnet18(width=2)"}
    grid |= {"protected_class": 1, "method": ["STD", "CSE"]}
    files = {"notebook": str(NOTEBOOKS / "protect.ipynb"), "params": str(PARAMS / "cifar100.yaml")}
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(files | {"grid": grid}))
    for job, _ in make_plan(sweep, tmp_path / "runs"):
        csnb.run(csnb.Experiment(**job.parameters))
    said = made("fig6_resnet_fuzziness", tmp_path, sweep=str(sweep), protected_class=1)
    assert "1 epochs of the paper's 180, 20 convolutions" in said and "No reading" in said
    assert "tiny" in said and "resnet18(width=2)" in said


def test_threat_model_without_a_published_row(recipe: str, tmp_path: Path) -> None:
    said = made("threat_model", tmp_path, params=recipe)
    assert "4 evaluations of 1 model(s)" in said and "no published row" in said


def test_unknown_parameter_is_refused_in_one_line(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError) as caught:
        made("fig3_minmax_csa_adv", tmp_path, params=recipe, protect_class=1)
    (said,) = caught.value.traceback
    assert said.startswith("InputError: protect_class: no such parameter (value 1); ")
    assert said.endswith("did you mean protected_class?")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", READERS)
def test_committed_notebooks_show_the_runs_of_the_sweeps(name: str) -> None:
    said = shown(cells(NOTEBOOKS / f"{name}.ipynb"))
    methods = "|".join(map(re.escape, csnb.METHODS))
    found = set(re.findall(rf"^(?:read|ran) (\S+-(?:{methods})-p\S+)", said, re.M))
    assert found and found <= {*run_ids("figures"), *run_ids("threat_model")}


def test_the_readings_of_figures_4_and_5_begin_with_the_finding() -> None:
    for name in ("fig4_minmax_l2", "fig5_training_trends"):
        *_, reading = [c for c in cells(NOTEBOOKS / f"{name}.ipynb") if "paper.reading" in c.source]
        assert shown([reading]).startswith("**")


@pytest.mark.parametrize(
    "file", sorted((PARAMS / "notebooks").glob("fig*.yaml")), ids=lambda path: path.stem
)
def test_params_files_of_notebooks_are_flat_and_hold_parameters_of_theirs(file: Path) -> None:
    (notebook,) = NOTEBOOKS.glob(f"{file.stem.split('_')[0]}_*.ipynb")
    known = re.findall(r"^(\w+):", parameters_cell(notebook), re.M)
    content = yaml.safe_load(file.read_text())
    assert file.read_text().startswith("# ") and set(content) <= set(known)
    assert all(not isinstance(value, dict | list) for value in content.values())
