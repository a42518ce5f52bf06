"""LeNet, with convolution, pooling and ReLU as one compiled layer where that can be."""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from csnb.bounds import Layer, rule
from csnb.bounds.layers import Conv, MaxPool, ReLU
from csnb.models.native import conv_pool_relu
from csnb.models.normalized import check_sides
from csnb.spec import Count, model


class ConvPoolReLU(nn.Conv2d):
    """A 5x5 convolution, 2x2 max-pooling and ReLU: (B, C, H, W) -> (B, K, H', W')."""

    def forward(self, z: Tensor) -> Tensor:
        return conv_pool_relu(z, self.weight, self.bias, self.padding[0])


@rule(ConvPoolReLU)
def _parts(module: ConvPoolReLU) -> list[Layer]:
    return [Conv(module), MaxPool(lambda sides: ((2, 2), (2, 2), (0, 0))), ReLU()]


class LeNet(nn.Module):
    """LeNet as the authors coded it (section IV-A).

    5x5 convolutions, 2x2 max-pooling, ReLU, 120 and 84 hidden units.

    ``image_shape``: (C, H, W), at least 12 pixels a side. ``kernels``: of the first convolution;
    the authors' code has 6, the paper's text says 5. The first convolution pads images smaller than
    32 pixels by 2, as the paper does MNIST's 28x28 and not CIFAR-10's 32x32: both then give 16 maps
    of 5x5.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, *, kernels: int = 6
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        padding = 2 if min(sides) < 32 else 0
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in sides)
        self.conv1 = ConvPoolReLU(channels, kernels, 5, padding=padding)
        self.conv2 = ConvPoolReLU(kernels, 16, 5)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, z: Tensor) -> Tensor:
        z = self.conv2(self.conv1(z))
        z = relu(self.fc1(z.flatten(1)))
        return self.fc3(relu(self.fc2(z)))


@model("lenet", source="LeCun et al. 1998; section IV-A")
def lenet(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    kernels: Annotated[
        Count, Field(ge=1, le=512, description="of the first convolution (the paper's text: 5)")
    ] = 6,
) -> LeNet:
    """Two 5x5 convolutions, 120 and 84 hidden units."""
    check_sides("lenet", image_shape, 12)
    return LeNet(image_shape, classes, kernels=kernels)
