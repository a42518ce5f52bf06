"""First weights from elsewhere: another run's, or a file of tensors; nothing in it is executed."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from csnb.errors import InputError, one_line
from csnb.paths import read_file
from csnb.runs.folder import run_tensors

INSIDE = ("state_dict", "model_state_dict", "model")  # where a checkpoint's file keeps them
PREFIXES = ("module.", "model.", "_orig_mod.")  # of wrappers
UNUSED = ("aux1.", "aux2.", "AuxLogits.")  # second answers of torchvision's, which csnb leaves out


def start_from(model: nn.Module, body: nn.Module, place: str | Path) -> str:
    """Put the weights at ``place`` into ``model``, or into its ``body``; says what was not taken.

    ``place``: a run's folder, a .safetensors, or a state dict that torch saved. The last layer may
    be of other classes, and stays as it is; a first convolution of three channels is summed to
    one. Empty: all were taken. Raises InputError where they are of other layers.
    """
    place = Path(place)
    tensors = run_tensors(place, "init_from") if place.is_dir() else _file_tensors(place)
    whole = {*tensors} == {*model.state_dict()}
    target = model if whole else body
    wanted, inner = target.state_dict(), body.state_dict()
    last = next(reversed(inner), "").rpartition(".")[0]
    last = f"body.{last}" if whole else last
    fresh = [
        name for name, value in wanted.items()
        if name.rpartition(".")[0] == last and name in tensors
        and tensors[name].shape[1:] == value.shape[1:] and len(tensors[name]) != len(value)
    ]  # fmt: skip
    other = {name: wanted[name] for name in fresh}
    try:
        target.load_state_dict({name: _fitted(v, wanted.get(name)) for name, v in tensors.items()
                                if not name.startswith(UNUSED)} | other)  # fmt: skip
    except RuntimeError as error:
        file, reason = file_of(place), one_line(error).split(": ", 1)[-1]
        raise InputError(
            f"init_from: {file} does not hold this model's weights ({reason[:60]}); "
            "allowed: those of the same layers"
        ) from None
    classes = len(tensors[fresh[0]]) if fresh else 0
    return f"{last} is new: {place.name} has {classes} classes" if fresh else ""


def file_of(place: Path) -> Path:
    """The file of weights that ``place`` means: itself, or a run's in that folder."""
    return place if place.is_file() else place / "model.safetensors"


def _file_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors by name, without what wrappers add to their names. Raises InputError."""
    try:
        content = read_file(file)
        if file.suffix == ".safetensors":
            found: object = load(content)
        else:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        while isinstance(found, Mapping) and (inside := [n for n in INSIDE if n in found]):
            found = found[inside[0]]
        if not isinstance(found, Mapping) or not found:
            raise ValueError("it holds no tensors by name")
        found = {str(name): value for name, value in found.items()}
        if not all(isinstance(value, Tensor) for value in found.values()):
            raise ValueError("it holds more than tensors by name")
    except Exception as error:  # torch raises anything from UnpicklingError to EOFError
        raise InputError(
            f"init_from: {file} does not hold weights ({one_line(error)[:80]}); "
            "allowed: a run's folder, a .safetensors, or a state dict of tensors"
        ) from None
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _fitted(value: Tensor, wanted: Tensor | None) -> Tensor:
    """A first convolution's weights (K, 3, h, w), for one channel: grey is all three alike."""
    if wanted is None or wanted.ndim != 4 or value.ndim != 4 or value.shape[1] != 3:
        return value
    return value.sum(1, keepdim=True) if wanted.shape[1] == 1 else value
