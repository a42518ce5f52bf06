"""advertorch, whose attacks the paper used. The only file that imports it."""

import sys
import types


def _import() -> tuple[types.ModuleType, types.ModuleType]:
    """advertorch 0.2.3 imports ``zero_gradients``, which torch dropped from this module in 1.9.

    It uses it in FAB only.
    """
    gradcheck = sys.modules["torch.autograd.gradcheck"]  # the attribute of that name is a function
    if not hasattr(gradcheck, "zero_gradients"):
        gradcheck.zero_gradients = lambda x: x.grad is not None and x.grad.detach_().zero_()
    from advertorch import attacks, utils

    return attacks, utils


attacks, utils = _import()
