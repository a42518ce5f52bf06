"""Methods ranked by how much of a class they protect: gain, price and time, over trainings."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.attacks import keeps_to_ball
from csnb.curves.of_runs import read_margins
from csnb.errors import InputError
from csnb.margins import ATTACK, Reached
from csnb.markdown import signed_ends
from csnb.runs import read_run
from csnb.runs.frames import read_answers
from csnb.statistics import half_width


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
    ``as_trained``: recall under that attack of the networks as they stand, at ``alarms``;
    ``clean`` and ``robust``: average accuracy of all classes, the latter under that attack of the
    run's own within the ball which leaves least; ``price``: the robust one less the base's;
    ``time`` of training by the base's; in how many of the ``trainings`` the class was ``lost``:
    half of the base's clean recall is not reached. Intervals hold at 95 % (see `csnb.protection`),
    those of gain and price for all methods at once (Bonferroni). Raises InputError.
    """
    return Gathered(runs, protected, budget=budget, attack=attack).ranked(base)


def gains(
    runs: Mapping[str, Mapping[int, str | Path]],
    protected: Sequence[int],
    *,
    base: str = "ADV",
    budget: float = 0.01,
    attack: str = ATTACK,
) -> pd.DataFrame:
    """As `rank`, of margins alone: also of runs that attacked only some of the test images.

    ``runs``: by method and seed, as `comparable` gives them; a method counts by the seeds that it
    shares with the base, and not at all if there are none. Columns: ``recall`` to ``area`` of
    `rank`, and ``trainings``. Raises InputError.
    """
    if base not in runs:
        raise InputError(f"base: no run of {base!r}; allowed: {', '.join(runs)}")
    shared = {name: sorted(each.keys() & runs[base].keys()) for name, each in runs.items()}
    shared = {name: seeds for name, seeds in shared.items() if seeds}
    folders = (runs[name][seed] for name, seeds in shared.items() for seed in seeds)
    _check_images(read_run(folder)["digests"]["test"] for folder in folders)
    asked = {(each, *seeds) for name, seeds in shared.items() for each in (name, base)}
    read = {
        (name, *seeds): _reached([runs[name][s] for s in seeds], protected, budget, attack)
        for name, *seeds in asked
    }
    level = _level(shared)
    rows = {
        name: _row(read[name, *seeds], read[base, *seeds], level) | {"trainings": len(seeds)}
        for name, seeds in shared.items()
    }
    return _ranked(rows)


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
        _check_images(run.images for run in each)
        self.reached = {
            name: Reached(np.stack([run.margins for run in group]), each[0].own, [budget])
            for name, group in self.groups.items()
        }

    def ranked(self, base: str) -> pd.DataFrame:
        """The frame of `rank`. Raises InputError."""
        if base not in self.groups:
            raise InputError(f"base: no run of {base!r}; allowed: {', '.join(self.groups)}")
        level = _level(self.groups)
        rows = {
            name: _row(self.reached[name], self.reached[base], level)
            | _cost(group, self.groups[base], level)
            for name, group in self.groups.items()
        }
        return _ranked(rows)


def signed(row: Mapping[str, float], name: str) -> str:
    """The ``name`` of a row that `rank` gives, with its interval and a sign each."""
    return signed_ends(*(row[name + end] for end in ("", "_low", "_high")))


def shown(rows: pd.DataFrame) -> pd.Series:
    """Of which ``rows`` that `rank` gives it is shown that they gain, and never lost the class."""
    return (rows["gain_low"] > 0) & (rows["lost"] == 0)


def protects_most(ranking: pd.DataFrame, base: str = "ADV") -> str:
    """Of the methods that never lost the class, the first that is shown to gain, else the first.

    ``ranking``: of `rank`, with another method than the base. Where all lost it, the first of them.
    """
    others = ranking.drop(index=base)
    kept = others[others["lost"] == 0]
    ranked = (others[shown(others)], kept, others)
    return str(next(each for each in ranked if len(each)).index[0])


