"""What a layer does to intervals, and to linear bounds on their way back through it.

A layer without a rule here has none: register one with `rule`, by the exact type of the module.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, linear, max_pool2d, pad

from csnb.errors import InputError

ROUNDINGS = 8  # that a rule makes beyond those of its sums, at most
Weights = Callable[[Tensor], Tensor]  # themselves, their sizes, their squares


@dataclass(frozen=True)
class Box:
    """Intervals that hold a layer's outputs, (B, ...) each.

    ``slack``: how far rounding alone may move them, which ``low`` and ``high`` allow for; None: not
    asked for. ``ball``: of the input under L2, else None.
    """

    low: Tensor
    high: Tensor
    slack: Tensor | None = None
    ball: "Ball | None" = None

    @property
    def size(self) -> Tensor:
        """The largest absolute value of each output."""
        return torch.maximum(self.low.abs(), self.high.abs())

    @property
    def middle(self) -> Tensor:
        return (self.low + self.high) / 2

    @property
    def radius(self) -> Tensor:
        return (self.high - self.low) / 2

    def least(self, a: Tensor) -> Tensor:
        """The least a . z (B, K) of rows ``a`` (B or 1, K, ...) over all z of the box."""
        found = along(a, self.middle) - along(a.abs(), self.radius)
        return found if self.ball is None else torch.maximum(found, self.ball.least(a))


@dataclass(frozen=True)
class Ball:
    """All centre + scale * d with |d| <= eps in L2, and what rounding adds to each value.

    Shaped (B, ...) or (1, ...).
    """

    centre: Tensor
    scale: Tensor
    eps: float
    slack: Tensor | None

    def least(self, a: Tensor) -> Tensor:
        """As `Box.least`."""
        found = along(a, self.centre) - self.eps * (a * self.scale[:, None]).flatten(2).norm(dim=2)
        return found if self.slack is None else found - along(a.abs(), self.slack)


def along(a: Tensor, z: Tensor) -> Tensor:
    """a . z (B, K) for rows ``a`` (B or 1, K, ...) and ``z`` (B or 1, ...)."""
    return (a.flatten(2) @ z.flatten(1)[:, :, None]).squeeze(2)


class Layer(ABC):
    """A layer's rule. ``affine``: it is a linear map and a constant."""

    affine = False

    @abstractmethod
    def forward(self, *boxes: Box, unit: float) -> Box:
        """The box of its outputs. ``unit``: of rounding; 0: sums are exact."""

    @abstractmethod
    def back(self, a: Tensor, *boxes: Box) -> tuple[list[Tensor], Tensor | float]:
        """Rows and constants with a . f(z) >= rows . z + constants (B, K), for z of the boxes."""


class Affine(Layer):
    """A linear map and a constant."""

    affine = True

    @abstractmethod
    def map(self, z: Tensor, weights: Weights = lambda w: w) -> Tensor:
        """``z`` (B, ...) by the map, its weights changed first; without the constant."""

    @abstractmethod
    def transpose(self, a: Tensor, shape: torch.Size) -> Tensor:
        """``a`` (R, ...) by the transposed map: (R, *shape)."""

    @abstractmethod
    def terms(self, shape: torch.Size) -> int:
        """The products that each output sums, for inputs of this shape."""

    def constant(self) -> tuple[Tensor, Tensor] | None:
        """What is added to each output, and a bound on the sizes of its parts."""
        return None

    def forward(self, *boxes: Box, unit: float) -> Box:
        (box,) = boxes
        middle, radius = self.map(box.middle), self.map(box.radius, torch.abs)
        low, high = middle - radius, middle + radius
        if box.ball is not None:
            ball = box.ball
            middle = self.map(ball.centre)
            radius = ball.eps * self.map(ball.scale**2, torch.square).sqrt()
            if ball.slack is not None:
                radius = radius + self.map(ball.slack, torch.abs)
            low, high = torch.maximum(low, middle - radius), torch.minimum(high, middle + radius)
        constant = self.constant()
        if constant is not None:
            low, high = low + constant[0], high + constant[0]
        if not unit:
            return Box(low, high)
        size = self.map(box.size, torch.abs) + (0 if constant is None else constant[1])
        slack = relative(self.terms(box.low.shape[1:]), unit) * size
        return Box(low - slack, high + slack, slack)

    def back(self, a: Tensor, *boxes: Box) -> tuple[list[Tensor], Tensor | float]:
        constant = self.constant()
        added = 0.0 if constant is None else (a * constant[0]).flatten(2).sum(2)
        shape = boxes[0].low.shape[1:]
        return [self.transpose(a.flatten(0, 1), shape).unflatten(0, a.shape[:2])], added


