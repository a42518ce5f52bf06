"""Every parameter of a run changes what it should change, and nothing else.

A run's parts, each looked at by itself: training starts from the same first weights whatever the
run's own are, attacks meet the same trained network. A new parameter needs a row here.
"""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from making import STRIPES, costs_csv, stripes
from torch import Tensor

from csnb import METHODS, MODELS, Experiment, Run, run
from csnb.experiment import PLACE
from csnb.models import learned

BASE = {
    "dataset": "stripes",
    "epochs": 2,
    "adversary": "PGD(steps=2)",
    "attacks": "FGSM, PGD(steps=3, step_size=0.1)",
    "monitor": "FGSM",
    "monitor_images": 20,
}


@cache
def folder() -> Path:
    """Data sets, costs and first weights, made once."""
    place = Path(mkdtemp())
    for name in ("here", "there"):
        (place / name).mkdir()
        stripes(place / name / "stripes.npz", train=48, test=24)
        stripes(place / name / "more.npz", train=60, test=27)
    costs_csv(place / "costs.csv", 4)
    first = {"dataset": "stripes", "data_root": str(place / "here"), "runs": str(place / "runs")}
    made = run(Experiment(**first, method="STD", epochs=1, attacks="FGSM", seed=9))
    shutil.copytree(made.folder, place / "start")
    return place


def parameters_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def put(model: torch.nn.Module, values: dict[str, Tensor]) -> None:
    """Values into a network that they fit."""
    mine = dict(model.named_parameters())
    if all(name in mine and mine[name].shape == value.shape for name, value in values.items()):
        for name, value in values.items():
            mine[name].data.copy_(value)


def made(**changes: Any) -> Run:
    """A run of the base with ``changes``, not trained yet."""
    place = {"data_root": str(folder() / "here"), "runs": str(folder() / "runs")}
    return Run(Experiment(**place | BASE | changes))


@cache
def reference() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The first weights of the base's run, and its trained ones."""
    one = made()
    first = parameters_of(one.model)
    one.train()
    one._end(remove=True)
    return first, parameters_of(one.model)


def measured(**changes: Any) -> dict[str, Any]:
    """A run's parts, each by itself."""
    one, (first, trained) = made(**changes), reference()
    parts: dict[str, Any] = {
        "key": one.identity.key,
        "data": (one.identity.digests["train"], one.identity.digests["test"]),
        "costs": one.costs.tolist(),
        "first": bits(parameters_of(one.model)),
    }
    put(one.model, first)
    one.train()
    parts["training"] = bits(parameters_of(one.model))
    put(one.model, trained)
    one._trained = learned(one.model)
    parts["scores"] = one.evaluate().to_csv()
    predictions = {name: found.tolist() for name, found in one.outcome.predictions.items()}
    parts["attack"] = (one.outcome.norms, one.outcome.attacked.tolist(), predictions)
    parts["watched"] = one._monitor()
    one._end(remove=True)
    return parts


@cache
def base() -> dict[str, Any]:
    return measured()


def bits(values: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in values.items()}


def changed(parts: dict[str, Any]) -> set[str]:
    return {name for name, value in parts.items() if value != base()[name]}


TRAINING = {"key", "training"}
ATTACK = {"key", "attack", "scores"}
COSTS = {"key", "costs", "training", "scores"}
THREAT = TRAINING | ATTACK
EVERYTHING = {"key", "data", "training", "attack", "scores"}
ROWS: dict[str, tuple[Any, set[str], set[str]]] = {  # another value; what must, what may change
    "dataset": ("more", EVERYTHING, {"watched"}),
    "data_root": (lambda: str(folder() / "there"), set(), set()),
    "model": ("lenet(kernels=5)", THREAT | {"first"}, {"watched"}),
    "init_from": (lambda: str(folder() / "start"), {"key", "first"}, set()),
    "method": ("CSE(gamma=3)", TRAINING, set()),
    "protected_class": (1, COSTS | ATTACK, set()),
    "miss_cost": (3, COSTS, set()),
    "alarm_cost": (3, COSTS, set()),
    "offset": (0.2, TRAINING, set()),
    "validation": (0.3, {"key"}, set()),  # with an offset it is held out
    "cost_matrix": (lambda: str(folder() / "costs.csv"), COSTS, set()),
    "epochs": (3, TRAINING, set()),
    "batch_size": (16, TRAINING, set()),
    "optimizer": ("adam", TRAINING, set()),
    "lr": (0.02, TRAINING, set()),
    "momentum": (0.8, TRAINING, set()),
    "halve_every": (1, TRAINING, set()),
    "schedule": ("both", TRAINING, set()),
    "augment": ("flip", TRAINING, set()),
    "adversary": ("PGD(steps=2, step_size=0.05)", TRAINING, set()),
    "eps": (0.2, THREAT, {"watched"}),
    "norm": ("l2", THREAT, {"watched"}),
    "space": ("pixel", THREAT, {"watched"}),
    "bounded": (True, THREAT, {"watched"}),
    "attacks": ("FGSM, PGD(steps=4, step_size=0.1)", ATTACK, set()),
    "robust": ("worst", ATTACK, {"watched"}),
    "attack_images": ("all", ATTACK, set()),
    "monitor": ("PGD(steps=20, step_size=0.3)", {"key"}, {"watched"}),
    "monitor_images": (7, {"key", "watched"}, set()),
    "seed": (1, THREAT | {"first"}, set()),
    "device": ("cpu", set(), set()),
    "tf32": (True, {"key"}, set()),  # on a GPU the rest too
    "threads": (1, set(), set()),
    "runs": (lambda: str(folder() / "elsewhere"), set(), set()),
}


