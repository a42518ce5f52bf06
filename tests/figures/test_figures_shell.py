"""Pictures go into the notebook that draws them, whatever its shell has in MPLBACKEND."""

import sys
from types import SimpleNamespace

import pytest

from csnb.figures.shell import draw_into_the_notebook


@pytest.mark.parametrize(
    ("kernel", "asked", "drawn"),
    [(True, "Agg", ["inline"]), (True, "agg", ["inline"]), (True, "svg", []), (True, "", []),
     (False, "Agg", []), (None, "Agg", [])],
)  # fmt: skip
def test_only_agg_in_a_kernel_is_overruled(
    kernel: bool | None, asked: str, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``kernel``: whether IPython has one; None: IPython is imported, and no shell runs."""
    used: list[str] = []
    parts = {"kernel": object()} if kernel else {}
    shell = None if kernel is None else SimpleNamespace(enable_matplotlib=used.append, **parts)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setenv("MPLBACKEND", asked)
    draw_into_the_notebook()
    assert used == drawn
