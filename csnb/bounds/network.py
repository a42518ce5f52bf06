"""Bounds of a whole network: forward by intervals, back by lines."""

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from csnb.bounds.layers import RULES, Add, Ball, Box, Flatten, Layer, along, refused
from csnb.errors import InputError, one_line

UNIT = 2.0**-24  # of rounding to float32
MADE = 16  # roundings that make an image and normalise it, at most


class Threat(Protocol):
    """Of `csnb.ThreatModel`, what bounds ask for."""

    eps: float
    norm: Literal["linf", "l2"]
    space: Literal["normalized", "pixel"]
    bounded: bool


class Network(Protocol):
    """Of `csnb.models.Normalized`, what bounds ask for."""

    body: nn.Module
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Step:
    """A layer, and the places of the values that it takes; its own is the next."""

    layer: Layer
    inputs: tuple[int, ...]


class Bounds:
    """Lower bounds on linear functions of a network's logits, over all that an attacker can do.

    ``model``: its layers are looked up once, their weights at every call; batch normalisation and
    dropout count as in evaluation. Raises InputError for a layer without a rule.
    """

    def __init__(self, model: Network) -> None:
        self.model = model
        self.steps = _steps(model.body)

    def lower(
        self, x: Tensor, rows: Tensor, threat: Threat, *, eps: float | None = None,
        lines: bool = False, unit: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """The least that row . logits can be, (B, K), or less.

        ``x``: pixels (B, C, H, W). ``rows``: (B, K, m) or (1, K, m). ``eps``: instead of the
        threat's. By intervals (IBP, Gowal et al. 2018), the rows folded into the affine layers
        that the network ends in; with ``lines`` also by CROWN's linear bounds back to the image,
        those between by intervals (CROWN-IBP, Zhang et al. 2020). ``unit``: of rounding, which the
        bounds then allow for; 0: they hold for sums without error.
        """
        boxes = self.boxes(x, threat, eps=eps, unit=unit)
        return self.back(boxes, rows, lines=lines)

    def boxes(
        self, x: Tensor, threat: Threat, *, eps: float | None = None, unit: float = 0.0
    ) -> list[Box]:
        """The intervals of the image and of every layer, the logits last."""
        boxes = [self._region(x, threat, threat.eps if eps is None else eps, unit)]
        for step in self.steps:
            boxes.append(step.layer.forward(*(boxes[i] for i in step.inputs), unit=unit))
        return boxes

    def back(self, boxes: list[Box], rows: Tensor, *, lines: bool) -> Tensor:
        """Rows of the logits back through the layers, (B, K).

        To the last that is not affine; with ``lines`` to the image.
        """
        waiting, found = {len(self.steps): rows}, torch.zeros((), dtype=rows.dtype)
        found = found.to(rows.device)
        for place in range(len(self.steps), -1, -1):
            a = waiting.pop(place, None)
            if a is None:
                continue
            step = self.steps[place - 1] if place else None
            if step is None or not (lines or step.layer.affine):
                found = found + boxes[place].least(a)
                continue
            if boxes[place].slack is not None:
                found = found - along(a.abs(), boxes[place].slack)
            parts, constant = step.layer.back(a, *(boxes[i] for i in step.inputs))
            found = found + constant
            for i, part in zip(step.inputs, parts, strict=True):
                waiting[i] = waiting[i] + part if i in waiting else part
        return found

    def _region(self, x: Tensor, threat: Threat, eps: float, unit: float) -> Box:
        """Where the attacker's image can be, in the units of the network's body."""
        mean, std = self.model.mean, self.model.std
        z, scale = (x - mean) / std, 1 / std if threat.space == "pixel" else torch.ones_like(std)
        low, high = z - eps * scale, z + eps * scale
        if threat.bounded:
            low, high = torch.maximum(low, -mean / std), torch.minimum(high, (1 - mean) / std)
        slack = None
        if unit:
            slack = MADE * unit * (torch.maximum(low.abs(), high.abs()) + (mean / std).abs())
            low, high = low - slack, high + slack
        ball = None
        if threat.norm == "l2":
            more = 1 + (x[0].numel() + MADE) * unit  # the norm that an attack computes is rounded
            ball = Ball(z, scale.expand_as(z[:1]), eps * more, slack)
        return Box(low, high, None, ball)


@torch.no_grad()
def certified(
    model: Network, x: Tensor, rows: Tensor, threat: Threat, *, lines: bool = True
) -> Tensor:
    """As `Bounds.lower`, the better of both kinds, sound for float32: (B, K) float64.

    It holds for what a float32 network computes in evaluation, whose sums run in any order: all is
    computed in float64, and each layer's interval is widened by the a priori bound on its
    rounding. Not for TensorFloat-32, half precision, nor convolutions by way of a transform.
    """
    return Certifier(model)(x, rows, threat, lines=lines)


class Certifier:
    """`certified` for several batches of one network, whose weights are copied once."""

    def __init__(self, model: Network) -> None:
        self.bounds = Bounds(copy.deepcopy(model).double())

    @torch.no_grad()
    def __call__(self, x: Tensor, rows: Tensor, threat: Threat, *, lines: bool = True) -> Tensor:
        boxes = self.bounds.boxes(x.double(), threat, unit=UNIT)
        rows = rows.double()
        # logits are subtracted in float32
        last = (1 + UNIT) * UNIT * along(rows.abs(), boxes[-1].size)
        found = self.bounds.back(boxes, rows, lines=False)
        if lines:
            found = torch.maximum(found, self.bounds.back(boxes, rows, lines=True))
        return found - last


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in RULES or super().is_leaf_module(module, name)


MODULES: Mapping[Any, type[nn.Module]] = {  # what a function or a method of tensors is, too
    **dict.fromkeys((torch.relu, F.relu, "relu", "relu_"), nn.ReLU),
    F.max_pool2d: nn.MaxPool2d, F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d, F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}  # fmt: skip
SUMS = (torch.add, operator.add, operator.iadd, "add", "add_")
SHAPES = (torch.flatten, "flatten", "reshape", "view")


def _steps(body: nn.Module) -> list[Step]:
    """The network as a list of layers. Raises InputError for what has no rule."""
    root = nn.Sequential(body)
    with _followed(body):
        graph = _Tracer().trace(root)
    steps: list[Step] = []
    places: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            places[node] = 0
        elif node.op == "output":
            return _ending(steps, places.get(node.args[0]))
        elif not _is_of_shape(node):
            places[node] = _append(steps, root, node, places)
    raise refused(f"{type(body).__name__}, which returns nothing")


@contextmanager
def _followed(body: nn.Module) -> Iterator[None]:
    """Errors of following a network in one line."""
    try:
        yield
    except Exception as error:  # of somebody's own code, met with stand-ins for tensors
        raise InputError(
            f"bounds: {type(body).__name__} cannot be followed ({one_line(error)}); allowed: "
            "layers in a fixed order"
        ) from None


def _ending(steps: list[Step], place: int | None) -> list[Step]:
    if place != len(steps):
        raise refused("a network whose last layer is not its output")
    return steps


def _is_of_shape(node: fx.Node) -> bool:
    """Whether a node asks for a shape and not for values: x.size(0), x.shape[0]."""
    asked = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
    return asked or (node.target is operator.getitem and _is_of_shape(node.args[0]))


def _append(steps: list[Step], root: nn.Module, node: fx.Node, places: dict[fx.Node, int]) -> int:
    """Add what a node of the graph does; returns the place of its value."""
    inputs = [places[n] for n in node.args if isinstance(n, fx.Node) and n in places]
    if node.op == "call_module":
        module = root.get_submodule(node.target)
        name = f"{node.target.removeprefix('0').removeprefix('.')} ({type(module).__name__})"
        make = RULES.get(type(module))
        if make is None or len(inputs) != 1:
            raise refused(f"layer {name}")
        layers = make(module)
    else:
        layers = _function(node, len(inputs))
    for layer in layers:
        steps.append(Step(layer, tuple(inputs)))
        inputs = [len(steps)]
    return inputs[0]


def _function(node: fx.Node, inputs: int) -> Sequence[Layer]:
    """What a function or a method of tensors is made of."""
    target, given, named = node.target, list(node.args[inputs:]), dict(node.kwargs)
    if inputs == 2 and target in SUMS and not given and not named:
        return [Add()]
    if inputs == 1 and target in SHAPES and _is_flat(target, given, named):
        return [Flatten()]
    if inputs == 1 and target in MODULES and not any(isinstance(v, fx.Node) for v in given):
        kind = MODULES[target]
        return RULES[kind](kind(*given, **named))
    raise refused(str(getattr(target, "__name__", target)))


def _is_flat(target: Any, given: list[Any], named: dict[str, Any]) -> bool:
    """Whether one axis remains beside the batch's: flatten(1), view(x.size(0), -1)."""
    if target in ("flatten", torch.flatten):
        asked = dict(zip(("start_dim", "end_dim"), given, strict=False)) | named
        return {"start_dim": 0, "end_dim": -1} | asked == {"start_dim": 1, "end_dim": -1}
    given = list(given[0]) if len(given) == 1 and isinstance(given[0], list | tuple) else given
    return not named and len(given) == 2 and given[1] == -1 and _is_batch_size(given[0])


def _is_batch_size(value: Any) -> bool:
    if not isinstance(value, fx.Node) or not _is_of_shape(value):
        return False
    return value.args[1:] == (0,)
