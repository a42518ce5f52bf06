"""One thread, no screen, no bars: tests run side by side, and equal threads give equal bits.

Examples of properties are the same each time, so that a change fails by its own fault alone;
`make test-slow` draws others, and ten times as many.
"""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["CSNB_QUIET"] = "1"

import pytest
import torch
from hypothesis import settings
from making import stripes

from csnb import spec

torch.set_num_threads(1)
# no deadline: a machine may be busy
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("same")  # but for pytest's --hypothesis-profile


@pytest.fixture(autouse=True)
def own_random_numbers() -> None:
    """No test depends on which ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on the variables of whoever starts the tests."""
    for name in ("CSNB_DATA", "CSNB_HOLD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def own_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor on the attacks, methods, models and data sets that another test brought."""
    for registry in (spec.ATTACKS, spec.METHODS, spec.MODELS, spec.DATASETS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """The path of a small data set of three classes: "top", "middle", "bottom"."""
    return stripes(tmp_path / "stripes.npz")
