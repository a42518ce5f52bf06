"""advertorch, whose attacks the paper used. The only file that imports it."""

import sys
import types
from importlib import import_module

DEFENSES = "advertorch.defenses"


def _import() -> tuple[types.ModuleType, types.ModuleType]:
    """advertorch 0.2.3 imports ``zero_gradients``, which torch dropped from this module in 1.9.

    It uses it in FAB only. And it imports its defences, one of which brings torchvision with all
    its networks: as long as torch itself takes, and no attack needs them. They come when asked for.
    """
    gradcheck = sys.modules["torch.autograd.gradcheck"]  # the attribute of that name is a function
    if not hasattr(gradcheck, "zero_gradients"):
        gradcheck.zero_gradients = lambda x: x.grad is not None and x.grad.detach_().zero_()
    if "advertorch" in sys.modules:  # somebody else was first
        return import_module("advertorch.attacks"), import_module("advertorch.utils")
    sys.modules[DEFENSES] = types.ModuleType(DEFENSES)
    try:
        import advertorch
    finally:
        del sys.modules[DEFENSES]
    del advertorch.defenses
    advertorch.__getattr__ = _later
    return advertorch.attacks, advertorch.utils


def _later(name: str) -> types.ModuleType:
    """advertorch's attribute, as if it had been imported."""
    if name == "defenses":
        return import_module(DEFENSES)
    raise AttributeError(f"module 'advertorch' has no attribute {name!r}")


attacks, utils = _import()
