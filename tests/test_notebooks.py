"""The notebooks as a person uses them: from the shell with papermill, and committed executed, clean and short."""

import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import yaml
from papermill.exceptions import PapermillExecutionError

from csnb import METHODS, Experiment, read_run
from csnb.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROTECT = ROOT / "notebooks" / "protect.ipynb"


def code_cells(notebook: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code" and cell.source.strip()]


def parameters_cell(notebook: Path) -> str:
    (cell,) = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


def line(name: str) -> str:
    """The line of a parameters cell that `Experiment` calls for."""
    field = Experiment.model_fields[name]
    value = f'"{field.default}"' if isinstance(field.default, str) else repr(field.default)
    return f"{name}: {type(field.default).__name__} = {value}  # {field.description}"


def test_parameters_of_protect_are_those_of_an_experiment_with_defaults_and_meanings() -> None:
    assert parameters_cell(PROTECT).splitlines() == [line(name) for name in Experiment.model_fields]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_typed_and_explained(notebook: Path) -> None:
    for text in parameters_cell(notebook).splitlines():
        assert re.fullmatch(r"\w+: (int|float|str|bool) = .+  # .+", text), text


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_executed_short_and_without_definitions(notebook: Path) -> None:
    for number, cell in enumerate(code_cells(notebook), start=1):
        assert cell.execution_count == number, f"cell {number} of {notebook.name} was not executed in order"
        assert all(output.output_type != "error" for output in cell.outputs)
        assert not re.search(r"^\s*(def|class) |lambda", cell.source, re.M)
        assert "parameters" in cell.metadata.get("tags", []) or len(cell.source.splitlines()) <= 12


@pytest.mark.parametrize("file", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_params_files_are_flat_and_hold_only_what_differs_from_the_defaults(file: Path) -> None:
    parameters = yaml.safe_load(file.read_text())
    experiment = Experiment(**parameters)
    assert all(not isinstance(value, dict | list) for value in parameters.values())
    same = [
        name for name in parameters if name != "dataset" and getattr(experiment, name) == Experiment.model_fields[name].default
    ]
    assert file.read_text().startswith("# ")
    assert set(same) <= {"epochs", "lr", "schedule", "eps"}  # a recipe may be spelled out where the paper states it


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of two classes, quick to learn: bright above or below."""
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = rng.uniform(0, 0.5, (200, 12, 12)).astype(np.float32)
    x[y == 0, :6] += 0.5
    x[y == 1, 6:] += 0.5
    file = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(file, x_train=x[:160], y_train=y[:160], x_test=x[160:], y_test=y[160:], classes=np.array(["above", "below"]))
    return str(file)


def execute(folder: Path, **parameters: object) -> nbformat.NotebookNode:
    return papermill.execute_notebook(
        str(PROTECT), str(folder / "out.ipynb"), parameters | {"runs": str(folder / "runs"), "threads": 1}, progress_bar=False
    )


@pytest.mark.parametrize("method", METHODS)
def test_papermill_runs_protect_by_every_method(method: str, stripes: str, tmp_path: Path) -> None:
    execute(tmp_path, dataset=stripes, method=method, protected_class="below", epochs=2, cw_steps=3, gamma="1e-3")
    (folder,) = (tmp_path / "runs").iterdir()
    result = read_run(folder)
    assert (result["parameters"]["method"], result["parameters"]["gamma"]) == (method, 0.001)
    rows = [row for row in result["scores"] if row["measure"] == "accuracy" and row["class"] == "below"]
    assert {row["attack"] for row in rows} == {"clean", "FGSM", "PGD", "CW", "MIA", "L2BIA", "LinfBIA"}
    assert all(row["total"] == 20 for row in rows)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 3}, "InputError: epoch: no such parameter (value 3); did you mean epochs?"),
        ({"eps": -1}, "InputError: eps: -1 is not allowed; allowed: greater than or equal to 0 - radius of the threat model"),
    ],
)
def test_bad_parameter_stops_protect_with_one_line_and_no_folder(parameters: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError) as caught:
        execute(tmp_path, **parameters)
    (shown,) = caught.value.traceback
    assert shown.startswith(message) and "\n" not in shown
    assert not (tmp_path / "runs").exists()


def test_demo_without_a_checkout_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("csnb.__main__.NOTEBOOKS", tmp_path)
    assert main(["demo", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.startswith("csnb: demo: no ")
    assert not (tmp_path / "demo").exists()