def relative(terms: int, unit: float) -> float:
    """By which sums of so many rounded products may be off, in any order, for sizes that sum to 1.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, lemma 3.1.
    """
    n = (terms + ROUNDINGS) * unit
    return n / (1 - n)


@dataclass(frozen=True)
class Linear(Affine):
    module: nn.Linear

    def map(self, z: Tensor, weights: Weights = lambda w: w) -> Tensor:
        return linear(z, weights(self.module.weight))

    def transpose(self, a: Tensor, shape: torch.Size) -> Tensor:
        return a @ self.module.weight

    def terms(self, shape: torch.Size) -> int:
        return self.module.in_features

    def constant(self) -> tuple[Tensor, Tensor] | None:
        bias = self.module.bias
        return None if bias is None else (bias, bias.abs())


@dataclass(frozen=True)
class Conv(Affine):
    module: nn.Conv2d

    def map(self, z: Tensor, weights: Weights = lambda w: w) -> Tensor:
        m = self.module
        return conv2d(z, weights(m.weight), None, m.stride, m.padding, m.dilation, m.groups)

    def transpose(self, a: Tensor, shape: torch.Size) -> Tensor:
        m = self.module
        over = [  # pixels at the far edge that no kernel reached
            shape[1 + i] + 2 * m.padding[i] - m.dilation[i] * (m.kernel_size[i] - 1) - 1
            - (a.shape[2 + i] - 1) * m.stride[i]
            for i in (0, 1)
        ]  # fmt: skip
        return conv_transpose2d(a, m.weight, None, m.stride, m.padding, over, m.groups, m.dilation)

    def terms(self, shape: torch.Size) -> int:
        return self.module.weight[0].numel()

    def constant(self) -> tuple[Tensor, Tensor] | None:
        bias = self.module.bias
        return None if bias is None else (bias[:, None, None], bias.abs()[:, None, None])


@dataclass(frozen=True)
class BatchNorm(Affine):
    """In evaluation: by the running mean and variance, whatever the module's mode."""

    module: nn.BatchNorm2d

    @property
    def factor(self) -> Tensor:
        m = self.module
        factor = (m.running_var + m.eps).rsqrt()
        return (factor if m.weight is None else factor * m.weight)[:, None, None]

    def map(self, z: Tensor, weights: Weights = lambda w: w) -> Tensor:
        return z * weights(self.factor)

    def transpose(self, a: Tensor, shape: torch.Size) -> Tensor:
        return a * self.factor

    def terms(self, shape: torch.Size) -> int:
        return 1

    def constant(self) -> tuple[Tensor, Tensor]:
        shift = -self.module.running_mean[:, None, None] * self.factor
        if self.module.bias is None:
            return shift, shift.abs()
        bias = self.module.bias[:, None, None]
        return shift + bias, shift.abs() + bias.abs()


