"""Networks. Pixels in [0, 1] go in, logits come out; normalisation is the first layer."""

from csnb.models import own, vision  # they find what is no csnb's
from csnb.models.lenet import LeNet
from csnb.models.normalized import (
    Normalized,
    add_offset,
    body_of,
    build_model,
    check_answers,
    conv_weights,
    evaluating,
    learned,
    make_model,
    watched,
)
from csnb.models.resnet import resnet18
from csnb.models.strided import small_cnn
from csnb.spec import MODELS

__all__ = [
    "LeNet", "MODELS", "Normalized", "add_offset", "body_of", "build_model", "check_answers",
    "conv_weights", "evaluating", "learned", "make_model", "own", "resnet18", "small_cnn", "vision",
    "watched",
]  # fmt: skip
