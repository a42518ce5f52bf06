"""The notebooks as committed: executed, clean, short, linked; and protect.ipynb from the shell."""

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from in_kernels import NOTEBOOKS, PROTECT, cells, execute, parameters_cell, shown
from making import STRIPES, stripes
from papermill.exceptions import PapermillExecutionError

import csnb
from csnb.paths import CHECKOUT, PARAMS
from csnb.runs import inspect

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
PAPER = "https://doi.org/10.1109/TCYB.2022.3146388"
FEW = "FGSM, PGD(steps=2), CW(steps=3, searches=1), MIA(steps=2), L2BIA, LinfBIA"
every_notebook = pytest.mark.parametrize("notebook", ALL, ids=lambda path: path.stem)


def line(name: str) -> str:
    """The line of a parameters cell that `Experiment` calls for."""
    field = csnb.Experiment.model_fields[name]
    value = f'"{field.default}"' if isinstance(field.default, str) else repr(field.default)
    return f"{name}: {type(field.default).__name__} = {value}  # {field.description}"


def test_parameters_of_protect_are_those_of_an_experiment_and_fit_a_screen() -> None:
    lines = parameters_cell(PROTECT).splitlines()
    assert lines == [line(name) for name in csnb.Experiment.model_fields]
    assert len(lines) <= 36


@every_notebook
def test_every_parameter_is_typed_and_explained(notebook: Path) -> None:
    for text in parameters_cell(notebook).splitlines():
        assert re.fullmatch(r"\w+: (int|float|str|bool) = .+  # .+", text), text


@every_notebook
def test_notebook_is_committed_executed_short_and_without_definitions(notebook: Path) -> None:
    for number, cell in enumerate(cells(notebook), start=1):
        assert cell.execution_count == number, f"cell {number} was not executed in order"
        assert all(output.output_type != "error" for output in cell.outputs)
        assert not re.search(r"^\s*(def|class) |lambda", cell.source, re.M)
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 12


@every_notebook
def test_notebook_uses_only_what_is_public(notebook: Path) -> None:
    for cell in cells(notebook):
        assert "from csnb" not in cell.source and "import csnb." not in cell.source
        for name, inner in re.findall(r"\bcsnb\.(\w+)(?:\.(\w+))?", cell.source):
            assert name in csnb.__all__, name
            public = getattr(getattr(csnb, name), "__all__", None)
            assert not inner or not inner.startswith("_")
            assert not inner or public is None or inner in public, f"csnb.{name}.{inner}"


@every_notebook
def test_notebook_has_formulas_and_links_that_lead_somewhere(notebook: Path) -> None:
    first, *others = [cell.source for cell in cells(notebook, "markdown")]
    assert PAPER in first and re.search(r"\$.+\$", first, re.DOTALL)
    assert "**Claim of the paper**" in first or notebook == PROTECT
    text = "\n".join([first, *others, shown(cells(notebook))])  # readings are outputs
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    for link in links:
        assert link.startswith("https://") or (NOTEBOOKS / link).exists(), link
    assert any(link.startswith("../csnb/") for link in links)
    assert any(link.endswith(".ipynb") for link in links)


