"""The small network of certified training."""

import pytest
import torch

from csnb import InputError
from csnb.models import small_cnn


def test_it_is_the_small_network_of_wong_and_kolter() -> None:
    convs = (1 * 16 + 1) * 16 + (16 * 16 + 1) * 32  # 4x4 kernels
    dense = (32 * 7 * 7 + 1) * 100 + (100 + 1) * 10
    body = small_cnn((1, 28, 28), 10)
    assert sum(p.numel() for p in body.parameters()) == convs + dense


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (2, 5, 9), (1, 4, 4)])
def test_it_takes_images_of_any_size(shape: tuple[int, int, int]) -> None:
    assert small_cnn(shape, 7, kernels=2, hidden=3)(torch.rand(2, *shape)).shape == (2, 7)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(InputError, match="small_cnn needs images of 4 pixels a side"):
        small_cnn((1, 3, 8), 2)
