"""Notebooks as tests see them: their cells, and what they show when they are executed."""

import re
from collections.abc import Iterable
from functools import cache
from html import unescape
from pathlib import Path

import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode

from csnb.paths import NOTEBOOKS

PROTECT = NOTEBOOKS / "protect.ipynb"


def cells(notebook: Path, kind: str = "code") -> list[NotebookNode]:
    """The notebook's cells of one kind."""
    found = nbformat.read(notebook, as_version=4).cells
    return [cell for cell in found if cell.cell_type == kind and cell.source.strip()]


def parameters_cell(notebook: Path) -> str:
    """The source of the one cell with that tag."""
    tagged = [c for c in cells(notebook) if "parameters" in c.metadata.get("tags", [])]
    (cell,) = tagged
    return cell.source


@cache
def kernel() -> AsyncKernelManager:
    """One for all notebooks, which nbclient starts: torch is imported once."""
    return AsyncKernelManager(kernel_name="python3")


def emptied(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """The notebook behind a cell that leaves nothing of the one before it, in ``folder``."""
    lines = f"import os; os.chdir({str(folder)!r}); get_ipython().run_line_magic('reset', '-f')"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(lines))
    return notebook


def execute(
    name: str, folder: Path, *, cwd: Path | None = None, alone: bool = False, **parameters: object
) -> str:
    """What the notebook shows with these parameters; the executed one is ``folder/out.ipynb``.

    ``alone``: in a kernel of its own, as from the shell.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    options = {} if alone else {"km": kernel()}
    executed = papermill.execute_notebook(
        notebook if alone else emptied(notebook, cwd or Path.cwd()),
        str(folder / "out.ipynb"),
        parameters,
        progress_bar=False,
        cwd=str(cwd) if cwd else None,
        **options,
    )
    return shown(executed.cells)


def shown(cells: Iterable[NotebookNode]) -> str:
    """The outputs as text: what is printed, and tables' cells and prose with single blanks."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join(output.text if "text" in output else _text(output.data) for output in outputs)


def _text(data: NotebookNode) -> str:
    if "text/markdown" in data:
        return " ".join(data["text/markdown"].split())
    if "text/html" not in data:
        return data["text/plain"]
    bare = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"</?[a-z][^>]*>", " ", bare)).split())
