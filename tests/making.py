"""Small things that many tests are about: networks, images, data sets, runs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import settings
from torch import Tensor, nn

from csnb import Experiment
from csnb.evaluation import Outcome, score
from csnb.models import LeNet, Normalized
from csnb.runs import Identity, Stage
from csnb.runs.identity import NUMERICS

STRIPES = ("top", "middle", "bottom")
QUICK = {  # a run of the stripes in a quarter of a second
    "epochs": 1,
    "attack_images": "all",
    "attacks": "FGSM, LinfBIA(steps=2)",
    "adversary": "PGD(steps=2)",
}


def examples(number: int) -> settings:
    """So many of a property; more where the profile has more than its usual 100."""
    return settings(max_examples=number * settings.default.max_examples // 100)


def linear(weights: Tensor, bias: Tensor, mean: float = 0.0, std: float = 1.0) -> Normalized:
    """logits = weights @ x + bias for images (1, 2, 2)."""
    layer = nn.Linear(4, len(weights))
    layer.weight.data, layer.bias.data = weights, bias
    return Normalized(nn.Sequential(nn.Flatten(), layer), [mean], [std])


def lenet(channels: int = 1, classes: int = 4) -> Normalized:
    """Of images of 12 pixels a side."""
    body = LeNet((channels, 12, 12), classes)
    return Normalized(body, [0.4] * channels, [0.25] * channels)


def images(batch: int = 3, channels: int = 1, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Random images of 12 pixels a side, each class in turn."""
    return torch.rand(batch, channels, 12, 12), torch.arange(batch) % classes


def stripes(
    file: Path, *, train: int = 120, test: int = 30, classes: tuple[str, ...] = STRIPES, **also: Any
) -> str:
    """An .npz of images whose class shows as the brightest of so many stripes; its path."""
    size, random = 12, np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(classes)}
    for split, count in (("train", train), ("test", test)):
        y = np.arange(count) % len(classes)
        x = random.uniform(0, 0.4, (count, size, size)).astype(np.float32)
        for image, label in zip(x, y, strict=True):
            image[label * size // len(classes) : (label + 1) * size // len(classes)] += 0.5
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    np.savez(file, **arrays | also)
    return str(file)


def costs_csv(file: Path, cost: float = 3.0, classes: tuple[str, ...] = STRIPES) -> str:
    """A cost matrix's CSV with one cost for all mistakes; its path."""
    rows = [[name, *(0 if name == other else cost for other in classes)] for name in classes]
    file.write_text("\n".join(",".join(map(str, row)) for row in [["", *classes], *rows]))
    return str(file)


OUTCOME = Outcome(
    np.array([0, 1, 1, 0]),
    np.array([1, 2]),
    {"clean": np.array([0, 1, 0, 0], np.uint8), "PGD": np.array([0, 1], np.uint8)},
    {"PGD": (0.1, 0.3)},
)
COSTS = np.array([[0, 10.0], [10, 0]])
SCORES = score(OUTCOME, classes=("cat", "dog"), protected=[1], costs=COSTS)
HISTORY = pd.DataFrame({"epoch": [1, 2], "loss": [0.75, 0.5], "fuzziness.0": [0.6, 0.5]})
PROVENANCE = {"commit": "abc", "machine": "a machine"}


def network(seed: int = 0, hidden: int = 3) -> Normalized:
    """Of images (1, 2, 2), two classes."""
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(4, hidden), nn.Linear(hidden, 2)
    return Normalized(nn.Sequential(*layers), (0.5,), (0.25,))


def identity(**changes: Any) -> Identity:
    """Of a made-up run of two classes; ``changes`` to its parameters."""
    parameters = _defaults() | {"epochs": 2} | changes
    return Identity(
        parameters=parameters,
        given=("epochs", *changes),
        classes=("cat", "dog"),
        protected=(1,),
        costs=((0.0, 10.0), (10.0, 0.0)),
        digests={"train": "1" * 16, "test": "2" * 16, "costs": "3" * 16},
        files={},
        numerics=NUMERICS,
    )


@cache
def _defaults() -> dict[str, Any]:
    return Experiment().identity().parameters


def write_run(
    runs: Path, made: Identity | None = None, seed: int = 0, name: str = "", **result: Any
) -> Path:
    """A complete run of the made-up kind, in no time; its folder, named ``name`` and its key."""
    made = made or identity()
    stage = Stage(runs, f"{name}-{made.key}" if name else made.run_id)
    fill(stage, made, seed, **result)
    return stage.publish()


def fill(stage: Stage, made: Identity, seed: int = 0, **result: Any) -> None:
    """Write the made-up run's files; ``seed`` tells two of one identity apart."""
    rows = json.loads(SCORES.to_json(orient="records"))
    content = {"scores": rows, "seconds": {"train": 1.235, "PGD": 2}, "provenance": PROVENANCE}
    predictions = {name: found ^ (seed != 0) for name, found in OUTCOME.predictions.items()}
    stage.write(
        made,
        model=network(seed),
        history=HISTORY.assign(loss=HISTORY["loss"] + seed),
        predictions={"labels": OUTCOME.labels, "attacked": OUTCOME.attacked} | predictions,
        result=content | result,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
