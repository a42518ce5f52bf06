"""Networks. Pixels in [0, 1] go in, logits come out; normalisation is the first layer."""

from csnb.models.lenet import LeNet
from csnb.models.normalized import Normalized, build_model, conv_weights
from csnb.models.resnet import resnet18
from csnb.spec import MODELS

__all__ = ["LeNet", "MODELS", "Normalized", "build_model", "conv_weights", "resnet18"]
