"""The protection curves of runs: read, and judged against adversarial training.

Their margins are kept beside the runs' predictions.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from csnb.certified import (
    CERTIFIED,
    certified_margins,
    certified_pairs,
    certified_score,
    identity,
)
from csnb.costs import check_protected
from csnb.errors import InputError
from csnb.evaluation import presence
from csnb.experiment import Experiment
from csnb.margins import ATTACK, protection, worst_margins
from csnb.models import Normalized
from csnb.paths import expand
from csnb.pretrained import load_model, run_data
from csnb.runner import Run, find_or_run
from csnb.runs import read_run, weights_digest
from csnb.runs.kept import keep, kept_margins, read_kept, safe_file


def read_margins(
    run: str | Path | Run,
    *,
    protected: int | Sequence[int] | None = None,
    attack: str = ATTACK,
) -> tuple[np.ndarray, np.ndarray]:
    """Worst margins (N,) of a run's test images, and which are of a protected class, (N,).

    Under the run's own threat model and seed (see `csnb.worst_margins`). ``run``: a finished run's
    folder, where they are kept, so that they are attacked once; or a `Run` that is evaluated, which
    keeps them when it is written. ``protected``: indices; default: the run's. ``attack``: of
    `ATTACKS`, or "certified": what none can cross (see `csnb.certified_margins`). Raises
    InputError, also where a folder's data set is not at hand.
    """
    if isinstance(run, Run):
        classes = _protected(protected, run.protected, len(run.data.classes))
        return run.margins(classes, attack), np.isin(run.data.y_test.numpy(), classes)
    folder = expand(run, "run")
    result = read_run(folder)
    classes = _protected(protected, result["protected"], len(result["classes"]))
    file, own, margins = kept_margins(folder, result, classes, identity(attack))
    if margins is None:
        e, network, x, y = _again(folder, result)
        if attack == CERTIFIED:
            margins = certified_margins(network, x, y, classes, e.threat())
        else:
            settings = {"attack": attack, "seed": e.seed}
            margins = worst_margins(network, x, y, classes, e.threat(), **settings)
        keep(file, margins)
    return margins, own


def _protected(
    asked: int | Sequence[int] | None, own: Sequence[int], classes: int
) -> tuple[int, ...]:
    """The indices asked about, else the run's ``own``. Raises InputError."""
    return check_protected(own if asked is None else asked, classes, most=classes - 1)


def as_they_stand(runs: Iterable[str | Path]) -> pd.DataFrame:
    """What finished runs recognise under attack with the offsets that they have: a row each.

    ``dataset``, ``class``, ``method``, ``seed``, ``offset`` as it was asked for; ``recall`` of
    ``n`` images of the run's protected classes, and ``false_alarms`` of ``others``, both under
    `ATTACK`. Raises InputError.
    """
    rows = []
    for run in runs:
        margins, own = read_margins(run)
        result, called = read_run(run), margins > 0
        asked = result["parameters"]
        row = {name: asked[name] for name in ("dataset", "method", "seed", "offset")}
        row["class"] = ", ".join(result["classes"][p] for p in result["protected"])
        row |= {"recall": called[own].mean(), "n": own.sum()}
        rows.append(row | {"false_alarms": called[~own].mean(), "others": (~own).sum()})
    columns = ["dataset", "class", "method", "seed", "offset", "recall", "n"]
    return pd.DataFrame(rows, columns=[*columns, "false_alarms", "others"])


def baseline(run: Run) -> Run | Path:
    """ADV at the run's parameters: what whoever protects a class must beat; found or trained.

    It knows no class and no costs: there is one of it for all classes. But for one with an
    ``offset``, which holds out the same images and chooses it for the same class by the same costs.
    The run itself, where that is it.
    """
    shared = {"method": "ADV", "init_from": "", "attack_images": "all"}
    if not run.experiment.offset:
        shared |= {"protected_class": 0, "miss_cost": 10.0, "alarm_cost": 10.0, "cost_matrix": ""}
    experiment = Experiment(**run.experiment.model_dump() | shared)
    same = experiment.identity(run.data).run_id == run.identity.run_id
    return run if same else find_or_run(experiment)


def read_certified(run: str | Path, *, costs: np.ndarray | None = None) -> pd.DataFrame:
    """What no attack can undo of a finished run's test images: `csnb.certified.certified_score`.

    ``costs``: any (m, m), predicted by true; default: the run's. Which mistakes are ruled out is
    kept in the run's folder, as bits. Raises InputError, also where they are not yet kept and the
    data set is not at hand.
    """
    folder = expand(run, "run")
    result = read_run(folder)
    with np.load(folder / "predictions.npz") as arrays:
        labels = arrays["labels"]
    costs = np.array(result["costs"]) if costs is None else costs
    safe = _safe(folder, result, (len(labels), len(result["classes"])))
    return certified_score(safe, labels, classes=result["classes"], costs=costs)


