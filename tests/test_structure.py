"""The house: rooms on floors, short lines, few public names."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import csnb
from csnb.paths import CHECKOUT

PACKAGE = CHECKOUT / "csnb"
FILES = sorted(f for f in PACKAGE.rglob("*.py") if f.name != "__init__.py" or f.parent != PACKAGE)
CODE = [*PACKAGE.rglob("*.py"), *CHECKOUT.glob("tests/**/*.py"), *CHECKOUT.glob("benchmarks/*.py")]


def room(parts: tuple[str, ...]) -> str:
    """A file's room: its folder in csnb, or the file itself."""
    return parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """The rooms that a file imports, wherever in it, but for its own."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = tuple(name.split("."))[1:] if name.startswith("csnb.") else ()
            if parts and ((PACKAGE / parts[0]).is_dir() or (PACKAGE / f"{parts[0]}.py").is_file()):
                found.add(room(parts))
    return found - {room(file.relative_to(PACKAGE).parts)}


GRAPH: dict[str, set[str]] = {}
for each in FILES:
    GRAPH.setdefault(room(each.relative_to(PACKAGE).parts), set()).update(imports(each))


@cache
def floor(name: str, below: tuple[str, ...] = ()) -> int:
    """1 for a room that imports none; else one above the highest that it imports."""
    assert name not in below, f"a circle of imports: {' -> '.join((*below, name))}"
    return 1 + max((floor(other, (*below, name)) for other in GRAPH[name]), default=0)


def test_no_import_runs_up_and_the_house_has_at_most_eight_floors() -> None:
    doors = {"__main__", "pages"}  # which lead to all
    floors = {name: floor(name) for name in GRAPH if name not in doors}
    assert len(GRAPH) >= 15
    assert floors["errors"] == floors["losses"] == 1, "the graph was read"
    assert floors["attacks"] > floors["models"] > floors["spec"]
    assert max(floors.values()) <= 8, floors


def test_a_room_below_knows_nothing_of_what_stands_above() -> None:
    assert not GRAPH["spec"] & {"attacks", "methods", "models", "data"}
    assert not GRAPH["figures"] & {"attacks", "training", "evaluation", "runner", "batch"}
    assert not GRAPH["runs"] & {"training", "experiment", "runner", "batch", "paper"}
    assert not GRAPH["training"] & {"data", "runs", "experiment"}
    assert not GRAPH["paper"] & {"batch", "runner"}


@pytest.mark.parametrize("file", CODE, ids=lambda f: str(f.relative_to(CHECKOUT)))
def test_lines_have_at_most_a_hundred_characters(file: Path) -> None:
    long = [
        n
        for n, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1)
        if len(line) > 100
    ]
    assert not long


def test_public_names_are_few_and_there() -> None:
    names = [name for names in csnb.PUBLIC.values() for name in names]
    assert len(names) == len(set(names)) <= 38
    for name in csnb.__all__:
        assert getattr(csnb, name) is not None, name
    with pytest.raises(AttributeError, match="Expriment"):
        csnb.Expriment  # noqa: B018


def test_functions_fit_a_screen() -> None:
    lengths = {
        f"{file.relative_to(PACKAGE)}:{node.name}": node.end_lineno - node.lineno + 1
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert max(lengths.values()) <= 70, max(lengths, key=lengths.get)


def test_the_tests_that_the_table_of_faults_names_are_there() -> None:
    text = (CHECKOUT / "tests" / "faults.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^` ]+)::(\w+)`", text))
    assert len(named) > 100 and text.count("::") == len(re.findall(r"`[^` ]+::\w+`", text))
    for file, name in named:
        code = (CHECKOUT / "tests" / file).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in code, f"{file}::{name}"
