"""The protection curves of runs: read, judged against adversarial training, methods ranked by them.

Their margins are kept beside the runs' predictions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from csnb.certified import CERTIFIED, certified_margins, certified_pairs, identity
from csnb.errors import InputError
from csnb.evaluation import presence
from csnb.experiment import Experiment
from csnb.margins import ATTACK, Reached, protection, worst_margins
from csnb.models import Normalized
from csnb.pretrained import load_model, run_data
from csnb.runner import Run, find_or_run
from csnb.runs import read_run
from csnb.runs.frames import read_answers
from csnb.runs.kept import keep, kept_margins, pairs_file, read_kept
from csnb.statistics import half_width


def read_margins(
    run: str | Path | Run, *, protected: Sequence[int] | None = None, attack: str = ATTACK
) -> tuple[np.ndarray, np.ndarray]:
    """Worst margins (N,) of a run's test images, and which are of a protected class, (N,).

    Under the run's own threat model and seed (see `csnb.worst_margins`). ``run``: a finished run's
    folder, where they are kept, so that they are attacked once; or a `Run` that is evaluated, which
    keeps them when it is written. ``protected``: indices; default: the run's. ``attack``: of
    `ATTACKS`, or "certified": what none can cross (see `csnb.certified_margins`). Raises
    InputError, also where a folder's data set is not at hand.
    """
    if isinstance(run, Run):
        classes = tuple(run.protected if protected is None else sorted(protected))
        return run.margins(classes, attack), np.isin(run.data.y_test.numpy(), classes)
    folder, result = Path(run), read_run(run)
    classes = tuple(result["protected"] if protected is None else sorted(protected))
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


def baseline(run: Run) -> Run | Path:
    """ADV at the run's parameters: what whoever protects a class must beat; found or trained.

    It knows no class and no costs: there is one of it for all classes. The run itself, where that
    is it.
    """
    shared = {"method": "ADV", "protected_class": 0, "miss_cost": 10.0, "alarm_cost": 10.0}
    shared |= {"cost_matrix": "", "offset": "", "init_from": "", "attack_images": "all"}
    experiment = Experiment(**run.experiment.model_dump() | shared)
    same = experiment.identity(run.data).run_id == run.identity.run_id
    return run if same else find_or_run(experiment)


def read_pairs(run: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """`csnb.certified.certified_pairs` (N, m) of a finished run's test images, and their labels.

    As `read_margins` does, from the run's folder, where they are kept. Raises InputError.
    """
    folder, result = Path(run), read_run(run)
    with np.load(folder / "predictions.npz") as arrays:
        labels = arrays["labels"]
    file = pairs_file(folder, result["sha256"]["model.safetensors"])
    pairs = read_kept(file, (len(labels), len(result["classes"])))
    if pairs is None:
        e, network, x, y = _again(folder, result)
        pairs = certified_pairs(network, x, y, e.threat())
        keep(file, pairs)
    return pairs, labels


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
    said = [presence(pd.DataFrame(first["scores"]), name) for name in names]
    lost = "".join(f"**{text}** " for text in said if text.startswith("THE CLASS"))
    name = " or ".join(map(repr, names))
    return (
        f"{lost}**Against {method} with an offset: {found}.** Under attack, with {budget:.1%} of "
        f"the other images called {name}, {reached} of {int(own.sum())} images are recognised: "
        f"{_said(gain, '{:+.2f}')} against {method}. {_price([first, second], protected)}"
    )


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


def rank(
    runs: Mapping[str, Sequence[str | Path]],
    protected: Sequence[int],
    *,
    base: str = "ADV",
    budget: float = 0.01,
    attack: str = ATTACK,
) -> pd.DataFrame:
    """Methods by how much of a class they protect, the best first; each against ``base``.

    ``runs``: by method, folders of finished runs that attacked all test images, in the same order
    of seeds; ``base`` among them. ``protected``: indices of the class, or classes, asked about.

    A row per method. ``recall`` at ``budget`` false alarms under ``attack``, with ``low`` and
    ``high``; ``gain``: that less the base's, paired by image and seed; ``area`` under the curve;
    ``clean`` and ``robust``: average accuracy of all classes, the latter under that attack of the
    run's own which leaves least; ``price``: the robust one less the base's; ``time`` of training by
    the base's; in how many of the ``trainings`` the class was ``lost``: half of the base's clean
    recall is not reached. Intervals hold at 95 % (see `csnb.protection`), those of gain and price
    for all methods at once (Bonferroni). Raises InputError.
    """
    return Gathered(runs, protected, budget=budget, attack=attack).ranked(base)


class Gathered:
    """What `rank` reads of runs; `ranked` gives its frame for any base, and reads nothing again."""

    def __init__(
        self,
        runs: Mapping[str, Sequence[str | Path]],
        protected: Sequence[int],
        *,
        budget: float,
        attack: str = ATTACK,
    ) -> None:
        if len({len(folders) for folders in runs.values()}) > 1 or not all(runs.values()):
            counts = ", ".join(f"{len(folders)} of {name}" for name, folders in runs.items())
            raise InputError(f"runs: {counts}; allowed: as many of each method")
        self.groups = {n: [_Trained(f, protected, attack) for f in runs[n]] for n in runs}
        each = [run for group in self.groups.values() for run in group]
        if any(not np.array_equal(run.labels, each[0].labels) for run in each):
            raise InputError("runs: of different test images; allowed: runs of one data set")
        self.reached = {
            name: Reached(np.stack([run.margins for run in group]), each[0].own, [budget])
            for name, group in self.groups.items()
        }

    def ranked(self, base: str) -> pd.DataFrame:
        """The frame of `rank`. Raises InputError."""
        if base not in self.groups:
            raise InputError(f"base: no run of {base!r}; allowed: {', '.join(self.groups)}")
        level = 1 - 0.05 / max(1, len(self.groups) - 1)
        rows = {
            name: _row(self.reached[name], self.reached[base], level)
            | _cost(group, self.groups[base], level)
            for name, group in self.groups.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
        return frame.sort_values("gain", ascending=False, kind="stable")


def recommendation(ranking: pd.DataFrame, name: str, *, base: str = "ADV") -> str:
    """What to use for class ``name``, in one sentence of Markdown. ``ranking``: of `rank`."""
    others = ranking.drop(index=base)
    sure = others[(others["gain_low"] > 0) & (others["lost"] == 0)]
    best = (sure if len(sure) else others).iloc[:1]
    if best.empty:
        return f"**Use {base} with an offset for {name!r}**: nothing else was tried."
    (method, row), trainings = next(best.iterrows()), int(ranking["trainings"].iloc[0])
    gain = f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
    price = f"{row['price']:+.3f} [{row['price_low']:+.3f}, {row['price_high']:+.3f}]"
    over = f"{trainings} training{'s' if trainings > 1 else ''} of each of {len(ranking)} methods"
    about = f"recall at equal false alarms {gain}, average robust accuracy {price}, {over}"
    if len(sure):
        return f"**Use {method} for {name!r}**: against {base} with an offset, {about}."
    return (
        f"**Use {base} with an offset for {name!r}**: no method is shown to protect it more; "
        f"the nearest, {method}: {about}."
    )


class _Trained:
    """What a finished run answers, and its worst margins."""

    def __init__(self, folder: str | Path, protected: Sequence[int], attack: str) -> None:
        self.margins, self.own = read_margins(folder, protected=protected, attack=attack)
        self.protected, result = list(protected), read_run(folder)
        answers = read_answers(Path(folder))
        self.labels, self.clean = answers.labels, answers.clean
        if not answers.hits or len(answers.attacked) < len(self.labels):
            raise InputError(
                f"{Path(folder).name}: {len(answers.attacked)} of {len(self.labels)} test images "
                "attacked; allowed: runs of attack_images all"
            )
        self.robust = min(answers.hits.values(), key=self.average)
        self.seconds = float(result["seconds"]["train"])

    @property
    def recall(self) -> float:
        """Of the protected classes, clean."""
        return float(np.isin(self.clean[self.own], self.protected).mean())

    def average(self, values: np.ndarray) -> float:
        """Mean over the classes of the mean over their images."""
        return float(np.mean([values[self.labels == c].mean() for c in np.unique(self.labels)]))


def _row(reached: Reached, base: Reached, level: float) -> dict[str, float]:
    """What the curve gives."""
    alone = reached.frame()
    row = dict(zip(("recall", "low", "high"), _ends(alone), strict=True))
    row |= dict(
        zip(("gain", "gain_low", "gain_high"), _ends(reached.frame(base, level)), strict=True)
    )
    return row | {"area": float(alone["value"].iloc[1])}


def _cost(group: Sequence[_Trained], base: Sequence[_Trained], level: float) -> dict[str, float]:
    """What all classes pay, and the training."""
    row = {"clean": float(np.mean([run.average(run.clean == run.labels) for run in group]))}
    row |= {"robust": float(np.mean([run.average(run.robust) for run in group]))}
    price, half = _robust_gap(group, base, level)
    row |= {"price": price, "price_low": price - half, "price_high": price + half}
    seconds = [np.mean([run.seconds for run in g]) for g in (group, base)]
    lost = sum(a.recall < b.recall / 2 for a, b in zip(group, base, strict=True))
    return row | {"time": seconds[0] / seconds[1], "lost": lost, "trainings": len(group)}


def _robust_gap(
    group: Sequence[_Trained], base: Sequence[_Trained], level: float
) -> tuple[float, float]:
    """Average robust accuracy less the base's, paired by image and seed; half its interval."""
    pairs, run = zip(group, base, strict=True), base[0]
    gaps = np.stack([a.robust.astype(float) - b.robust for a, b in pairs])
    each, of_image = np.array([run.average(gap) for gap in gaps]), gaps.mean(0)
    classes = np.unique(run.labels)
    spread = [of_image[run.labels == c].var() / (run.labels == c).sum() for c in classes]
    variance = np.sum(spread) / len(classes) ** 2
    return float(each.mean()), float(half_width([variance], each[:, None], level)[0])


def _ends(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Value, low and high of the first row."""
    value, low, high = frame[["value", "low", "high"]].iloc[0]
    return float(value), float(low), float(high)
