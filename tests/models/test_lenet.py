from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from csnb.models import LeNet


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


DENSE = (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)


@pytest.mark.parametrize(
    ("shape", "kernels", "parameters"),
    [
        ((1, 28, 28), 6, (1 * 25 * 6 + 6) + (6 * 25 * 16 + 16) + DENSE),
        ((3, 32, 32), 6, (3 * 25 * 6 + 6) + (6 * 25 * 16 + 16) + DENSE),
        ((1, 28, 28), 5, (1 * 25 * 5 + 5) + (5 * 25 * 16 + 16) + DENSE),
    ],
)
def test_lenet_has_the_parameters_counted_by_hand(
    shape: tuple[int, int, int], kernels: int, parameters: int
) -> None:
    model = LeNet(shape, 10, kernels=kernels)
    assert size(model) == parameters
    assert model(noise(2, *shape)).shape == (2, 10)


def test_lenet_has_six_kernels_unless_told() -> None:
    assert LeNet((1, 28, 28), 10).conv1.weight.shape == (6, 1, 5, 5)


@pytest.mark.parametrize(
    ("height", "width", "features"),
    [
        (28, 28, 16 * 5 * 5),  # padded: 28 -> 28 -> 14 -> 10 -> 5
        (32, 32, 16 * 5 * 5),  # not padded: 32 -> 28 -> 14 -> 10 -> 5
        (12, 12, 16 * 1 * 1),  # padded: 12 -> 12 -> 6 -> 2 -> 1
        (29, 31, 16 * 5 * 5),  # padded: 29 -> 29 -> 14 -> 10 -> 5; 31 -> 31 -> 15 -> 11 -> 5
        (33, 38, 16 * 5 * 6),  # not padded: 33 -> 29 -> 14 -> 10 -> 5; 38 -> 34 -> 17 -> 13 -> 6
        (20, 40, 16 * 3 * 8),  # padded: 20 -> 20 -> 10 -> 6 -> 3; 40 -> 40 -> 20 -> 16 -> 8
    ],
)
def test_lenet_fits_its_features_to_any_image(height: int, width: int, features: int) -> None:
    model = LeNet((1, height, width), 7)
    assert model.fc1.in_features == features
    assert model(noise(2, 1, height, width)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_lenet_is_convolve_relu_pool_twice_then_three_dense_layers(
    shape: tuple[int, int, int],
) -> None:
    torch.manual_seed(2)
    model = LeNet(shape, 10)
    z = noise(3, *shape)
    parameters = dict(model.named_parameters())

    def layer(function: Callable[..., Tensor], name: str, z: Tensor, **options: int) -> Tensor:
        return function(z, parameters[f"{name}.weight"], parameters[f"{name}.bias"], **options)

    padding = 2 if shape[1] == 28 else 0
    expected = functional.max_pool2d(
        functional.relu(layer(functional.conv2d, "conv1", z, padding=padding)), 2
    )
    expected = functional.max_pool2d(
        functional.relu(layer(functional.conv2d, "conv2", expected)), 2
    ).flatten(1)
    for name in ("fc1", "fc2"):
        expected = functional.relu(layer(functional.linear, name, expected))
    expected = layer(functional.linear, "fc3", expected)
    torch.testing.assert_close(model(z), expected)
