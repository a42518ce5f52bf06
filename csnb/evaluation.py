"""Attack a model, keep every prediction, and count.

Per class, both sides of protection, costs, with intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from csnb.attacks import ATTACKS, ThreatModel, perturb, warn_short
from csnb.attacks.threat import Robust
from csnb.costs import check_costs, check_protected
from csnb.errors import InputError, shown
from csnb.images import Images, batch_of, batches, in_turn
from csnb.models import check_answers
from csnb.spec import Seed, Spec, check_names, checker
from csnb.statistics import average, weighted_sum, wilson

_check = checker(threat=ThreatModel, robust=Robust, seed=Seed)


@dataclass(frozen=True)
class Outcome:
    """Every prediction of one evaluation, from which any score can be computed without attacking
    again.

    ``labels``: (N,) true classes of all test images. ``attacked``: (M,) indices of the test images
    that were attacked. ``predictions``: ``clean`` (N,), each attack's by its label (M,); the
    smallest unsigned integers that hold the classes (one byte up to 256). ``norms``: mean (linf,
    L2) of each attack's perturbation, in pixels of [0, 1].
    """

    labels: np.ndarray
    attacked: np.ndarray
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    norms: dict[str, tuple[float, float]] = field(default_factory=dict)

    def labels_of(self, attack: str) -> np.ndarray:
        """True classes of the images that ``predictions[attack]`` speaks of."""
        return self.labels if attack == "clean" else self.labels[self.attacked]


@torch.no_grad()
def predict(model: nn.Module, x: Tensor | Images, of: str = "model") -> np.ndarray:
    """Predicted classes (N,) of pixels ``x`` (N, C, H, W), in evaluation mode.

    Raises InputError for logits that are not finite: the largest of them means nothing. ``of``:
    what the images come from, such as an attack.
    """
    model.eval()
    predictions = []
    for batch in in_turn(x, batch_of(x)):
        logits = model(batch)
        if not logits.isfinite().all():
            raise InputError(
                f"{of}: gives logits that are not finite; allowed: finite weights, and a smaller "
                "eps, if under attack"
            )
        predictions.append(logits.argmax(1))
    return torch.cat(predictions).cpu().numpy()


def evaluate(
    model: nn.Module,
    x: Tensor | Images,
    y: Tensor,
    *,
    attacks: str | Sequence[Spec],
    threat: ThreatModel,
    robust: Literal["last", "worst"] = "last",
    attacked: Tensor | None = None,
    seed: int = 0,
    on_attack: Callable[[str], None] = lambda name: None,
) -> Outcome:
    """Predictions for test images ``x`` (N, C, H, W), ``y`` (N,), clean and under each attack.

    ``attacks``: such as ``"FGSM, PGD(steps=100)"``. ``robust``: what counts against the model, see
    `perturb`. ``attacked``: indices of the images to attack, default all. ``seed``: of each
    attack's random starts, so that no attack's result depends on which others run. ``on_attack``:
    told what is done. Warns of attacks that cannot reach the radius. Raises InputError.
    """
    _check(threat=threat, robust=robust, seed=seed)
    specs = ATTACKS.parse_list(attacks)
    classes = check_answers(model, x, y)
    index = torch.arange(len(x), device=x.device) if attacked is None else attacked
    _check_index(index, len(x))
    warn_short(specs, threat)
    clean = predict(model, x)
    smallest = np.min_scalar_type(classes - 1)
    outcome = Outcome(y.cpu().numpy(), index.cpu().numpy())
    outcome.predictions["clean"] = clean.astype(smallest)
    on_attack("clean")
    for spec in specs:
        predictions, norms = _attack(model, x, y, index, spec, threat, robust, seed)
        outcome.predictions[spec.label] = predictions.astype(smallest)
        outcome.norms[spec.label] = norms
        on_attack(spec.label)
    return outcome


def _check_index(index: Tensor, images: int) -> None:
    """Raises InputError unless they are places of ``images`` images, one or more."""
    whole = isinstance(index, Tensor) and index.dtype == torch.int64 and index.ndim == 1
    if not whole or not len(index) or int(index.min()) < 0 or int(index.max()) >= images:
        what = f"{len(index)} indices" if whole else shown(index)
        raise InputError(f"attacked: {what}; allowed: a tensor of indices, 0 to {images - 1}")


def _attack(
    model: nn.Module,
    x: Tensor | Images,
    y: Tensor,
    index: Tensor,
    spec: Spec,
    threat: ThreatModel,
    robust: Literal["last", "worst"],
    seed: int,
) -> tuple[np.ndarray, tuple[float, float]]:
    predictions, linf, l2 = [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = index.split(batch_of(x))
        for part, images in zip(parts, batches(x, parts), strict=True):
            labels = y[part]
            adversarial = perturb(model, images, labels, spec, threat, robust=robust)
            delta = (adversarial - images).flatten(1)
            predictions.append(predict(model, adversarial, f"{spec} at eps {threat.eps:g}"))
            linf.append(delta.abs().amax(1))
            l2.append(torch.linalg.vector_norm(delta, dim=1))
    norms = float(torch.cat(linf).mean()), float(torch.cat(l2).mean())
    return np.concatenate(predictions), norms


def confusion(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts (m, m): row predicted, column true, as a cost matrix."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (predictions, labels), 1)
    return counts


def score(
    outcome: Outcome, *, classes: Sequence[str], protected: int | Sequence[int], costs: np.ndarray
) -> pd.DataFrame:
    """One tidy frame.

    A row per ``attack`` ("clean" too) and ``measure``, with ``value``, 95 % ``low`` and ``high``.

    ``measure``: ``accuracy`` (a row per attacked class: ``class``, ``correct``, ``total``, Wilson
    interval); ``average`` (of the class accuracies, see `statistics.average`) and ``worst`` (class;
    its interval ignores that it was picked) where every class was attacked; ``false_alarms`` (a row
    per protected class: images of others taken for it, of all such images) where every other class
    was; ``mean_cost`` (of ``costs``, per image, see `statistics.weighted_sum`); ``linf`` and ``l2``
    (mean perturbation, in pixels of [0, 1]). ``classes``: names; ``protected``: indices. Raises
    InputError.
    """
    classes = check_names(classes, "classes")
    protected, costs = check_protected(protected, len(classes)), check_costs(costs, len(classes))
    largest = max(int(v.max(initial=0)) for v in (outcome.labels, *outcome.predictions.values()))
    if largest >= len(classes):
        raise InputError(
            f"classes: {len(classes)} names, but the outcome has class {largest}; "
            "allowed: a name of each"
        )
    rows: list[dict[str, object]] = []
    for attack, predictions in outcome.predictions.items():
        counts = confusion(predictions, outcome.labels_of(attack), len(classes))
        missing = np.setdiff1d(outcome.labels, outcome.labels_of(attack))
        told = [p for p in protected if set(missing) <= {p}]
        rows += [{"attack": attack} | row for row in _score_counts(counts, classes, told, costs)]
        for measure, value in zip(("linf", "l2"), outcome.norms.get(attack, ()), strict=False):
            rows.append(
                {"attack": attack, "measure": measure, "total": len(predictions), "value": value}
            )
    columns = ["attack", "measure", "class", "correct", "total", "value", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.fillna({"class": ""})  # before it is text, which "nan" is with pandas 2
    return frame.astype({"class": "str", "correct": "Int64", "total": "Int64"})


def _score_counts(
    counts: np.ndarray, classes: Sequence[str], protected: Sequence[int], costs: np.ndarray
) -> list[dict[str, object]]:
    """Rows of `score` for one attack, from its confusion counts."""
    total = counts.sum(0)
    seen = np.flatnonzero(total)
    correct = np.diag(counts)
    low, high = wilson(correct[seen], total[seen])
    rows = [
        {"measure": "accuracy", "class": classes[i]} | _share(correct[i], total[i], (lo, hi))
        for i, lo, hi in zip(seen, low, high, strict=True)
    ]
    if len(seen) == len(classes):
        share = correct / total
        low, high = average(share, total)
        rows.append(
            {"measure": "average", "correct": correct.sum(), "total": total.sum()}
            | {"value": share.mean(), "low": low, "high": high}
        )
        rows.append(rows[int(share.argmin())] | {"measure": "worst"})
    for p in protected:
        others = total.sum() - total[p]
        if others:
            alarms = counts[p].sum() - counts[p, p]
            rows.append(
                {"measure": "false_alarms", "class": classes[p]}
                | _share(alarms, others, wilson(alarms, others))
            )
    n, levels = int(total.sum()), np.unique(costs[costs > 0])
    charged = [int(counts[costs == level].sum()) for level in levels]
    low, high = weighted_sum(levels, charged, n) if len(levels) else (0.0, 0.0)
    mean = (counts * costs).sum() / n
    rows.append({"measure": "mean_cost", "total": n, "value": mean, "low": low, "high": high})
    return rows


def _share(correct: int, total: int, interval: tuple[float, float]) -> dict[str, object]:
    return {
        "correct": correct,
        "total": total,
        "value": correct / total,
        "low": float(interval[0]),
        "high": float(interval[1]),
    }


def presence(scores: pd.DataFrame, name: str, than: tuple[str, pd.DataFrame] | None = None) -> str:
    """Whether a network knows class ``name`` at all, on clean images, in one sentence.

    ``scores``: of `score`; ``than``: what another network is called, such as one that knows no
    class, and its scores on the same images. Lost: less than half as much of the class is
    recognised as by that network; without one, as of the other classes on average. Everywhere:
    more than half of the other classes' images are taken for it.
    """
    clean = _clean(scores)
    own, alarms = clean.loc[("accuracy", name)], clean.loc[("false_alarms", name)]
    if than is None:
        usual = float(clean.loc["accuracy"].drop(index=name)["value"].mean())
        known = f"of the other classes {usual:.0%} are recognised"
    else:
        usual = float(_clean(than[1]).loc[("accuracy", name), "value"])
        known = f"by {than[0]} {usual:.0%} of them"
    right, called = (f"{row['correct']:.0f} of {row['total']:.0f}" for row in (own, alarms))
    said = f"{right} clean images of class {name!r} are recognised, {known}"
    said += f"; {called} others are taken for it."
    if own["value"] < usual / 2:
        return f"THE CLASS IS LOST: {said}"
    return f"THE CLASS IS EVERYWHERE: {said}" if alarms["value"] > 0.5 else said


def _clean(scores: pd.DataFrame) -> pd.DataFrame:
    return scores[scores["attack"] == "clean"].set_index(["measure", "class"])
