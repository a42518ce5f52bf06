"""A network from pixels to logits, and how one is made from a spec."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import InstanceOf
from torch import Tensor, nn

from csnb.data import Dataset
from csnb.errors import InputError, one_line, shown
from csnb.images import Images, batches
from csnb.spec import MODELS, Seed, Spec, checker

# of a network that is given images of another shape than it is made for
REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


_check = checker(data=InstanceOf[Dataset], seed=Seed)


class Normalized(nn.Module):
    """``body((x - mean) / std)``.

    Pixels (B, C, H, W) in [0, 1] to logits (B, m). Section IV, Table I.
    """

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def normalize(self, x: Tensor) -> Tensor:
        """Pixels to the units of the body."""
        return (x - self.mean) / self.std

    def denormalize(self, z: Tensor) -> Tensor:
        """The body's units back to pixels."""
        return z * self.std + self.mean

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.normalize(x))


def build_model(model: str | Spec, data: Dataset, *, seed: int = 0) -> Normalized:
    """A freshly initialised network for ``data``, on the CPU; the same seed gives the same weights.

    ``model``: of `MODELS`, such as ``"lenet(kernels=5)"``. Raises InputError, also where it does
    not take the images.
    """
    _check(data=data, seed=seed)
    units = data.mean, data.std
    return make_model(model, data.image_shape, len(data.classes), *units, seed=seed)


def make_model(
    model: str | Spec,
    image_shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int = 0,
) -> Normalized:
    """As `build_model`, for images (C, H, W) of so many classes, without the images."""
    spec = MODELS.parse(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = _made(spec, image_shape, classes)
    if not isinstance(body, nn.Module):
        raise InputError(f"model: {spec} gives a {type(body).__name__}; allowed: torch.nn.Module")
    return Normalized(body, mean, std)


def _made(spec: Spec, image_shape: tuple[int, int, int], classes: int) -> object:
    """What the spec's function gives; an error of somebody's own is one line."""
    try:
        return spec(image_shape, classes)
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"model: {spec} cannot be made for images {image_shape} and {classes} classes "
            f"({type(error).__name__}: {one_line(error)[:90]}); allowed: what can be"
        ) from error


def body_of(model: nn.Module) -> nn.Module:
    """The network behind the normalisation, where there is one."""
    return model.body if isinstance(model, Normalized) else model


def check_sides(name: str, image_shape: tuple[int, int, int], least: int) -> None:
    """Raises InputError for images that are too small for a network."""
    if min(image_shape[1:]) < least:
        shape = "x".join(map(str, image_shape))
        raise InputError(
            f"model: {name} needs images of {least} pixels a side or more; these have {shape}"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each part's mode as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def check_images(x: Tensor | Images, y: Tensor) -> None:
    """Raises InputError unless ``x`` (N, C, H, W) are pixels in [0, 1], ``y`` (N,) int64."""
    files = isinstance(x, Images)
    if not files and not (isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 4):
        raise InputError(f"x: {_described(x)}; allowed: a tensor of floats, (N, C, H, W)")
    if not (isinstance(y, Tensor) and y.dtype == torch.int64 and y.shape == x.shape[:1]):
        raise InputError(f"y: {_described(y)}; allowed: a tensor of int64, ({len(x)},)")
    if files:  # pixels by the way that they are read
        return
    low, high = (float(v) for v in x.detach().aminmax()) if x.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise InputError(f"x: pixels from {low:g} to {high:g}; allowed: [0, 1]")


def check_labels(y: Tensor, classes: int) -> None:
    """Raises InputError unless labels ``y`` (N,), N > 0, are of ``classes``."""
    least, most = (int(v) for v in y.aminmax())
    if least < 0 or most >= classes:
        raise InputError(f"y: labels from {least} to {most}; allowed: 0 to {classes - 1}")


def check_answers(model: nn.Module, x: Tensor | Images, y: Tensor) -> int:
    """The classes m that ``model`` tells apart; raises InputError as `check_images`.

    Also where there is no image, ``model`` does not take it, or answers with other than two logits
    or more. The model and the random numbers are left as they were.
    """
    check_images(x, y)
    if not x.numel():
        raise InputError(f"x: {_described(x)}; allowed: an image or more")
    x = next(batches(x, [torch.arange(1)]))
    devices = [x.device] if x.is_cuda else []
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices=devices):
        try:
            logits = model(x)
        except REFUSALS as error:
            raise InputError(
                f"model: does not take {_described(x)} ({one_line(error)}); allowed: images of "
                "the shape, type and device that it is made for"
            ) from error
    check_logits(logits)
    check_labels(y, logits.shape[1])
    return logits.shape[1]


@contextmanager
def watched(
    model: nn.Module, x: Tensor | Images, y: Tensor, classes: int | None = None
) -> Iterator[None]:
    """Raises InputError for images as `check_answers` does, and inside without asking ``model``.

    As soon as it answers ``x``, or some of it, with other than ``classes`` logits (default: two or
    more).
    """
    check_images(x, y)
    checked = False

    def look(body: nn.Module, z: tuple[Tensor, ...], logits: Tensor) -> None:
        nonlocal checked
        check_logits(logits, classes)
        if not checked:
            check_labels(y, logits.shape[1])
            checked = True

    hook = body_of(model).register_forward_hook(look)
    try:
        yield
    except REFUSALS as error:
        hook.remove()
        if not isinstance(error, InputError) and x.numel():
            check_answers(model, x, y)  # it may not take the images at all
        if "more than 1 value per channel" in str(error):
            raise InputError(
                "batch_size: a last batch of one image, which batch normalisation cannot take; "
                "allowed: another batch_size, or larger images"
            ) from error
        raise
    finally:
        hook.remove()


def check_logits(logits: Tensor, classes: int | None = None) -> None:
    """Raises InputError unless they are (B, m): ``classes``, or two or more."""
    fit = isinstance(logits, Tensor) and logits.ndim == 2
    if not fit or logits.shape[1] < 2 or classes not in (None, logits.shape[1]):
        wanted = "two or more" if classes is None else classes
        raise InputError(
            f"model: gives {_described(logits)}; allowed: logits (B, m), a class each, m {wanted}"
        )


@torch.no_grad()
def add_offset(model: nn.Module, x: Tensor, classes: Sequence[int], offset: float) -> None:
    """Add ``offset`` to the logits of ``classes``, for good: to the last linear layer's bias.

    ``x``: images (B, C, H, W) on which that is checked. Raises InputError where the network does
    not end in such a layer, and leaves it as it was.
    """
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    with evaluating(model):
        before = model(x)
        wanted = torch.zeros_like(before)
        wanted[:, list(classes)] = offset
        if linear and len(linear[-1].bias) == before.shape[1]:
            linear[-1].bias += wanted[0]
            if torch.allclose(model(x) - before, wanted, atol=1e-3 * max(1.0, abs(offset))):
                return
            linear[-1].bias -= wanted[0]
    raise InputError(
        "offset: the model does not end in a linear layer with a bias; allowed: one that does, or "
        "no offset"
    )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} shaped {tuple(value.shape)}"
    return shown(value)


def conv_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of the convolutions in the order of definition, by name: the W_conv of Eq. 8."""
    modules = body_of(model).named_modules()
    return {name: module.weight for name, module in modules if isinstance(module, nn.Conv2d)}


def learned(model: nn.Module) -> str:
    """A digest of all that a network has learned."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
