"""A network from pixels to logits, and how one is made from a spec."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from csnb.data import Dataset
from csnb.errors import InputError
from csnb.spec import MODELS, Spec


class Normalized(nn.Module):
    """``body((x - mean) / std)``.

    Pixels (B, C, H, W) in [0, 1] to logits (B, m). Section IV, Table I.
    """

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


def build_model(model: str | Spec, data: Dataset, *, seed: int = 0) -> Normalized:
    """A freshly initialised network for ``data``, on the CPU; the same seed gives the same weights.

    ``model``: of `MODELS`, such as ``"lenet(kernels=5)"``. Raises InputError, also where it does
    not take the images.
    """
    spec = MODELS.parse(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = spec(data.image_shape, len(data.classes))
    if not isinstance(body, nn.Module):
        raise InputError(f"model: {spec} gives a {type(body).__name__}; allowed: torch.nn.Module")
    return Normalized(body, data.mean, data.std)


def check_sides(name: str, image_shape: tuple[int, int, int], least: int) -> None:
    """Raises InputError for images that are too small for a network."""
    if min(image_shape[1:]) < least:
        shape = "x".join(map(str, image_shape))
        raise InputError(
            f"model: {name} needs images of {least} pixels a side or more; these have {shape}"
        )


def conv_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of the convolutions in the order of definition, by name: the W_conv of Eq. 8."""
    inner = model.body if isinstance(model, Normalized) else model
    modules = inner.named_modules()
    return {name: module.weight for name, module in modules if isinstance(module, nn.Conv2d)}
