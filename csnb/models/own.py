"""Anybody's networks: a class of their own file, just as it is."""

import inspect
from collections.abc import Callable

from torch import nn

from csnb.spec import MODELS

CLASSES = ("num_classes", "classes", "n_classes")  # what a constructor may call them
CHANNELS = ("in_channels", "channels", "in_chans")
SHAPES = ("image_shape", "input_shape")


def adopted(value: object) -> Callable[..., nn.Module] | None:
    """A class of networks as what makes a model; None for anything else.

    Parameters of its constructor by these names are filled: how many classes, how many channels,
    the images' shape (C, H, W). The others are options.
    """
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return None
    signature = inspect.signature(value, eval_str=True)
    free = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name: p for p in signature.parameters.values() if p.kind in free}

    def make(image_shape: tuple[int, int, int], classes: int, **options: object) -> nn.Module:
        known = dict.fromkeys(CLASSES, classes) | dict.fromkeys(CHANNELS, image_shape[0])
        known |= dict.fromkeys(SHAPES, image_shape)
        return value(**{name: known[name] for name in named if name in known} | options)

    options = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, p in named.items()
        if name not in (*CLASSES, *CHANNELS, *SHAPES)
    ]
    make.__signature__ = inspect.Signature(options)
    make.__doc__ = value.__doc__
    return make


MODELS.adopt = adopted
