"""A run to take away: its network without csnb, checked against the run, and a model card."""

import io
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from csnb.card import model_card
from csnb.errors import InputError, one_line
from csnb.images import batches
from csnb.paths import expand
from csnb.pretrained import image_shape, load_model, run_data
from csnb.progress import say
from csnb.runs import read_run, weights_digest

IMAGES = 1000  # on which the files must answer as the run does
SIZES = (1, 7, 64)  # of batches, in turn
CLOSE = 1e-3  # of the largest logit: how far another order of sums may move one
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export(run: str | Path, folder: str | Path) -> Path:
    """A finished run's network as files that need no csnb, in a new ``folder``; returns it.

    ``model.pt2`` (torch.export) and ``model.onnx``: pixels (N, C, H, W) in [0, 1], float32, to
    logits (N, m), normalisation and offset inside, N free. ``README.md``: a model card, with the
    fields of Hugging Face. ``config.json``: classes, shapes and how both were checked: on a
    thousand images, the run's test images as far as they are at hand, then noise. Raises
    InputError, also where a file answers otherwise than the run.
    """
    _check_packages()
    target = expand(folder, "folder").absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"folder: {target} is there already; allowed: a new or empty one")
    run = expand(run, "run")
    result, model = read_run(run), load_model(run)
    model = model.to(memory_format=torch.contiguous_format)
    shape = image_shape(result)
    x, real = _images(result, shape)
    with _aside(target) as place:
        _write(model, x[:2], place)
        found = {
            "torch.export": _compare(model, _of_torch(place / "model.pt2"), x),
            "onnxruntime": _compare(model, _of_onnx(place / "model.onnx"), x),
        }
        checked = {"images": len(x), "of the test set": real, "largest difference": found}
        config = _config(result, shape, checked)
        text = json.dumps(config, indent=1, ensure_ascii=False)
        (place / "config.json").write_text(text, encoding="utf-8")
        card = model_card(run, result, shape, checked)
        (place / "README.md").write_text(card, encoding="utf-8")
    say(f"exported {target.name} ({len(x)} images answered alike, {real} of the test set)")
    return target


def _check_packages() -> None:
    """Raises InputError unless what writes and runs ONNX is installed."""
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError:
            raise InputError(
                f"export: {name} is not installed; allowed: after pip install 'csnb[export]'"
            ) from None


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside, put in its place in one step; nothing is left where that fails."""
    place = target.with_name(f".{target.name}.new")
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
        if target.exists():
            target.rmdir()  # it is empty
        place.rename(target)
    except OSError as error:
        raise InputError(
            f"folder: cannot write {target} ({error.strerror}); allowed: a writable place"
        ) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _images(result: dict[str, Any], shape: tuple[int, ...]) -> tuple[Tensor, int]:
    """A thousand images (N, C, H, W), and how many of them are the run's test images."""
    found = torch.empty(0, *shape)
    try:
        x = run_data(result).x_test
        found = next(batches(x, [torch.arange(min(IMAGES, len(x)))]))
    except InputError:  # not at hand, or another content
        pass
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(IMAGES - len(found), *shape, generator=random)
    return torch.cat([found, noise]), len(found)


def _write(model: nn.Module, example: Tensor, place: Path) -> None:
    """Both files. Raises InputError where the network cannot be followed."""
    batch = torch.export.Dim("batch", min=1, max=2**20)
    try:
        with (
            torch.no_grad(),
            warnings.catch_warnings(action="ignore"),  # torch's, about its own insides
            redirect_stdout(io.StringIO()),  # onnxscript's, about its rules
        ):
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, place / "model.pt2")
            torch.onnx.export(
                program, (), place / "model.onnx", dynamo=True, external_data=False,
                input_names=["pixels"], output_names=["logits"], verbose=False,
            )  # fmt: skip
    except Exception as error:  # a tracer raises types of its own
        raise InputError(
            f"export: the network cannot be written ({type(error).__name__}: "
            f"{one_line(error)[:120]}); allowed: one that torch.export follows"
        ) from error


def _of_torch(file: Path) -> Any:
    module = torch.export.load(file).module()
    return lambda x: module(x)


def _of_onnx(file: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"pixels": x.numpy()})[0])


@torch.no_grad()
def _compare(model: nn.Module, other: Any, x: Tensor) -> float:
    """The largest difference of two networks' logits. Raises InputError where it is no rounding."""
    worst, at, turn = 0.0, 0, 0
    while at < len(x):
        images = x[at : at + SIZES[turn % len(SIZES)]]
        mine, theirs = model(images), other(images)
        near = CLOSE * max(1.0, float(mine.abs().max()))
        gap = float((mine - theirs).abs().max()) if mine.shape == theirs.shape else np.inf
        if not gap <= near:
            raise InputError(
                f"export: a file's logits differ by {gap:g} from the run's; allowed: {near:g}"
            )
        worst, at, turn = max(worst, gap), at + len(images), turn + 1
    return worst


def _config(
    result: dict[str, Any], shape: tuple[int, ...], checked: dict[str, Any]
) -> dict[str, Any]:
    """What a program needs to know."""
    return {
        "input": {"name": "pixels", "shape": ["N", *shape], "type": "float32", "range": [0, 1]},
        "output": {"name": "logits", "shape": ["N", len(result["classes"])], "type": "float32"},
        "id2label": dict(enumerate(result["classes"])),
        "protected": [result["classes"][p] for p in result["protected"]],
        "weights_sha256": weights_digest(result),
        "checked": checked,
    }