def test_every_parameter_has_a_row() -> None:
    assert {*ROWS, "image_size"} == set(Experiment.model_fields)  # of folders: test_folder_runs
    assert {name for name, (_, must, _) in ROWS.items() if not must} == PLACE


def test_the_base_is_the_same_each_time() -> None:
    assert base() and not changed(measured(eps=0.3))


@pytest.mark.parametrize("name", ROWS)
def test_a_parameter_changes_what_it_should_and_nothing_else(name: str) -> None:
    value, must, may = ROWS[name]
    found = changed(measured(**{name: value() if callable(value) else value}))
    assert must <= found <= must | may


def test_what_is_held_out_changes_training_where_an_offset_is_chosen() -> None:
    some, more = (measured(offset="cost", validation=share) for share in (0.25, 0.5))
    assert {name for name in some if some[name] != more[name]} == {"key", "training"}


@pytest.mark.parametrize(
    ("method", "option"), [(name, option) for name, e in METHODS.items() for option in e.options]
)
def test_each_option_of_each_method_changes_its_training(method: str, option: str) -> None:
    other = {
        "gamma": 3, "regulariser": "minmax", "convs": 1, "inner": "cross_entropy", "weight": 2,
        "factor": 1.5, "ramp": 0.1, "share": 0.5, "alarms": 0.4, "rate": 1, "beta": 2,
        "strength": 0.5, "warm_up": 0.8, "clean": 0.2, "radius": 1.5, "lines": 0.5,
    }[option]  # fmt: skip
    specs = (method, f"{method}({option}={other})")
    plain, changed_one = (measured(method=spec, schedule="both") for spec in specs)
    differ = {name for name in plain if plain[name] != changed_one[name]}
    assert differ == {"key", "training"}


def test_each_option_of_each_model_changes_its_first_weights() -> None:
    others = {
        ("lenet", "kernels"): 5, ("small_cnn", "kernels"): 3, ("small_cnn", "hidden"): 7,
        ("resnet18", "width"): 2,
    }  # fmt: skip
    options = {(name, option) for name, e in MODELS.items() for option in e.options if not e.file}
    assert set(others) == options
    for (name, option), value in others.items():
        first = []
        for spec in (name, f"{name}({option}={value})"):
            torch.manual_seed(0)
            network = MODELS.parse(spec)((1, 32, 32), 3)
            key = Experiment(model=spec, dataset="cifar10").identity().key
            first.append((key, bits(parameters_of(network))))
        (usual, weights), (other, changed) = first
        assert usual != other and weights != changed


def test_the_monitor_is_seen_in_the_history_alone() -> None:
    histories = []
    for monitor in ("", "FGSM"):
        one = made(monitor=monitor)
        histories.append(one.train().drop(columns="seconds"))
        one._end(remove=True)
    added = set(histories[1]) - set(histories[0])
    assert added == {"test_accuracy", "robust_accuracy"}
    assert histories[0].equals(histories[1].drop(columns=sorted(added)))


def test_worst_is_never_better_than_last() -> None:
    asked = {"attack_images": "all", "eps": 0.1, "epochs": 8, "method": "STD"}
    right = {}
    for robust in ("last", "worst"):
        one = made(**asked, robust=robust)
        one.train()
        rows = one.evaluate().query("measure == 'average'").set_index("attack")
        right[robust] = rows["correct"]
        one._end(remove=True)
    assert (right["worst"] <= right["last"]).all()
    assert right["worst"]["clean"] == right["last"]["clean"] > len(STRIPES)
