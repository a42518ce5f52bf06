"""Every parameter of a run, once, with type, unit and range; and what the run is by content."""

import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from csnb.attacks import ATTACKS, ThreatModel
from csnb.attacks.threat import Bounded, Norm, Radius, Robust, Space
from csnb.costs import check_protected, costs_from_table, protect, read_costs
from csnb.data import Dataset, describe
from csnb.data.dataset import check_counts, class_indices
from csnb.data.sources import data_path, find_source
from csnb.errors import InputError, one_line, shown
from csnb.methods import METHODS
from csnb.models import MODELS
from csnb.params import read_params
from csnb.paths import CHECKOUT, expand, resolve
from csnb.recipe import (
    Augment,
    BatchSize,
    Epochs,
    HalveEvery,
    Momentum,
    Optimizer,
    Rate,
    Recipe,
    Schedule,
)
from csnb.runs.identity import NUMERICS, Identity, costs_digest, weights_digest
from csnb.spec import Count, Real, Seed, Spec, explain, plain, quoted

PLACE = {"data_root", "runs", "device", "threads"}  # where a run happens: no part of what it is
SPECS = ("model", "method", "adversary", "attacks", "monitor")
PLAIN = (str, int, float, bool, list, tuple, dict, types.NoneType, np.generic)
NEAR = 0.8  # how alike a name of no plain value must be: `data` is not meant to be `dataset`


