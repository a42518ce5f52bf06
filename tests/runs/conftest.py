"""A folder of runs, and one that is complete."""

from pathlib import Path

import pytest
from making import write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def folder(runs: Path) -> Path:
    """A complete run's."""
    return write_run(runs)