def recommendation(ranking: pd.DataFrame, name: str, *, base: str = "ADV") -> str:
    """What to use for class ``name``, in Markdown. ``ranking``: of `rank`."""
    others = ranking.drop(index=base)
    if others.empty:
        return f"**Use {base} with an offset for {name!r}**: nothing else was tried."
    method = protects_most(ranking, base)
    row, trainings = others.loc[method], int(ranking["trainings"].iloc[0])
    gain, price = signed(row, "gain"), signed(row, "price")
    over = f"{trainings} training{'s' if trainings > 1 else ''} of each of {len(ranking)} methods"
    about = f"recall at equal false alarms {gain}, average robust accuracy {price}, {over}"
    if shown(others)[method]:
        return f"**Use {method} for {name!r}**: against {base} with an offset, {about}."
    gone = others[others["gain_low"] > 0]  # and lost the class, or it would be recommended
    lost = "".join(
        f" {other} gains {signed(r, 'gain')}, but without an offset it loses the class in "
        f"{r['lost']:.0f} of {trainings}."
        for other, r in gone.iterrows()
    )
    which = "no method that keeps the class" if lost else "no method"
    return (
        f"**Use {base} with an offset for {name!r}**: {which} is shown to protect it more; "
        f"the nearest, {method}: {about}.{lost}"
    )


class _Trained:
    """What a finished run answers, and its worst margins."""

    def __init__(self, folder: str | Path, protected: Sequence[int], attack: str) -> None:
        self.margins, self.own = read_margins(folder, protected=protected, attack=attack)
        self.protected, result = list(protected), read_run(folder)
        answers, norm = read_answers(Path(folder)), result["parameters"]["norm"]
        self.labels, self.clean = answers.labels, answers.clean
        self.images = result["digests"]["test"]
        if len(answers.attacked) < len(self.labels):
            raise InputError(
                f"{Path(folder).name}: {len(answers.attacked)} of {len(self.labels)} test images "
                "attacked; allowed: runs of attack_images all"
            )
        inside = [hits for name, hits in answers.hits.items() if keeps_to_ball(name, norm)]
        if not inside:
            raise InputError(
                f"{Path(folder).name}: attacked by {', '.join(answers.hits)}; "
                "allowed: runs with an attack that keeps to the ball"
            )
        self.robust = min(inside, key=self.average)
        self.seconds = float(result["seconds"]["train"])

    @property
    def recall(self) -> float:
        """Of the protected classes, clean."""
        return float(np.isin(self.clean[self.own], self.protected).mean())

    def average(self, values: np.ndarray) -> float:
        """Mean over the classes of the mean over their images."""
        return float(np.mean([values[self.labels == c].mean() for c in np.unique(self.labels)]))


def _check_images(digests: Iterable[str]) -> None:
    """Raises InputError unless these, of runs' test images, are the same."""
    if len(set(digests)) > 1:
        raise InputError("runs: of different test images; allowed: runs of one data set")


def _reached(
    folders: Sequence[str | Path], protected: Sequence[int], budget: float, attack: str
) -> Reached:
    """Of the kept margins of a method's trainings."""
    read = [read_margins(f, protected=protected, attack=attack) for f in folders]
    return Reached(np.stack([margins for margins, _ in read]), read[0][1], [budget])


def _level(methods: Collection[str]) -> float:
    """Of each interval, so that all but the base's hold at 95 % at once (Bonferroni)."""
    return 1 - 0.05 / max(1, len(methods) - 1)


def _ranked(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Rows by method as a frame, the largest gain first."""
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return frame.sort_values("gain", ascending=False, kind="stable")


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
    row = {
        name: float(np.mean([(run.margins[run.own == own] > 0).mean() for run in group]))
        for name, own in (("as_trained", True), ("alarms", False))
    }
    row |= {"clean": float(np.mean([run.average(run.clean == run.labels) for run in group]))}
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