class Experiment(BaseModel):
    """All parameters of one run: one method, one protected class, one data set.

    Unknown names, wrong types and impossible values raise InputError before any work. Numbers may
    be strings such as "1e-3" or "8/255". Attacks, methods and models are specs, such as
    "PGD(steps=100)"; the fields hold them in their shortest form. The descriptions are those of the
    parameters cell of ``protect.ipynb``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    dataset: str = Field(
        "digits", description="of csnb list datasets, an .npz, a folder, or file.py:function"
    )
    image_size: Count = Field(
        0, ge=0, le=4096, description="pixels a side that a folder's pictures get; 0: as they are"
    )
    data_root: str = Field("", description="folder of the data sets; empty: $CSNB_DATA, else data")
    model: str = Field("lenet", description="of csnb list models, options in parentheses")
    init_from: str = Field(
        "", description="run folder or weights file to start from; empty: random"
    )

    method: str = Field("CSA", description="of csnb list methods, options in parentheses")
    protected_class: int | str | tuple[int | str, ...] = Field(
        0, description="class p to protect: index, or name as text; several: 3, 8"
    )
    miss_cost: Real = Field(10.0, ge=0, description="of p taken for another class; others: 1")
    alarm_cost: Real = Field(10.0, ge=0, description="of another taken for p; Eq. 3: as miss_cost")
    cost_matrix: str = Field(
        "", description="CSV, numbers, {predicted: {true: cost}}; empty: miss and alarm cost"
    )
    offset: str = Field(
        "",
        description="added to p's logit, by cost or false alarms: cost, 0.01, certified 0.01",
    )
    validation: Real = Field(
        0.1, gt=0, lt=1, description="share of training images held out to choose the offset on"
    )

    epochs: Epochs = 20
    batch_size: BatchSize = 32
    optimizer: Optimizer = "sgd"
    lr: Rate = 0.01
    momentum: Momentum = 0.9
    halve_every: HalveEvery = 0
    schedule: Schedule = "halves"
    augment: Augment = ""
    adversary: str = Field(
        "PGD",
        description="attack inside training; default: 7 steps of 2.5 eps / steps",
    )

    eps: Radius = 0.3
    norm: Norm = "linf"
    space: Space = "normalized"
    bounded: Bounded = False

    attacks: str = Field(
        "FGSM, PGD, CW, MIA, L2BIA, LinfBIA",
        description="to evaluate under, in this order",
    )
    robust: Robust = "last"
    attack_images: Literal["protected", "all"] = Field(
        "protected", description="test images attacked: protected (class p) or all"
    )
    monitor: str = Field("", description="attack to measure after each epoch; empty: none")
    monitor_images: Count = Field(1000, ge=1, description="first test images that it meets")

    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    tf32: bool = Field(False, description="TensorFloat-32 on a GPU: faster, 10 bits of mantissa")
    threads: Count = Field(
        0, ge=0, le=1024, description="CPU threads; 0: torch's. Equal ones: equal bits"
    )
    runs: str = Field("runs", description="folder of the runs' folders, from the project's root")

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            known = type(self).model_fields
            raise InputError(explain(error, parameters, known, "parameter")) from None

    @field_validator("protected_class", mode="before")
    @classmethod
    def _index_or_name(cls, value: object) -> object:
        """One as it is; several names as one text, where an index is among them as a tuple.

        In a text "1" may be a name.
        """
        several = [plain(v) for v in value] if isinstance(value, list | tuple) else [value]
        for one in several:
            plain_one = isinstance(one, int | str) and not isinstance(one, bool)
            if not plain_one or (isinstance(one, int) and abs(one) >= 2**63):
                raise ValueError("Input should be a class index or a class name")
            if len(several) > 1 and "," in str(one):
                raise ValueError("Input should be an index where a name has a comma")
        if not several:
            raise ValueError("Input should be a class or more")
        if len(several) == 1:
            return several[0]
        return ", ".join(several) if all(isinstance(v, str) for v in several) else tuple(several)

    @field_validator("cost_matrix", mode="before")
    @classmethod
    def _costs(cls, value: object) -> object:
        """A matrix that is at hand, as text."""
        if isinstance(value, pd.DataFrame):
            value = value.to_dict(orient="split")
        if isinstance(value, np.ndarray):
            value = value.tolist()
        try:
            return value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("Input should be a CSV's path, an array or a DataFrame") from None

    @field_validator("offset", mode="before")
    @classmethod
    def _offset(cls, value: object) -> object:
        """A share as text, as YAML and Python give numbers."""
        return f"{value:g}" if isinstance(value, int | float) and value is not True else value

    @field_validator("offset")
    @classmethod
    def _offset_rule(cls, value: str) -> str:
        words = value.split()
        kind = "certified " if words[:1] == ["certified"] else ""
        rule = " ".join(words[1:] if kind else words)
        if rule == "cost" or not value:
            return kind + rule
        try:
            budget = float(rule)
        except ValueError:
            budget = 0.0
        if not 0 < budget < 1:
            raise ValueError(
                "Input should be empty, cost, or a share between 0 and 1; or certified and these"
            )
        return f"{kind}{budget:g}"

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        return str(MODELS.parse(value))

    @field_validator("method")
    @classmethod
    def _method(cls, value: str) -> str:
        return str(METHODS.parse(value))

    @field_validator("adversary")
    @classmethod
    def _adversary(cls, value: str) -> str:
        return str(parse_adversary(value))

    @field_validator("monitor")
    @classmethod
    def _monitor(cls, value: str) -> str:
        return str(ATTACKS.parse(value)) if value.strip() else ""

    @field_validator("attacks")
    @classmethod
    def _attacks(cls, value: str) -> str:
        return ", ".join(map(str, ATTACKS.parse_list(value)))

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """The last one: pydantic asks it first."""
        return plain(value)

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> Self:
        """From a notebook's ``globals()``: its parameters cell and what papermill injected.

        ``params`` among them names a recipe (see `read_params`) that holds where the namespace
        gives nothing. Call it before anything else is defined: any other plain value is taken for a
        parameter, and refused; so is another value by nearly a parameter's name, unless it is a
        module, a function, a class or something of csnb's.
        """
        hidden = {"In", "Out", "exit", "quit", "open"}
        given = {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_")
            and name not in hidden
            and (name in cls.model_fields or isinstance(value, PLAIN) or _misspelled(name, value))
        }
        recipe = read_params(given.pop("params")) if "params" in given else {}
        return cls(**recipe | given)

    def threat(self) -> ThreatModel:
        """The attacker of training and evaluation."""
        return ThreatModel(self.eps, self.norm, self.space, self.bounded)

    def recipe(self) -> Recipe:
        """The training recipe."""
        values = {field.name: getattr(self, field.name) for field in fields(Recipe)}
        return Recipe(**values | {"adversary": str(parse_adversary(self.adversary))})

    def cost_table(self, classes: tuple[str, ...], protected: Sequence[int]) -> np.ndarray:
        """The costs (m, m): as given, of the file, or of Eq. 3. Raises InputError."""
        if self._costs_at_hand:
            try:
                table = json.loads(self.cost_matrix)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"cost_matrix: {shown(self.cost_matrix)} cannot be read ({one_line(error)}); "
                    "allowed: a CSV's path, numbers [[0, 5], [1, 0]], predicted by true, or "
                    "{predicted: {true: cost}}"
                ) from None
            return costs_from_table(table, classes)
        if self.cost_matrix:
            return read_costs(self.cost_matrix, classes)
        return protect(len(classes), list(protected), self.miss_cost, self.alarm_cost)

    @property
    def _costs_at_hand(self) -> bool:
        """Whether the costs are numbers, and no file."""
        return self.cost_matrix.lstrip()[:1] in ("[", "{")

    def identity(
        self,
        data: Dataset | None = None,
        specs: Mapping[str, list[Spec]] | None = None,
        *,
        named: bool = True,
    ) -> Identity:
        """What this run is by content.

        ``data``, ``specs``: its data set and its `specs`, where they are loaded already. ``named``:
        as of `specs`. Raises InputError.

        Inputs that are files are read; a data set of csnb's that is not at hand is taken for what
        it is known to be.
        """
        specs = specs or self.specs()
        known = data or describe(self.dataset, self.data_root, self.image_size)
        digests = dict(data.digests() if data is not None else known.digests)
        protected = class_indices(self.protected_class, known.classes, self.dataset)
        check_protected(protected, len(known.classes), most=len(known.classes) - 1)
        counts = data.counts() if data is not None else known.counts
        check_counts(counts, protected, known.classes, self.dataset)
        costs = self.cost_table(known.classes, protected)
        digests["costs"] = costs_digest(costs)
        if self.init_from:
            digests["init_from"] = weights_digest(resolve(self.init_from, "init_from"))
        files = self._files(specs, named)
        for spec in chain.from_iterable(specs.values()):
            if spec.entry.file:
                name = Path(spec.entry.file).name
                digests[name], before = spec.entry.digest, files.get(name)
                files[name] = spec.entry.file
                if before not in (None, files[name]):
                    raise InputError(
                        f"{name}: {before} and {files[name]}; allowed: different names"
                    )
        defaults = _defaults(type(self))
        return Identity(
            parameters=self._canonical(files, specs),
            given=tuple(
                name
                for name in type(self).model_fields
                if name not in PLACE and getattr(self, name) != getattr(defaults, name)
            ),
            classes=tuple(known.classes),
            protected=protected,
            costs=tuple(map(tuple, costs.tolist())),
            digests=digests,
            files=files,
            numerics=NUMERICS,
        )

    def specs(self, *, named: bool = True) -> dict[str, list[Spec]]:
        """The functions that make this run, by parameter; of files of one's own as they are now.

        ``named``: whether the data set is the one that the parameter names.
        """
        made = named and not self._data_path
        return {
            "dataset": [find_source(self.dataset, self.data_root)] if made else [],
            "model": [MODELS.parse(self.model)],
            "method": [METHODS.parse(self.method)],
            "adversary": [parse_adversary(self.adversary)],
            "attacks": ATTACKS.parse_list(self.attacks),
            "monitor": [ATTACKS.parse(self.monitor)] if self.monitor else [],
        }

    @cached_property
    def _data_path(self) -> Path | None:
        """The file or folder that the data set is, if it is one. Raises InputError."""
        return data_path(self.dataset, self.data_root)

    def _files(self, specs: Mapping[str, list[Spec]], named: bool) -> dict[str, str]:
        """The inputs that are files, by parameter: where they lie.

        A data set that is found by its name is found by that anywhere.
        """
        files, own = {}, self._data_path if named and not specs["dataset"] else None
        if own:
            by_path = self.data_root or self.dataset.endswith(".npz") or own.is_dir()
            files["dataset"] = str(own) if by_path else self.dataset
        if self.cost_matrix and not self._costs_at_hand:
            files["cost_matrix"] = str(expand(self.cost_matrix, "cost_matrix").absolute())
        if self.init_from:
            files["init_from"] = str(resolve(self.init_from, "init_from"))
        return files

    def _canonical(
        self, files: Mapping[str, str], specs: Mapping[str, list[Spec]]
    ) -> dict[str, Any]:
        """The parameters that shape the result, files by their names."""
        parameters = self.model_dump(exclude=PLACE)
        for name in ("cost_matrix", "init_from"):
            if name in files:
                parameters[name] = Path(files[name]).name
        if "dataset" in files:
            own = Path(files["dataset"])
            last = re.split(r"[/\\]", self.dataset)[-1]
            parameters["dataset"] = own.resolve().name if own.is_dir() else last
        for name, made in specs.items():
            if made:
                parameters[name] = ", ".join(spec.identity for spec in made)
        return parameters

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> Self:
        """The experiment of a run's result.json, its files where they lay. Raises InputError."""
        parameters = dict(result["parameters"])
        for kind, file in result["files"].items():
            if kind in parameters:
                parameters[kind] = file
            for name in (*SPECS, "dataset"):
                named = rf"(?<![^\s,]){re.escape(kind)}:"
                full = f"{quoted(str(CHECKOUT / file))}:"  # relative: of a committed run
                parameters[name] = re.sub(named, lambda _, full=full: full, parameters[name])
        return cls(**parameters)


def _misspelled(name: str, value: object) -> bool:
    """Whether a notebook's value, such as an array or a path, was to be a parameter's."""
    made = callable(value) or isinstance(value, types.ModuleType)
    made |= type(value).__module__.partition(".")[0] == __package__  # such as run, data
    near = get_close_matches(name.casefold(), Experiment.model_fields, 1, NEAR)
    return not made and bool(near)


@cache
def _defaults(kind: type[Experiment]) -> Experiment:
    """An experiment of which nothing is given."""
    return kind()


def parse_adversary(text: str) -> Spec:
    """The attack inside training.

    As of `ATTACKS`, but with 7 steps whose size follows eps where the text does not say.
    """
    return ATTACKS.parse(text, steps=7, step_size=0.0)
