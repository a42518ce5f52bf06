"""Every parameter of a run, once, with type, unit and range; and `Run`, which ties the rooms of csnb together."""

import difflib
import hashlib
import json
import re
import time
import types
from collections.abc import Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from csnb.attacks import ATTACKS, ThreatModel
from csnb.costs import protect, read_costs
from csnb.data import Dataset, load_dataset
from csnb.display import LiveLine
from csnb.errors import InputError
from csnb.evaluation import Outcome, evaluate, score
from csnb.models import Normalized, build_model
from csnb.params import read_params
from csnb.runs import RESULTS, append_progress, load_weights, prepare_folder, read_run, write_run
from csnb.training import METHODS, Recipe, fit


def _number(value: object) -> object:
    """YAML and the shell pass 1e-3 and 8/255 as strings: take them as the numbers they are."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    if isinstance(value, str):
        try:
            return float(Fraction(value)) if "/" in value else float(value)
        except (ValueError, ZeroDivisionError):
            raise ValueError("Input should be a number") from None
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_number)]
NOT_IN_ID = {"data_root", "runs", "device", "threads"}  # where and on what a run happens: no part of what it is


class Experiment(BaseModel):
    """All parameters of one run: one method, one protected class, one data set.

    Unknown names, wrong types and impossible values raise InputError before any work. Numbers may be strings such as
    "1e-3" or "8/255". The descriptions are those of the parameters cell of ``protect.ipynb``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field("digits", description="digits, mnist, fashion_mnist, cifar10, cifar100, or an .npz file")
    data_root: str = Field("", description="folder of the data sets; empty: $CSNB_DATA, else data")
    model: Literal["lenet", "resnet18"] = Field("lenet", description="lenet or resnet18")
    lenet_kernels: Count = Field(6, ge=1, le=512, description="kernels of LeNet's first convolution (the paper's text: 5)")
    init_from: str = Field("", description="run folder whose weights to start from; empty: random weights")

    method: Literal[tuple(METHODS)] = Field("CSA", description=", ".join(METHODS))
    protected_class: int | str = Field(0, description="class p to protect: index or name")
    cost: Real = Field(10.0, ge=0, description="c of Eq. 3, cost of a mistake that involves p; other mistakes cost 1")
    cost_matrix: str = Field("", description="CSV of costs, rows predicted, columns true; empty: Eq. 3")
    regulariser: Literal["fuzziness", "minmax", "l1_minus_l2"] = Field(
        "fuzziness", description="of CSE: fuzziness (Eq. 8-9 as printed), minmax or l1_minus_l2"
    )
    gamma: Real = Field(1.0, ge=0, description="weight of the regulariser (Eq. 10; the paper gives none)")
    regularised_convs: Count = Field(0, ge=0, description="the regulariser sees the first so many convolutions; 0: all")

    epochs: Count = Field(20, ge=1, le=100_000, description="passes over the training images")
    batch_size: Count = Field(32, ge=1, description="images per update")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd or adam")
    lr: Real = Field(0.01, gt=0, description="learning rate")
    momentum: Real = Field(0.9, ge=0, lt=1, description="momentum of sgd, in [0, 1)")
    halve_every: Count = Field(0, ge=0, description="epochs after which the learning rate halves; 0: never")
    schedule: Literal["halves", "both", "alternate"] = Field(
        "halves", description="adversarial examples: halves (2nd half of epochs), both (each batch), alternate (batches)"
    )
    train_steps: Count = Field(7, ge=1, description="PGD steps on each training batch (the paper gives none)")
    train_step_size: Real = Field(0.0, ge=0, description="their size, in units of space; 0: 2.5 eps / train_steps")
    inner_loss: Literal["objective", "cross_entropy"] = Field(
        "objective", description="what they maximise: objective (the method's own, Eq. 4) or cross_entropy"
    )

    eps: Real = Field(0.3, ge=0, description="radius of the threat model, in units of space")
    norm: Literal["linf", "l2"] = Field("linf", description="of FGSM, PGD and MIA: linf or l2")
    space: Literal["normalized", "pixel"] = Field("normalized", description="normalized (as the paper measured) or pixel")
    bounded: bool = Field(False, description="adversarial images keep to valid pixels (the paper's do not)")

    attacks: str = Field(",".join(ATTACKS), description="to evaluate under, in order, separated by commas")
    robust: Literal["last", "worst"] = Field(
        "last", description="image that counts: last (what an attack returns, as the paper) or worst (the first that fools)"
    )
    attack_images: Literal["protected", "all"] = Field(
        "protected", description="test images attacked: protected (class p) or all"
    )
    monitor: Literal[("", *ATTACKS)] = Field("", description="attack to measure after each epoch, for history.csv; empty: none")
    monitor_images: Count = Field(1000, ge=1, description="first test images that it meets, of all classes")
    pgd_steps: Count = Field(ATTACKS["PGD"]["steps"], ge=1, description="steps of PGD")
    pgd_step_size: Real = Field(ATTACKS["PGD"]["step_size"], gt=0, description="their size, in units of space")
    pgd_restarts: Count = Field(ATTACKS["PGD"]["restarts"], ge=1, description="random starts of PGD")
    cw_steps: Count = Field(ATTACKS["CW"]["steps"], ge=1, description="Adam steps of each search (advertorch: 10000)")
    cw_searches: Count = Field(ATTACKS["CW"]["searches"], ge=1, description="binary searches for CW's constant")
    cw_step_size: Real = Field(ATTACKS["CW"]["step_size"], gt=0, description="Adam's learning rate in CW")
    cw_initial_const: Real = Field(ATTACKS["CW"]["initial_const"], gt=0, description="CW's first constant")
    cw_confidence: Real = Field(ATTACKS["CW"]["confidence"], ge=0, description="CW's margin, in logits")
    mia_steps: Count = Field(ATTACKS["MIA"]["steps"], ge=1, description="steps of MIA")
    mia_step_size: Real = Field(ATTACKS["MIA"]["step_size"], gt=0, description="their size, in units of space")
    mia_decay: Real = Field(ATTACKS["MIA"]["decay"], ge=0, description="MIA's momentum")
    l2bia_steps: Count = Field(ATTACKS["L2BIA"]["steps"], ge=1, description="steps of L2BIA")
    l2bia_step_size: Real = Field(ATTACKS["L2BIA"]["step_size"], gt=0, description="their size, in units of space")
    linfbia_steps: Count = Field(ATTACKS["LinfBIA"]["steps"], ge=1, description="steps of LinfBIA")
    linfbia_step_size: Real = Field(ATTACKS["LinfBIA"]["step_size"], gt=0, description="their size, in units of space")

    seed: Count = Field(0, ge=0, lt=2**63, description="of weights, data order and attacks")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto (a GPU if there is one), cpu or cuda")
    tf32: bool = Field(False, description="TensorFloat-32 on a GPU: faster, with 10 bits of mantissa")
    threads: Count = Field(0, ge=0, description="CPU threads; 0: torch's choice. Scores are bit-equal for equal threads")
    runs: str = Field("runs", description="folder in which the run's own folder is made")

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise InputError(_explain(error, parameters)) from None

    @field_validator("protected_class", mode="before")
    @classmethod
    def _index_or_name(cls, value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError("Input should be a class index or a class name")
        return int(value) if isinstance(value, str) and re.fullmatch(r"\d+", value) else value

    @field_validator("attacks")
    @classmethod
    def _known_attacks(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        unknown = [name for name in names if name not in ATTACKS]
        if unknown or len(set(names)) != len(names):
            raise ValueError(f"Input should be different names out of {', '.join(ATTACKS)}")
        return ",".join(names)

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> "Experiment":
        """From a notebook's ``globals()``: its parameters cell and what papermill injected.

        ``params`` among them names a recipe (see `read_params`) that holds where the namespace gives nothing. Call it before
        anything else is defined: any other plain value is taken for a parameter, and refused.
        """
        hidden = {"In", "Out", "exit", "quit", "open"}
        plain = (str, int, float, bool, list, tuple, dict, types.NoneType)
        given = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in hidden and isinstance(v, plain)}
        recipe = read_params(given.pop("params")) if "params" in given else {}
        return cls(**recipe | given)

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, and different for any other value of a parameter that shapes the result."""
        content = json.dumps(self.model_dump(exclude=NOT_IN_ID, exclude_defaults=True), sort_keys=True)
        head = f"{Path(self.dataset).stem}-{self.method}-p{self.protected_class}-s{self.seed}"
        return re.sub(r"[^\w+.-]", "_", head) + "-" + hashlib.sha256(content.encode()).hexdigest()[:10]

    def threat(self) -> ThreatModel:
        """The attacker of training and evaluation."""
        return ThreatModel(self.eps, self.norm, self.space, self.bounded)

    def recipe(self) -> Recipe:
        """The training recipe."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

    def attack_options(self, attacks: str) -> dict[str, dict[str, int | float]]:
        """Options of each of the attacks (names separated by commas), by name."""
        names = [name for name in attacks.split(",") if name]
        return {name: {option: getattr(self, f"{name.lower()}_{option}") for option in ATTACKS[name]} for name in names}


def _explain(error: ValidationError, parameters: Mapping[str, Any]) -> str:
    """One line: the parameter, its value, what is allowed."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "parameters"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Experiment.model_fields, 1)
        allowed = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(Experiment.model_fields)}"
        return f"{name}: no such parameter (value {parameters[name]!r}); {allowed}"
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name}: {parameters[name]!r} is not allowed; allowed: {rule} - {Experiment.model_fields[name].description}"


class Run:
    """One run of an `Experiment`: `train`, `evaluate`, `write`, in this order; or `run` for all of it.

    Making it checks everything that can be checked before work begins - data, class, costs, model, weights, folder -
    and leaves nothing behind when something is wrong.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        if experiment.threads:
            torch.set_num_threads(experiment.threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = experiment.tf32
        self.device = _device(experiment.device)
        self.data: Dataset = load_dataset(experiment.dataset, experiment.data_root)
        self.protected = self.data.class_index(experiment.protected_class)
        if experiment.cost_matrix:
            self.costs = read_costs(experiment.cost_matrix, self.data.classes)
        else:
            self.costs = protect(len(self.data.classes), self.protected, experiment.cost)
        self.model = build_model(experiment.model, self.data, kernels=experiment.lenet_kernels, seed=experiment.seed)
        if experiment.init_from:
            load_weights(self.model, experiment.init_from)
        self.folder = prepare_folder(Path(experiment.runs).expanduser() / experiment.run_id)
        if self.device.type == "cuda":  # channels_last is for CPUs
            self.model.to(self.device, memory_format=torch.contiguous_format)
        self.seconds: dict[str, float] = {}

    def __repr__(self) -> str:
        data, e = self.data, self.experiment
        shape = "x".join(map(str, data.image_shape))
        return (
            f"{e.method} protecting {data.classes[self.protected]!r} of {data.name}: "
            f"{len(data.x_train)} training and {len(data.x_test)} test images of {shape}, {len(data.classes)} classes; "
            f"{e.model}, {e.epochs} epochs of {e.optimizer}"
        )

    def train(self) -> pd.DataFrame:
        """Train; returns the history, a row per epoch (see `fit`)."""
        e, line = self.experiment, LiveLine()

        def report(row: dict[str, float | str]) -> None:
            append_progress(self.folder, stage="train", epoch=row["epoch"], epochs=e.epochs, loss=row["loss"])
            means = f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}"
            line.show(f"epoch {row['epoch']} of {e.epochs} ({row['examples']}): {means}")

        start = time.perf_counter()
        x, y = self.data.x_train.to(self.device), self.data.y_train.to(self.device)
        self.history = fit(
            self.model,
            x,
            y,
            method=e.method,
            costs=self.costs,
            recipe=e.recipe(),
            threat=e.threat(),
            seed=e.seed,
            measure=self._monitor if e.monitor else dict,
            on_epoch=report,
        )
        self.seconds["train"] = time.perf_counter() - start
        return self.history

    def _monitor(self) -> dict[str, float]:
        """Accuracy on the first test images, clean and under the attack that is to be watched."""
        e = self.experiment
        x, y = (t[: e.monitor_images].to(self.device) for t in (self.data.x_test, self.data.y_test))
        options = e.attack_options(e.monitor)
        outcome = evaluate(self.model, x, y, attacks=options, threat=e.threat(), robust=e.robust, seed=e.seed)
        clean, robust = (float((outcome.predictions[name] == outcome.labels).mean()) for name in ("clean", e.monitor))
        return {"test_accuracy": clean, "robust_accuracy": robust}

    def evaluate(self) -> pd.DataFrame:
        """Attack the trained model; returns the scores, one tidy frame (see `score`)."""
        e, line, start = self.experiment, LiveLine(), time.perf_counter()
        last = start

        def report(name: str) -> None:
            nonlocal last
            now = time.perf_counter()
            self.seconds[name], last = now - last, now
            append_progress(self.folder, stage="evaluate", attack=name)
            line.show(f"attacked: {', '.join(name for name in self.seconds if name != 'train')}")

        y = self.data.y_test.to(self.device)
        attacked = (y == self.protected).nonzero().squeeze(1) if e.attack_images == "protected" else None
        self.outcome: Outcome = evaluate(
            self.model,
            self.data.x_test.to(self.device),
            y,
            attacks=e.attack_options(e.attacks),
            threat=e.threat(),
            robust=e.robust,
            attacked=attacked,
            seed=e.seed,
            on_attack=report,
        )
        self.scores = score(self.outcome, classes=self.data.classes, protected=self.protected, costs=self.costs)
        return self.scores

    def write(self) -> Path:
        """Write the run's folder; returns the path of result.json, which is written last."""
        return write_run(
            self.folder,
            parameters=self.experiment.model_dump(exclude=NOT_IN_ID),
            model=self.model,
            history=self.history,
            outcome=self.outcome,
            scores=self.scores,
            seconds=self.seconds,
        )


def run(experiment: Experiment) -> Run:
    """Train, evaluate and write; returns the finished run."""
    result = Run(experiment)
    result.train()
    result.evaluate()
    result.write()
    return result


def find_or_run(experiment: Experiment) -> Path:
    """Folder of a complete run of these parameters; says where it comes from.

    It is looked for in the experiment's ``runs``, then among those committed with csnb; else it is executed now.
    """
    wanted = experiment.model_dump(exclude=NOT_IN_ID)
    for runs in (Path(experiment.runs).expanduser(), RESULTS):
        folder = runs / experiment.run_id
        try:
            result = read_run(folder)
            if Experiment(**result["parameters"]).model_dump(exclude=NOT_IN_ID) == wanted:
                print(f"read {folder.name} (commit {result['provenance']['commit'] or 'unknown'})")
                return folder
        except InputError:
            continue
    folder = run(experiment).folder
    print(f"ran {folder.name}")
    return folder


def load_model(folder: str | Path, data: Dataset) -> Normalized:
    """The trained network of the run in ``folder``, whose data set is ``data``: on the CPU, in evaluation mode."""
    e = Experiment(**read_run(folder)["parameters"])
    model = build_model(e.model, data, kernels=e.lenet_kernels, seed=e.seed)
    load_weights(model, folder)
    return model.eval()


def _device(name: str) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device: 'cuda' but torch sees no GPU; allowed here: auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
