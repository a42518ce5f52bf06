"""A sweep that was executed in peace, for tests to compare with."""

import os
from pathlib import Path

import pytest
from batches import write_sweep
from filelock import FileLock

from csnb import sweep


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of three runs, with an undisturbed serial execution in ``serial``."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "small"
    with FileLock(f"{folder}.lock"):  # made once for all workers
        if not folder.exists():
            folder.mkdir()
            also = [{"method": "CSE(gamma=10)", "protected_class": "below"}]
            file = write_sweep(folder, also=also, method=["STD", "CSA"])
            frame = sweep(file, runs=folder / "serial", jobs=1)
            assert list(frame["state"]) == ["done"] * 3, frame
    return folder
