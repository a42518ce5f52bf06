"""torchvision's classifiers by name, for images of any channels and size that they take."""

from collections.abc import Callable

from torch import nn

from csnb.errors import InputError, one_line
from csnb.spec import MODELS

PREFIX = "torchvision."  # of names that csnb has, too: torchvision.resnet18


def classifier(name: str) -> Callable[..., nn.Module] | None:
    """What makes torchvision's classifier ``name``; None where there is none."""
    import torchvision  # here: it takes seconds to import

    own = name.removeprefix(PREFIX)
    if own not in torchvision.models.list_models(module=torchvision.models):
        return None

    def make(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        try:
            options = _options(own, image_shape)
            body = torchvision.models.get_model(own, weights=None, num_classes=classes, **options)
        except (ValueError, AssertionError, RuntimeError) as error:
            shape = "x".join(map(str, image_shape))
            raise InputError(
                f"model: {name} is not made for images of {shape} ({one_line(error)}); "
                "allowed: another image_size, or another model"
            ) from None
        return _of_channels(body, image_shape[0])

    make.__doc__ = f"torchvision's {own}, random weights; init_from takes a file of others."
    return make


def _options(name: str, image_shape: tuple[int, int, int]) -> dict[str, object]:
    """What some need to know, beyond their classes."""
    _, height, width = image_shape
    if name.startswith("vit_"):
        if height != width:
            raise ValueError("it takes squares")
        return {"image_size": height}
    if name == "maxvit_t":
        return {"input_size": (height, width)}
    if name in ("googlenet", "inception_v3"):  # one answer, not three
        return {"aux_logits": False, "init_weights": True}
    return {}


def _of_channels(body: nn.Module, channels: int) -> nn.Module:
    """Its first convolution takes so many."""
    if channels == 3:
        return body
    name, old = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,
        bias=old.bias is not None,
    )  # fmt: skip
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, new)
    return body


MODELS.elsewhere, MODELS.also = classifier, "torchvision's classifiers, or file.py:Name"
