"""The tables' notebooks on data sets that are not their own, and on a batch that they execute."""

import re
from pathlib import Path

import pytest
from in_kernels import NOTEBOOKS, PROTECT, cells, execute, shown

import csnb
from csnb.paper.readings import HEAD, READINGS

TABLES = {
    "table2_mnist": ("mnist", "mnist_table2"),
    "table2_fashion_mnist": ("fashion_mnist", "fashion_mnist_table2"),
    "table3_cifar10": ("cifar10", "cifar10_table3"),
    "table4_cifar100": ("cifar100", "cifar100_narrow"),
}


def paragraphs(name: str) -> list[str]:
    """What a reading says, without its headings, with single blanks."""
    text = HEAD.sub("", (READINGS / f"{name}.md").read_text(encoding="utf-8"))
    parts = [" ".join(part.split()) for part in re.split(r"\n\n|\n(?=- )", text)]
    return [part for part in parts if part and not part.startswith("#")]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("table2_mnist", "table3_cifar10"),
        ("table3_cifar10", "table2_mnist"),
        ("table4_cifar100", "table2_mnist"),
    ],
)
def test_a_table_of_another_published_data_set_has_no_reading(
    name: str, other: str, tmp_path: Path
) -> None:
    dataset, sweep = TABLES[other]
    said = execute(name, tmp_path, dataset=dataset, sweep=sweep)
    assert re.search(rf"runs \d+ of {len(csnb.batch.run_ids(sweep))} ", said) and "not run" in said
    assert f"here it is dataset = {dataset}" in said
    assert not any(part in said for part in paragraphs(name))


@pytest.mark.parametrize("name", TABLES)
def test_a_reading_is_shown_for_the_committed_runs_and_stands_in_no_prose(name: str) -> None:
    notebook = NOTEBOOKS / f"{name}.ipynb"
    said = shown(cells(notebook))
    assert paragraphs(name) and all(part in said for part in paragraphs(name))
    prose = " ".join("\n".join(c.source for c in cells(notebook, "markdown")).split())
    assert not any(part in prose for part in paragraphs(name))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_a_few_calls(name: str) -> None:
    code = [cell.source for cell in cells(NOTEBOOKS / f"{name}.ipynb")]
    assert len(code) <= 7 and sum(len(source.splitlines()) for source in code) <= 20
    assert all(f'"{value}"' in code[0] for value in TABLES[name])


def test_a_table_of_anyones_data_executes_the_runs_that_are_missing(
    data: str, tmp_path: Path
) -> None:
    sweep, runs = tmp_path / "sweep.yaml", tmp_path / "runs"
    common = f'dataset: {data}, attacks: "PGD(steps=3)", epochs: 1, attack_images: all'
    entry = f"{{{common}, method: [STD, CSE], protected_class: middle}}"
    sweep.write_text(f"notebook: {PROTECT}\nalso:\n  - {entry}\n")
    said = execute("table2_fashion_mnist", tmp_path, dataset=data, sweep=str(sweep), runs=str(runs))
    assert "runs 2 of 2 " in said and "No reading" in said
    assert "CSE > STD" in said and "0 (n = 10) 1 (n = 10) 2 (n = 10)" in said
    assert set(csnb.read_runs(runs, csnb.batch.run_ids(sweep))["method"]) == {"STD", "CSE"}
