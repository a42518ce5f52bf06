"""LeNet's layer ``relu(max_pool2d(conv2d(x), 2))`` as one operation in C++, several times as fast
as torch's three.

``native.cpp`` is compiled at first use, by the system's compiler for this very processor, and kept
in the user's cache. Without a compiler, for other tensors than plain float32 ones on the CPU, and
for what torch traces, transforms or differentiates twice, torch's own operations do the work. The
environment variable ``CSNB_NATIVE=0``, read at first use, switches the compiled code off.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import conv2d, max_pool2d, relu
from torch.utils import _python_dispatch

from csnb.models.compiled import load

SOURCE = Path(__file__).with_name("native.cpp")
IMPORTED_BY = os.getpid()
LARGEST = 1 << 17  # weights; beyond, the matrix products of torch are as fast


def conv_pool_relu(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """``relu(max_pool2d(conv2d(x, weight, bias, padding=padding), 2))``, differentiable as that is.

    x: (B, C, H, W); weight: (K, C, h, w), compiled if h = w = 5; bias: (K,); padding: zeros on each
    side, in pixels. Returns (B, K, (H + 2 padding - h + 1) // 2, (W + 2 padding - w + 1) // 2).
    Sums run in another order than torch's, in one that does not depend on the number of threads.
    Raises what torch raises.
    """
    if _suits(x, weight, bias, padding) and available():
        return _ConvPoolReLU.apply(x, weight, bias, padding)
    return _eager(x, weight, bias, padding)


@cache
def available() -> bool:
    """Whether compiled code is at hand; the first call compiles it if need be."""
    return _library() is not None


def _eager(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return relu(max_pool2d(conv2d(x, weight, bias, padding=padding), 2))


def _watched() -> bool:
    """Whether somebody but autograd follows what is computed.

    A compiler, a tracer, a transform, another mode.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _python_dispatch._get_current_dispatch_mode() is not None
        or forward_ad._current_level >= 0
    )


def _plain(tensor: Tensor | None) -> bool:
    """Whether it is a float32 tensor in the CPU's memory and nothing else, or None."""
    return tensor is None or (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype is torch.float32
        and tensor.layout is torch.strided
        and not tensor.is_neg()
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)  # several gradients at once
    )


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> bool:
    """Whether the compiled code takes these operands, here and now."""
    return (
        not _watched()
        and not torch.is_autocast_enabled("cpu")
        and _plain(x)
        and _plain(weight)
        and _plain(bias)
        and x.dim() == 4
        and weight.shape[1:] == (x.shape[1], 5, 5)
        and 0 < weight.numel() <= LARGEST
        and (bias is None or bias.shape == weight.shape[:1])
        and type(padding) is int
        and padding >= 0
        and min(x.shape[2:]) + 2 * padding >= 6
    )


class _ConvPoolReLU(torch.autograd.Function):
    """The compiled operation.

    Where it declines, for infinite or NaN operands, and for double backward: torch's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        batch, _, height, width = x.shape
        shape = (weight.shape[0], (height + 2 * padding - 4) // 2, (width + 2 * padding - 4) // 2)
        y = x.new_empty(batch, *shape)
        winners = torch.empty((batch + 15) // 16 * 16, *shape, dtype=torch.int8)
        fine = _call("csnb_forward", _sizes(x, weight, padding), x, weight, bias, y, winners)
        ctx.padding = padding
        ctx.save_for_backward(x, weight, bias, winners if fine else None)
        return y if fine else _eager(x, weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, winners = ctx.saved_tensors
        wants = ctx.needs_input_grad[:3]
        create_graph = torch.is_grad_enabled()
        if winners is not None and not create_graph and not _watched() and _plain(gradient):
            dx = x.new_empty(x.shape) if wants[0] else None
            dw = weight.new_empty(weight.shape) if wants[1] or wants[2] else None
            db = bias.new_empty(bias.shape) if wants[2] else None
            if _call(
                "csnb_backward",
                _sizes(x, weight, ctx.padding),
                x,
                weight,
                gradient,
                winners,
                dx,
                dw,
                db,
            ):
                return dx, dw if wants[1] else None, db, None
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            # views, lest a path from one operand to another be counted twice
            views = [
                None if tensor is None else tensor.view_as(tensor) for tensor in (x, weight, bias)
            ]
            y = _eager(*views, ctx.padding)
        wanted = [view for view, wants_it in zip(views, wants, strict=True) if wants_it]
        found = iter(torch.autograd.grad(y, wanted, gradient, create_graph=create_graph))
        return *(next(found) if wants_it else None for wants_it in wants), None


def _sizes(x: Tensor, weight: Tensor, padding: int) -> ctypes.Array:
    # a forked process has torch's OpenMP runtime but not its threads, and would wait for them for
    # ever, as torch itself does
    threads = torch.get_num_threads() if os.getpid() == IMPORTED_BY else 1
    return (ctypes.c_int64 * 7)(*x.shape, weight.shape[0], padding, threads)


def _call(name: str, sizes: ctypes.Array, *tensors: Tensor | None) -> bool:
    """Calls a function of the library. False: it declines. Raises MemoryError."""
    held = [
        None if tensor is None else tensor.contiguous() for tensor in tensors
    ]  # copies live until the call is over
    pointers = (None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in held)
    status = getattr(_library(), name)(sizes, *pointers)
    if status == 2:
        raise MemoryError(f"{name}: no memory for its intermediate results")
    return status == 0


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled code; None if it cannot be had, or is switched off."""
    off = os.environ.get("CSNB_NATIVE") == "0"
    return None if off else load(SOURCE, ("csnb_forward", "csnb_backward"))
