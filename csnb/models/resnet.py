"""ResNet18 for small images."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from csnb.models.normalized import check_sides
from csnb.spec import Count, model


@model(source="He et al. 2016; section IV-C")
def resnet18(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    width: Annotated[
        Count, Field(ge=1, le=1024, description="kernels of the first stage; the last has 8 times")
    ] = 64,
) -> nn.Module:
    """torchvision's ResNet18 with the usual stem for small images: 3x3, stride 1, no max-pool.

    Its weights lie channels_last, which on CPUs makes attacks a tenth to a fifth faster.
    """
    import torchvision  # here: it takes seconds to import, and LeNet does without

    check_sides("resnet18", image_shape, 32)
    body = torchvision.models.resnet18(weights=None, num_classes=classes)
    if width != 64:
        _resize(body, width, classes)
    body.conv1 = _conv(image_shape[0], width, kernel_size=3, padding=1)
    body.maxpool = nn.Identity()
    return body.to(memory_format=torch.channels_last)


def _resize(body: nn.Module, width: int, classes: int) -> None:
    """Each layer but the stem's convolution anew, with ``width`` kernels for every 64."""
    for name, layer in list(body.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            body.set_submodule(name, nn.BatchNorm2d(layer.num_features * width // 64))
        elif isinstance(layer, nn.Conv2d) and name != "conv1":
            sides = (layer.in_channels * width // 64, layer.out_channels * width // 64)
            form = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding")}
            body.set_submodule(name, _conv(*sides, **form))
    body.fc = nn.Linear(8 * width, classes)


def _conv(*sides: int, **form: Any) -> nn.Conv2d:
    """As torchvision starts those of its ResNets."""
    conv = nn.Conv2d(*sides, **form, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
