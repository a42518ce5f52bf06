"""The tables' notebooks on data sets that are not their own, and on a batch that they execute."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from sweeping import PROTECT, ROOT, write_stripes

import csnb
from csnb.paper.readings import HEAD, READINGS

TABLES = {
    "table2_mnist": "mnist",
    "table2_fashion_mnist": "fashion_mnist",
    "table3_cifar10": "cifar10",
    "table4_cifar100": "cifar100",
}
SWEEPS = {
    "mnist": "mnist_table2",
    "fashion_mnist": "fashion_mnist_table2",
    "cifar10": "cifar10_table3",
    "cifar100": "cifar100_table4",
}


def execute(name: str, folder: Path, **parameters: str) -> str:
    """All text that the notebook shows, its prose too."""
    source, target = ROOT / "notebooks" / f"{name}.ipynb", folder / "out.ipynb"
    cells = papermill.execute_notebook(
        str(source), str(target), parameters, progress_bar=False
    ).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [output.get("text", "") for output in outputs]
    for output in outputs:
        shown += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join([cell.source for cell in cells if cell.cell_type == "markdown"] + shown)


def sentences(name: str) -> list[str]:
    """What a reading says, without its headings and formulas."""
    text = HEAD.sub("", (READINGS / f"{name}.md").read_text(encoding="utf-8"))
    lines = [re.sub(r"\s+", " ", part) for part in text.split("\n\n")]
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("table2_mnist", "cifar10"), ("table3_cifar10", "mnist"), ("table4_cifar100", "mnist")],
)
def test_a_table_of_another_published_data_set_has_no_reading(
    name: str, dataset: str, tmp_path: Path
) -> None:
    shown = execute(name, tmp_path, dataset=dataset, sweep=SWEEPS[dataset])
    total = len(csnb.batch.run_ids(SWEEPS[dataset]))
    assert f" of {total}</td>" in shown and ">not run</td>" in shown
    assert f"here it is dataset = {dataset}" in shown
    flat = re.sub(r"\s+", " ", shown)
    assert not any(sentence in flat for sentence in sentences(name))


@pytest.mark.parametrize("name", TABLES)
def test_committed_tables_show_their_own_reading(name: str) -> None:
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    flat = re.sub(r"\s+", " ", shown)
    assert all(sentence in flat for sentence in sentences(name))


def test_tables_are_a_few_calls() -> None:
    for name, dataset in TABLES.items():
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert len(code) <= 7 and sum(len(cell.source.splitlines()) for cell in code) <= 20
        assert f'"{dataset}"' in code[0].source and f'"{SWEEPS[dataset]}"' in code[0].source


def test_a_table_of_anyones_data_executes_the_runs_that_are_missing(tmp_path: Path) -> None:
    stripes = str(write_stripes(tmp_path / "stripes.npz"))
    sweep = tmp_path / "sweep.yaml"
    common = f'dataset: {stripes}, attacks: "PGD(steps=3)", epochs: 1, attack_images: all'
    sweep.write_text(
        f"notebook: {PROTECT}\n"
        f"also:\n  - {{{common}, method: [STD, CSE], protected_class: below}}\n"
    )
    runs = tmp_path / "runs"
    shown = execute(
        "table2_fashion_mnist", tmp_path, dataset=stripes, sweep=str(sweep), runs=str(runs)
    )
    assert ">2 of 2</td>" in shown and "No reading" in shown
    frame = csnb.read_runs(runs, csnb.batch.run_ids(sweep))
    assert set(frame["method"]) == {"STD", "CSE"}
