"""The paper's networks. Pixels in [0, 1] go in; normalisation is the first layer."""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import relu

from csnb.data import Dataset
from csnb.errors import InputError
from csnb.native import conv_pool_relu

MODELS = ("lenet", "resnet18")


class Normalized(nn.Module):
    """``body((x - mean) / std)``: takes pixels (B, C, H, W) in [0, 1], returns logits (B, m). Section IV, Table I."""

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def normalize(self, x: Tensor) -> Tensor:
        """Pixels to the units of the body."""
        return (x - self.mean) / self.std

    def denormalize(self, z: Tensor) -> Tensor:
        """The body's units back to pixels."""
        return z * self.std + self.mean

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.normalize(x))


class ConvPoolReLU(nn.Conv2d):
    """A 5x5 convolution, 2x2 max-pooling and ReLU: (B, C, H, W) -> (B, K, H', W'), compiled where it can be."""

    def forward(self, z: Tensor) -> Tensor:
        return conv_pool_relu(z, self.weight, self.bias, self.padding[0])


class LeNet(nn.Module):
    """LeNet as the authors coded it (section IV-A): 5x5 convolutions, 2x2 max-pooling, ReLU, 120 and 84 hidden units.

    ``image_shape``: (C, H, W), at least 12 pixels a side. ``kernels``: of the first convolution; the authors' code has
    6, the paper's text says 5. The first convolution pads images smaller than 32 pixels by 2, as the paper does MNIST's
    28x28 and not CIFAR-10's 32x32: both then give 16 maps of 5x5.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, *, kernels: int = 6) -> None:
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


def resnet18(channels: int, classes: int) -> nn.Module:
    """torchvision's ResNet18 with the usual stem for small images: 3x3, stride 1, no max-pool (section IV-C).

    Its weights lie channels_last, which on CPUs makes attacks a tenth to a fifth faster.
    """
    model = torchvision.models.resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)


def build_model(name: str, data: Dataset, *, kernels: int = 6, seed: int = 0) -> Normalized:
    """A freshly initialised network for ``data``, on the CPU; the same seed gives the same weights."""
    least = {"lenet": 12, "resnet18": 32}
    if name not in least:
        raise InputError(f"model: {name!r} is unknown; allowed: {', '.join(MODELS)}")
    channels, *sides = data.image_shape
    if min(sides) < least[name]:
        shape = "x".join(map(str, data.image_shape))
        raise InputError(f"model: {name} needs images of {least[name]} pixels a side or more; {data.name} has {shape}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name == "lenet":
            body = LeNet(data.image_shape, len(data.classes), kernels=kernels)
        else:
            body = resnet18(channels, len(data.classes))
    return Normalized(body, data.mean, data.std)


def conv_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of the convolutions in the order of definition, by name: the W_conv of Eq. 8."""
    modules = model.body.named_modules() if isinstance(model, Normalized) else model.named_modules()
    return {name: module.weight for name, module in modules if isinstance(module, nn.Conv2d)}
