"""Networks. Pixels in [0, 1] go in, logits come out; normalisation is the first layer."""

from csnb.models.lenet import LeNet
from csnb.models.normalized import (
    Normalized,
    add_offset,
    build_model,
    check_answers,
    conv_weights,
    evaluating,
    watched,
)
from csnb.models.resnet import resnet18
from csnb.models.strided import small_cnn
from csnb.spec import MODELS

__all__ = [
    "LeNet", "MODELS", "Normalized", "add_offset", "build_model", "check_answers", "conv_weights",
    "evaluating", "resnet18", "small_cnn", "watched",
]  # fmt: skip
