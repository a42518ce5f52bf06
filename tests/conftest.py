"""One thread and no screen: tests run beside each other, and equal threads give bit-equal results."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch

import csnb.attacks  # noqa: F401  makes advertorch importable

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_random_numbers() -> None:
    """No test depends on which ran before it."""
    torch.manual_seed(0)
