"""The notebooks of figures 2 to 6 and of the threat model, executed by papermill on data sets that are quick to learn."""

import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from csnb import METHODS
from csnb.frames import read_histories
from csnb.plan import run_ids

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
READERS = ("fig3_minmax_csa_adv", "fig4_minmax_l2", "fig5_training_trends", "threat_model")


def save(file: Path, side: int, channels: int, count: int) -> str:
    """Two classes, bright above or below."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.uniform(0, 0.5, (count, side, side, channels)).astype(np.float32)
    x[y == 0, : side // 2] += 0.5
    x[y == 1, side // 2 :] += 0.5
    half = count // 2
    np.savez(file, x_train=x[:half], y_train=y[:half], x_test=x[half:], y_test=y[half:], classes=np.array(["above", "below"]))
    return str(file)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("stripes", "bands"):
        parameters = {"dataset": save(folder / f"{name}.npz", 12, 1, 200), "epochs": 2, "cw_steps": 2, "cw_searches": 1}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(parameters))
    return str(folder / "stripes.yaml")


def execute(name: str, folder: Path, **parameters: object) -> str:
    """Everything that the notebook printed."""
    notebook = papermill.execute_notebook(
        str(NOTEBOOKS / f"{name}.ipynb"),
        str(folder / "out.ipynb"),
        parameters | {"runs": str(folder / "runs")},
        progress_bar=False,
    )
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_fig2_on_any_data_set(recipe: str, tmp_path: Path) -> None:
    printed = execute("fig2_adversarial_examples", tmp_path, params=recipe, eps="8/255")
    assert "2 classes, 100 test images" in printed and "of 100 recognised" in printed


def test_fig3_on_any_data_set(recipe: str, tmp_path: Path) -> None:
    printed = execute("fig3_minmax_csa_adv", tmp_path, params=recipe)
    assert "150 weights in the first convolution of each model" in printed and "ADV < CSA" in printed


def test_fig4_on_any_data_set(recipe: str, tmp_path: Path) -> None:
    printed = execute("fig4_minmax_l2", tmp_path, params=recipe, protected_class=1)
    assert "class 'below', 50 test images" in printed and "ADV < CSA+L2 < CSA" in printed


def test_fig5_on_any_data_sets(recipe: str, tmp_path: Path) -> None:
    printed = execute("fig5_training_trends", tmp_path, params=f"{recipe}, {recipe.replace('stripes.yaml', 'bands.yaml')}")
    assert "stripes" in printed and "bands" in printed and len(list((tmp_path / "runs").iterdir())) == 4


def test_fig6_trains_on_a_data_set_that_is_given(tmp_path: Path) -> None:
    data = save(tmp_path / "tiny.npz", 32, 3, 32)
    printed = execute("fig6_resnet_fuzziness", tmp_path, dataset=data, epochs=1, protected_class=1)
    assert "1 epochs of the paper's 180, 20 convolutions" in printed
    frame = read_histories((tmp_path / "runs").iterdir())
    assert set(frame["method"]) == {"STD", "CSE"} and set(frame["dataset"]) == {"tiny"}


def test_threat_model_without_a_published_row(recipe: str, tmp_path: Path) -> None:
    printed = execute("threat_model", tmp_path, params=recipe)
    assert "4 evaluations of 1 model(s)" in printed and "no published row" in printed


def test_unknown_parameter_is_refused_in_one_line(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError) as caught:
        execute("fig3_minmax_csa_adv", tmp_path, params=recipe, protect_class=1)
    (shown,) = caught.value.traceback
    assert shown.startswith("InputError: protect_class: no such parameter (value 1); did you mean protected_class?")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", READERS)
def test_committed_notebooks_show_the_runs_of_the_sweeps(name: str) -> None:
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    printed = "".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)
    shown = set(re.findall(rf"^(?:read|ran) (\S+-(?:{'|'.join(map(re.escape, METHODS))})-p\S+)", printed, re.M))
    assert shown and shown <= {*run_ids("figures"), *run_ids("threat_model")}


@pytest.mark.parametrize("file", sorted((ROOT / "params" / "notebooks").glob("fig*.yaml")), ids=lambda path: path.stem)
def test_params_files_of_notebooks_are_flat_and_hold_parameters_of_theirs(file: Path) -> None:
    (notebook,) = NOTEBOOKS.glob(f"{file.stem.split('_')[0]}_*.ipynb")
    (cell,) = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    known = re.findall(r"^(\w+):", cell.source, re.M)
    content = yaml.safe_load(file.read_text())
    assert file.read_text().startswith("# ") and set(content) <= set(known)
    assert all(not isinstance(value, dict | list) for value in content.values())