# of images so high and wide: kernel, stride and padding, (height, width) each
Window = Callable[[Sequence[int]], tuple[Sequence[int], Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class AveragePool(Affine):
    window: Window

    def map(self, z: Tensor, weights: Weights = lambda w: w) -> Tensor:
        kernel, stride, padding = self.window(z.shape[2:])
        share = weights(z.new_tensor(1 / math.prod(kernel))) * math.prod(kernel)
        return share * avg_pool2d(z, kernel, stride, padding)

    def transpose(self, a: Tensor, shape: torch.Size) -> Tensor:
        kernel, stride, padding = self.window(shape[1:])
        over = [
            shape[1 + i] + 2 * padding[i] - kernel[i] - (a.shape[2 + i] - 1) * stride[i]
            for i in (0, 1)
        ]
        each = a.new_full((shape[0], 1, *kernel), 1 / math.prod(kernel))
        return conv_transpose2d(a, each, None, stride, padding, over, shape[0])

    def terms(self, shape: torch.Size) -> int:
        return math.prod(self.window(shape[1:])[0])


class Flatten(Affine):
    def map(self, z: Tensor, weights: Weights = lambda w: w) -> Tensor:
        return z.flatten(1)

    def transpose(self, a: Tensor, shape: torch.Size) -> Tensor:
        return a.reshape(-1, *shape)

    def terms(self, shape: torch.Size) -> int:
        return 0

    def forward(self, *boxes: Box, unit: float) -> Box:
        """Nothing is rounded, and a ball remains one."""
        box, ball = boxes[0], boxes[0].ball
        if ball is not None:
            slack = None if ball.slack is None else ball.slack.flatten(1)
            ball = Ball(ball.centre.flatten(1), ball.scale.flatten(1), ball.eps, slack)
        return Box(box.low.flatten(1), box.high.flatten(1), None, ball)


class Add(Layer):
    """A residual sum."""

    affine = True

    def forward(self, *boxes: Box, unit: float) -> Box:
        low, high = boxes[0].low + boxes[1].low, boxes[0].high + boxes[1].high
        if not unit:
            return Box(low, high)
        slack = relative(1, unit) * (boxes[0].size + boxes[1].size)
        return Box(low - slack, high + slack, slack)

    def back(self, a: Tensor, *boxes: Box) -> tuple[list[Tensor], Tensor | float]:
        return [a, a], 0.0


class ReLU(Layer):
    def forward(self, *boxes: Box, unit: float) -> Box:
        return Box(boxes[0].low.relu(), boxes[0].high.relu())

    def back(self, a: Tensor, *boxes: Box) -> tuple[list[Tensor], Tensor | float]:
        """CROWN: above, the line through both ends; below, z or 0, whichever leaves less between.

        Zhang et al. 2018.
        """
        low, high = boxes[0].low, boxes[0].high
        above = high.relu() / (high.relu() - low.clamp(max=0)).clamp_min(torch.finfo(a.dtype).tiny)
        below = (high > -low).to(a.dtype)
        rise = -above * low.clamp(max=0)  # of the line at z = 0
        up, down = a.clamp_min(0), a.clamp_max(0)
        return [up * below[:, None] + down * above[:, None]], along(down, rise)


@dataclass(frozen=True)
class MaxPool(Layer):
    window: Window

    def forward(self, *boxes: Box, unit: float) -> Box:
        settings = self.window(boxes[0].low.shape[2:])
        return Box(max_pool2d(boxes[0].low, *settings), max_pool2d(boxes[0].high, *settings))

    def back(self, a: Tensor, *boxes: Box) -> tuple[list[Tensor], Tensor | float]:
        """Below: the input whose least value is largest. Above: the same where no other reaches
        it, else the largest value.
        """
        low, high = self._windows(boxes[0].low), self._windows(boxes[0].high)
        winner = low.argmax(-1, keepdim=True)
        others = high.scatter(-1, winner, -torch.inf).amax(-1)
        sure = (others <= low.amax(-1)).to(a.dtype)
        up, down = a.clamp_min(0), a.clamp_max(0)
        rows = self._spread(up + down * sure[:, None], winner.squeeze(-1), boxes[0].low.shape[1:])
        return [rows], along(down, (1 - sure) * high.amax(-1))

    def _windows(self, z: Tensor) -> Tensor:
        """(B, C, H', W', inputs of a window)."""
        kernel, stride, (up, left) = self.window(z.shape[2:])
        padded = pad(z, (left, left, up, up), value=-torch.inf)
        rows = padded.unfold(2, kernel[0], stride[0])
        return rows.unfold(3, kernel[1], stride[1]).flatten(4)

    def _spread(self, a: Tensor, winner: Tensor, shape: torch.Size) -> Tensor:
        """Coefficients (B, K, C, H', W') to where the winners stand, (B, K, *shape)."""
        (_, width), stride, (up, left) = self.window(shape[1:])
        top = torch.arange(winner.shape[2], device=a.device)[:, None] * stride[0] - up
        side = torch.arange(winner.shape[3], device=a.device) * stride[1] - left
        row, column = top + winner // width, side + winner % width
        place = (row * shape[2] + column).flatten(2)[:, None]
        coefficients = a.expand(len(winner), -1, -1, -1, -1).flatten(3)
        found = a.new_zeros(*coefficients.shape[:3], shape[1] * shape[2])
        return found.scatter_add(3, place.expand_as(coefficients), coefficients).unflatten(
            3, shape[1:]
        )


Rule = Callable[[Any], Sequence[Layer]]
RULES: dict[type[nn.Module], Rule] = {}


def rule(*kinds: type[nn.Module]) -> Callable[[Rule], Rule]:
    """The decorator of a function from a module to the layers that it is made of, in order.

    For modules of exactly these types.
    """

    def add(make: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, make))
        return make

    return add


def refused(what: str) -> InputError:
    """Of what there is no rule for."""
    names = ", ".join(sorted(kind.__name__ for kind in RULES))
    return InputError(f"bounds: no rule for {what}; allowed: {names}, their functions, sums")


@rule(nn.Identity, nn.Dropout, nn.Dropout2d)
def _nothing(module: nn.Module) -> list[Layer]:
    return []


@rule(nn.Linear)
def _linear(module: nn.Linear) -> list[Layer]:
    return [Linear(module)]


@rule(nn.Conv2d)
def _conv(module: nn.Conv2d) -> list[Layer]:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise refused(f"Conv2d with padding {module.padding!r} of {module.padding_mode}")
    return [Conv(module)]


@rule(nn.BatchNorm2d)
def _batch_norm(module: nn.BatchNorm2d) -> list[Layer]:
    if not module.track_running_stats:
        raise refused("BatchNorm2d without running statistics")
    return [BatchNorm(module)]


@rule(nn.ReLU)
def _relu(module: nn.ReLU) -> list[Layer]:
    return [ReLU()]


@rule(nn.Flatten)
def _flatten(module: nn.Flatten) -> list[Layer]:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise refused(f"Flatten({module.start_dim}, {module.end_dim})")
    return [Flatten()]


@rule(nn.MaxPool2d)
def _max_pool(module: nn.MaxPool2d) -> list[Layer]:
    if module.ceil_mode or module.return_indices or _pair(module.dilation) != (1, 1):
        raise refused("MaxPool2d with ceil_mode, indices or dilation")
    kernel, stride, padding = map(_pair, (module.kernel_size, module.stride, module.padding))
    return [MaxPool(lambda sides: (kernel, stride, padding))]


@rule(nn.AvgPool2d)
def _average_pool(module: nn.AvgPool2d) -> list[Layer]:
    padding = _pair(module.padding)
    whole = padding == (0, 0) or module.count_include_pad
    if module.ceil_mode or module.divisor_override or not whole:
        raise refused("AvgPool2d with ceil_mode, a divisor or shorter windows at the edge")
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    return [AveragePool(lambda sides: (kernel, stride, padding))]


@rule(nn.AdaptiveAvgPool2d)
def _adaptive_average_pool(module: nn.AdaptiveAvgPool2d) -> list[Layer]:
    return [AveragePool(_even(module))]


@rule(nn.AdaptiveMaxPool2d)
def _adaptive_max_pool(module: nn.AdaptiveMaxPool2d) -> list[Layer]:
    if module.return_indices:
        raise refused("AdaptiveMaxPool2d with indices")
    return [MaxPool(_even(module))]


def _even(module: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) -> Window:
    """Windows of one size, that do not overlap."""

    def window(sides: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        wanted = _pair(module.output_size)
        out = [side if want is None else want for side, want in zip(sides, wanted, strict=True)]
        if any(side % want for side, want in zip(sides, out, strict=True)):
            raise refused(f"{type(module).__name__} from {tuple(sides)} to {tuple(out)}")
        kernel = [side // want for side, want in zip(sides, out, strict=True)]
        return kernel, kernel, (0, 0)

    return window


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, list | tuple) else (value, value)
