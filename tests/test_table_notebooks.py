"""The tables' notebooks on data sets that are not their own: other committed runs, and a batch that is executed first."""

from pathlib import Path

import nbformat
import papermill
import pytest
from sweeping import PROTECT, ROOT, write_stripes

from csnb import read_runs


def execute(name: str, folder: Path, **parameters: str) -> str:
    """All text that the notebook shows."""
    source, target = ROOT / "notebooks" / f"{name}.ipynb", folder / "out.ipynb"
    notebook = papermill.execute_notebook(str(source), str(target), parameters, progress_bar=False)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)])))


@pytest.mark.parametrize(
    ("name", "dataset", "sweep"),
    [
        ("table2_mnist", "cifar100", "cifar100_table4"),
        ("table3_cifar10", "mnist", "mnist_table2"),
        ("table4_cifar100", "cifar10", "cifar10_table3"),
    ],
)
def test_a_table_of_another_published_data_set(name: str, dataset: str, sweep: str, tmp_path: Path) -> None:
    shown = execute(name, tmp_path, dataset=dataset, sweep=sweep)
    assert f"runs of {sweep} are there" in shown and "not run" in shown


def test_a_table_of_anyones_data_executes_the_runs_that_are_missing(tmp_path: Path) -> None:
    stripes = str(write_stripes(tmp_path / "stripes.npz"))
    sweep = tmp_path / "sweep.yaml"
    common = f"dataset: {stripes}, attacks: PGD, pgd_steps: 3, epochs: 1, attack_images: all"
    sweep.write_text(f"notebook: {PROTECT}\nalso:\n  - {{{common}, method: [STD, CSE], protected_class: below}}\n")
    shown = execute("table2_fashion_mnist", tmp_path, dataset=stripes, sweep=str(sweep), runs=str(tmp_path / "runs"))
    assert f"2 of the 2 runs of {sweep} are there" in shown
    assert set(read_runs(tmp_path / "runs", sweep)["method"]) == {"STD", "CSE"}
