"""Trained networks: of any finished run, and of those committed with csnb, by what they are."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from csnb.data import Dataset, load_dataset
from csnb.data.dataset import class_indices
from csnb.data.sources import KNOWN
from csnb.errors import InputError, choices
from csnb.experiment import Experiment
from csnb.models import Normalized, make_model
from csnb.paths import RESULTS, expand
from csnb.runs import finished, load_weights, read_run, run_folders, weights_digest
from csnb.runs.state import summarise
from csnb.spec import METHODS


def load_model(folder: str | Path) -> Normalized:
    """The trained network of a finished run: on the CPU, in evaluation mode. Raises InputError.

    Its images need not be at hand.
    """
    folder = expand(folder, "run")
    result = read_run(folder)
    e, shape = Experiment.of_result(result), image_shape(result)
    units = (0.0,) * shape[0], (1.0,) * shape[0]  # until the weights are there
    model = make_model(e.model, shape, len(result["classes"]), *units, seed=e.seed)
    load_weights(model, folder)
    return model.eval()


def image_shape(result: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of a run's images. Raises InputError."""
    e = Experiment.of_result(result)
    known = result.get("image_shape") or KNOWN.get(e.dataset, {}).get("shape")
    return tuple(known or load_dataset(e.dataset, e.data_root, e.image_size).image_shape)


def run_data(result: Mapping[str, Any]) -> Dataset:
    """The data set of a run, whose test images are still the run's. Raises InputError."""
    e = Experiment.of_result(result)
    data = load_dataset(e.dataset, e.data_root, e.image_size)
    if data.digests()["test"] != result["digests"]["test"]:
        raise InputError(f"dataset: {e.dataset} has changed since the run; allowed: the run's own")
    return data


def load_pretrained(
    dataset: str,
    method: str,
    *,
    protected_class: int | str | Sequence[int | str] | None = None,
    **given: Any,
) -> Normalized:
    """A network that was trained for csnb's tables: on the CPU, in evaluation mode.

    ``dataset`` and ``method``: as of `Experiment`, such as "mnist" and "CSA". ``protected_class``:
    index or name; ``given``: its other parameters, such as seed; none is needed where one network
    is all that there is. `pretrained` lists them; no image is needed. Raises InputError.
    """
    label, every = METHODS.parse(method).label, _runs()
    asked = given | {"dataset": dataset, "method": label}
    found = [(folder, result) for folder, result in every if _fits(result["parameters"], asked)]
    if found and protected_class is not None:
        classes = class_indices(protected_class, found[0][1]["classes"], dataset)
        found = [(f, result) for f, result in found if tuple(result["protected"]) == classes]
    weights = {weights_digest(result): folder for folder, result in found}
    if len(weights) != 1:
        call = f"{dataset!r}, {label!r}, protected_class={protected_class!r}"
        call += "".join(f", {name}={value!r}" for name, value in given.items())
        raise InputError(
            f"load_pretrained: {len(weights)} networks for {call}; {choices(call, _calls(every))}"
        )
    return load_model(next(iter(weights.values())))


def pretrained() -> pd.DataFrame:
    """The networks that `load_pretrained` knows: a row each, by call; what they came to."""
    results = dict(_runs())
    rows = {call: (f.name, summarise(results[f])) for call, f in _calls(_runs()).items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["run", "scores"])
    return frame.rename_axis("load_pretrained")


def _calls(runs: Sequence[tuple[Path, dict[str, Any]]]) -> dict[str, Path]:
    """The arguments that mean each run: with parameters that tell it from its like."""
    alike: dict[str, list[tuple[Path, dict[str, Any], str]]] = {}
    for folder, result in runs:
        asked = result["parameters"]
        classes = ", ".join(map(str, result["protected"]))
        classes = classes if len(result["protected"]) == 1 else repr(classes)
        call = f"{asked['dataset']!r}, {asked['method']!r}, protected_class={classes}"
        alike.setdefault(call, []).append((folder, asked, weights_digest(result)))
    found = {}
    for call, group in alike.items():
        networks = [(asked, weights) for _, asked, weights in group]
        for folder, asked, _ in group:
            names = _telling(asked, networks)
            found[call + "".join(f", {n}={_of(asked, n)!r}" for n in names)] = folder
    return found


def _telling(
    asked: Mapping[str, Any], networks: Sequence[tuple[Mapping[str, Any], str]]
) -> list[str]:
    """Parameters that tell a run from others' weights: the seed, then the shortest that help.

    None that is not needed. ``networks``: parameters and weights.
    """

    def meant(names: Sequence[str]) -> int:
        given = {name: _of(asked, name) for name in names}
        return len({weights for each, weights in networks if _fits(each, given)})

    names: list[str] = []
    for name in sorted(asked, key=lambda n: (n != "seed", len(repr(asked[n])))):
        if name != "protected_class" and meant([*names, name]) < meant(names):
            names.append(name)
    for name in names[::-1]:
        fewer = [n for n in names if n != name]
        names = fewer if meant(fewer) == meant(names) else names
    return names


def _fits(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(_of(parameters, name) == value for name, value in given.items())


def _of(parameters: Mapping[str, Any], name: str) -> Any:
    """A run's parameter; one that csnb did not have then is its default."""
    field = Experiment.model_fields.get(name)
    return parameters.get(name, field and field.default)


@cache
def _runs() -> tuple[tuple[Path, dict[str, Any]], ...]:
    """The committed runs that are done; none where csnb is no checkout.

    Read once: their files are hashed, and they change with csnb alone.
    """
    names = [folder.name for folder in run_folders(RESULTS)] if RESULTS.is_dir() else []
    return tuple((found.folder, found.result) for found in finished(RESULTS, names))