@every_notebook
def test_notebook_holds_no_path_of_a_machine_and_shows_the_reading_it_has(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    for place in (CHECKOUT, Path.home(), Path("/tmp")):
        assert f"{place}/" not in text
    assert "No reading" not in shown(cells(notebook))


@pytest.mark.parametrize("file", sorted(PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_params_files_are_flat_and_hold_only_what_differs_from_the_defaults(file: Path) -> None:
    parameters = yaml.safe_load(file.read_text())
    experiment, fields = csnb.Experiment(**parameters), csnb.Experiment.model_fields
    assert all(not isinstance(value, dict | list) for value in parameters.values())
    same = {name for name in parameters if getattr(experiment, name) == fields[name].default}
    assert file.read_text().startswith("# ")
    # a recipe may be spelled out where the paper states it
    assert same - {"dataset"} <= {"epochs", "lr", "schedule", "eps"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stripes(tmp_path_factory.mktemp("data") / "stripes.npz")


@pytest.mark.parametrize("method", ["STD", "CSA+L2", "DAFA"])  # test_runner has them all
def test_papermill_runs_protect_by_every_method(method: str, data: str, tmp_path: Path) -> None:
    options = "(gamma=1e-3)" if "gamma" in csnb.METHODS[method].options else ""
    quick = {"dataset": data, "epochs": 2, "attacks": FEW, "threads": 1}
    given = {"method": method + options, "protected_class": "middle"}
    execute("protect", tmp_path, runs=str(tmp_path / "runs"), **quick, **given)
    (folder,) = (tmp_path / "runs").glob("*-p1-*")  # the run compared with protects class 0
    result = csnb.read_run(folder)
    assert result["parameters"]["method"] == method + options.replace("1e-3", "0.001")
    own = [r for r in result["scores"] if r["measure"] == "accuracy" and r["class"] == "middle"]
    labels = [spec.label for spec in csnb.ATTACKS.parse_list(FEW)]
    assert [row["attack"] for row in own] == ["clean", *labels]
    assert result["classes"] == list(STRIPES) and all(row["total"] == 10 for row in own)


def test_a_finished_run_stays_until_protect_has_written_another_from_any_folder(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    quick = {"dataset": data, "epochs": 1, "attacks": "FGSM", "attack_images": "all", "threads": 1}
    execute("protect", tmp_path, cwd=tmp_path, alone=True, **quick)  # as from the shell
    (folder,) = (tmp_path / "runs").glob("*-CSA-*")
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}

    monkeypatch.setenv("CSNB_HOLD", folder.name)  # as in a sweep, where JupyterLab would be
    execute("protect", tmp_path, cwd=tmp_path / "notebooks", alone=True, **quick)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert inspect(folder).state == "done"
    results = [
        tmp_path / "runs" / place / "result.json" for place in (folder.name, f".{folder.name}.new")
    ]
    finished, held = (json.loads(file.read_text()) for file in results)
    assert (
        held["scores"] == finished["scores"] and held["sha256"].keys() == finished["sha256"].keys()
    )
    assert not (tmp_path / "notebooks" / "runs").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 3}, "InputError: epoch: no such parameter (value 3); "),
        ({"eps": -1}, "InputError: eps: -1 is not allowed; allowed: greater than or equal to 0 - "),
        ({"method": "CSE(gama=1)"}, "InputError: method: gama: no such option of method CSE "),
        ({"attacks": "PDG"}, "InputError: attacks: "),
    ],
)
def test_bad_parameter_stops_protect_with_one_line_and_no_folder(
    parameters: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PapermillExecutionError) as caught:
        execute("protect", tmp_path, runs=str(tmp_path / "runs"), **parameters)
    (said,) = caught.value.traceback
    assert said.startswith(message) and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_papermill_explains_the_parameters_of_protect() -> None:
    inferred = papermill.inspect_notebook(str(PROTECT))
    for name, field in csnb.Experiment.model_fields.items():
        if "=" not in str(field.default):  # papermill reads no line with a second one
            assert inferred[name]["help"] == field.description


def test_quickstart_compares_any_methods_and_draws_no_conclusions_of_the_committed_run(
    tmp_path: Path,
) -> None:
    quick = {"epochs": 2, "attacks": "FGSM, LinfBIA(steps=2)", "runs": str(tmp_path / "runs")}
    said = execute("quickstart", tmp_path, methods="STD, CSE(gamma=10)", protected_class=5, **quick)
    assert "protected: '5'" in said and "CSE(gamma=10)" in said
    assert "STD < CSE(gamma=10)" in said and "No reading" in said
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    summaries = [c for c in executed.cells if "summary" in c.metadata.get("tags", [])]
    assert len(summaries) == 2 and all("STD" in shown([cell]) for cell in summaries)