def _safe(folder: Path, result: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """Which classes no attack makes of each test image, (N, m) bool; see `certified_pairs`."""
    file = safe_file(folder, weights_digest(result))
    number = math.prod(shape)
    bits = read_kept(file, (-(-number // 8),), np.uint8)
    if bits is None:
        e, network, x, y = _again(folder, result)
        bits = np.packbits(certified_pairs(network, x, y, e.threat()) > 0)
        keep(file, bits)
    return np.unpackbits(bits, count=number).reshape(shape).astype(bool)


def _again(
    folder: Path, result: Mapping[str, Any]
) -> tuple[Experiment, Normalized, Tensor, Tensor]:
    """A finished run's experiment, network, test images and labels."""
    data = run_data(result)
    return Experiment.of_result(result), load_model(folder), data.x_test, data.y_test


def verdict(
    run: str | Path | Run, base: str | Path | Run, *, budget: float = 0.01, attack: str = ATTACK
) -> str:
    """What a run protects more than another one does, in one paragraph of Markdown.

    ``run``: as of `read_margins`. ``base``: the other, such as `baseline`, on the same test images.
    Both are free to choose an offset: what is compared is recall of the run's protected classes at
    ``budget`` false alarms under ``attack``, paired by image. Raises InputError.
    """
    first, second = _known(run), _known(base)
    protected, method = first["protected"], second["parameters"]["method"]
    if first["digests"]["test"] != second["digests"]["test"]:
        raise InputError(f"base: {second['run']} has other test images; allowed: the same")
    margins, own = read_margins(run, attack=attack)
    rival, _ = read_margins(base, protected=protected, attack=attack)
    names = [first["classes"][p] for p in protected]
    reached = _said(protection(margins, own, budgets=[budget]), "{:.2f}")
    gain = protection(margins, own, against=rival, budgets=[budget])
    low, high = float(gain["low"][0]), float(gain["high"][0])
    found = "protected more" if low > 0 else "PROTECTED LESS" if high < 0 else "not shown"
    if np.array_equal(margins, rival):
        found = "the same network"
    lost, there = _presence(first, second, names)
    name = " or ".join(map(repr, names))
    return (
        f"{lost}**Against {method} with an offset: {found}.** Under attack, with {budget:.1%} of "
        f"the other images called {name}, {reached} of {int(own.sum())} images are recognised: "
        f"{_said(gain, '{:+.2f}')} against {method}. {_price([first, second], protected)}{there}"
    )


def _presence(
    first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str]
) -> tuple[str, str]:
    """Of the classes that are lost, or everywhere, loud; of the others."""
    own, others = (pd.DataFrame(each["scores"]) for each in (first, second))
    said = [presence(own, name, (second["parameters"]["method"], others)) for name in names]
    loud = [text for text in said if text.startswith("THE CLASS")]
    calm = [text for text in said if text not in loud]
    return "".join(f"**{text}** " for text in loud), "".join(f" {text}" for text in calm)


def _known(run: str | Path | Run) -> Mapping[str, Any]:
    """What a run says of itself."""
    if isinstance(run, Run):
        return run.identity.to_json() | {"scores": run.scores, "run": run.folder.name}
    return {**read_run(run), "run": Path(run).name}


def _said(frame: pd.DataFrame, pattern: str) -> str:
    """The first measure with its interval."""
    value, low, high = (pattern.format(frame[name][0]) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _price(runs: Sequence[Mapping[str, Any]], protected: Sequence[int]) -> str:
    """What the other classes give, by mean accuracy of each class, clean and where attacked."""
    parts = []
    scores = [pd.DataFrame(run["scores"]) for run in runs]
    others = [c for i, c in enumerate(runs[0]["classes"]) if i not in protected]
    for attack in dict.fromkeys(scores[0]["attack"]):
        rows = [s[(s["attack"] == attack) & (s["measure"] == "accuracy")] for s in scores]
        means = [r[r["class"].isin(others)]["value"].astype(float) for r in rows]
        if all(len(m) for m in means):
            parts.append(f"{means[0].mean():.3f} {attack} ({means[1].mean():.3f})")
    known = ", ".join(parts)
    attacked = "" if len(parts) > 1 else ", which this run did not attack"
    other = runs[1]["parameters"]["method"]
    return f"Accuracy of the other classes{attacked}, in brackets that of {other}: {known}."
