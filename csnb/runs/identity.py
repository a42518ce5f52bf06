"""What a run is: its parameters and the content of its inputs."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from csnb.costs import read_costs
from csnb.data import describe
from csnb.data.sources import data_folder
from csnb.errors import InputError
from csnb.paths import CHECKOUT, read_file, resolve
from csnb.spec import source_digest

NUMERICS = 2  # raised whenever csnb's numbers change: of training, attacks, data or scores
BY_CONTENT = (  # digests say it
    "dataset", "protected_class", "miss_cost", "alarm_cost", "cost_matrix", "init_from",
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """A run by content, wherever its inputs lie.

    ``parameters``: canonical, those that shape the result, a file by its name. ``given``: which of
    them are not the defaults: only these count, so that a new parameter changes no run.
    ``classes``: names. ``protected``: indices. ``costs``: (m, m), predicted by true. ``digests``:
    of each input's content: "train" and "test" (the data set's splits), "costs", "init_from" (first
    weights), somebody's "file.py". ``files``: where the inputs that are files lay; of a data set
    that was found by name, the name; of a run committed with csnb a file of its checkout,
    relative to that. ``numerics``: csnb's `NUMERICS`.
    """

    parameters: dict[str, Any]
    given: tuple[str, ...]
    classes: tuple[str, ...]
    protected: tuple[int, ...]
    costs: tuple[tuple[float, ...], ...]
    digests: dict[str, str]
    files: dict[str, str]
    numerics: int

    @cached_property
    def key(self) -> str:
        """Ten hexadecimal digits: equal for equal content, whatever the numbers of csnb were."""
        shape = {k: self.parameters[k] for k in self.given if k not in BY_CONTENT}
        content = [shape, list(self.protected), self.digests]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @cached_property
    def run_id(self) -> str:
        """Name of the run's folder: readable, then `key`."""
        name, method = Path(self.parameters["dataset"]).stem, self.parameters["method"]
        classes = "+".join(map(str, self.protected))
        head = f"{name}-{method.partition('(')[0]}-p{classes}-s{self.parameters['seed']}"
        return f"{re.sub(r'[^A-Za-z0-9_+.-]', '_', head)[:80].lstrip('.')}-{self.key}"

    def differs(self, other: Self) -> list[str]:
        """The inputs that changed between two runs of the same parameters; empty for other runs."""
        if self._asked() != other._asked():
            return []
        kinds = sorted(self.digests.keys() | other.digests.keys())
        changed = [k for k in kinds if self.digests.get(k) != other.digests.get(k)]
        changed += ["dataset"] if self.classes != other.classes else []
        return list(dict.fromkeys(self.named(kind) for kind in changed))

    def _asked(self) -> tuple[object, ...]:
        """What a person asked for, in any notation of the class."""
        names = [name for name in self.given if name != "protected_class"]
        return names, [self.parameters.get(name) for name in names], self.protected

    def named(self, kind: str) -> str:
        """An input as a person knows it."""
        name = {"train": "dataset", "test": "dataset", "costs": "cost_matrix"}.get(kind, kind)
        return Path(str(self.files.get(name) or self.parameters.get(name) or name)).name

    def to_json(self) -> dict[str, Any]:
        """As result.json holds it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, result: Mapping[str, Any]) -> Self:
        """Out of a result.json. Raises KeyError or TypeError for what is none."""
        values = {name: result[name] for name in cls.__dataclass_fields__}
        values["costs"] = tuple(map(tuple, values["costs"]))
        for name in ("given", "classes", "protected"):
            values[name] = tuple(values[name])
        return cls(**values)


def costs_digest(costs: np.ndarray) -> str:
    """Of a cost matrix's numbers."""
    return hashlib.sha256(np.ascontiguousarray(costs, dtype=float).tobytes()).hexdigest()[:16]


def weights_digest(folder: str | Path) -> str:
    """Of the weights of the run in ``folder``, or in a file. Raises InputError."""
    place = resolve(folder)
    file = place if place.is_file() else place / "model.safetensors"
    try:
        return hashlib.sha256(read_file(file)).hexdigest()[:16]
    except OSError as error:
        raise InputError(
            f"init_from: {file} cannot be read ({error.strerror}); allowed: a run, or a file"
        ) from None


def changed_inputs(identity: Identity) -> list[str]:
    """The inputs of a run whose files lie where they lay, with another content.

    None of what is gone, or another user's alone.
    """
    now: dict[str, Any] = {}
    for kind, file in identity.files.items():
        if kind == "dataset" and not Path(file).is_absolute():  # found by name
            file = str(data_folder() / f"{file}.npz")
        file = str(CHECKOUT / file)
        if not _within_reach(Path(file)):
            continue
        try:
            now |= _digests_of(kind, file, identity)
        except (InputError, OSError):  # another content it has for sure
            now |= {{"dataset": "train", "cost_matrix": "costs"}.get(kind, kind): "unreadable"}
    known = identity.digests | {"dataset": identity.classes}
    wrong = [kind for kind, digest in now.items() if known.get(kind, digest) != digest]
    return list(dict.fromkeys(identity.named(kind) for kind in wrong))


def _within_reach(place: Path) -> bool:
    """Whether an input is there, and this user may look at it."""
    try:
        for file in (place, place / "model.safetensors"):
            if file.is_file():
                file.open("rb").close()
        return place.exists()
    except PermissionError:
        return False


def _digests_of(kind: str, file: str, identity: Identity) -> dict[str, Any]:
    """Of an input as it lies there now. No code is run: folders of runs come from anybody."""
    if kind == "init_from":
        return {kind: weights_digest(file)}
    if kind == "dataset" and Path(file).is_dir():
        now = describe(file, image_size=identity.parameters.get("image_size", 0))
        return now.digests | {kind: now.classes}
    if not Path(file).is_file():  # a pipe or a device might never end
        raise InputError(f"{kind}: {file} is not a file")
    if kind == "dataset":
        now = describe(file)
        return now.digests | {kind: now.classes}
    if kind == "cost_matrix":
        return {"costs": costs_digest(read_costs(file, identity.classes))}
    return {kind: source_digest(Path(file).read_bytes())}
