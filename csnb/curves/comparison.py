"""One class over the runs of a sweep: who protects it, at which price, and was it the costs?"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from csnb.batch import run_ids
from csnb.curves.of_runs import read_margins
from csnb.curves.ranking import Gathered, gains, rank
from csnb.data.dataset import class_indices
from csnb.errors import InputError
from csnb.experiment import Experiment
from csnb.margins import protection
from csnb.runs import RESULTS, finished, read_run, weights_digest
from csnb.spec import METHODS

BASE, CONTROL = "ADV", "CSA, costs 1"  # the latter: CSA's loss, which knows no class then
UNUSUAL = re.compile(r", (eps \S+|\d+ epochs)$")  # how the names of runs beside the others end
BY_COSTS = ("CSA", "CSA+L2", "CSE", "CSE+ADV", "MARGIN", "IBP", "CROWN-IBP")
NEUTRAL = {  # options at which a method knows no class
    "WEIGHT": ("weight", 1), "TRADES": ("weight", 1), "RADIUS": ("factor", 1),
    "REST": ("weight", 0), "DAFA": ("strength", 0),
    "IBP": ("weight", 0), "CROWN-IBP": ("weight", 0),
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Finished runs that say something of class ``p``, of one data set and threat model.

    ``runs``: folders by method and seed (see `comparable`). ``budget``: the share of the other
    images that may be called p. ``name``: data set, p and eps, for titles.
    """

    runs: Mapping[str, Mapping[int, Path]]
    p: int
    budget: float
    name: str

    @classmethod
    def of_sweep(
        cls, sweep: str | Path, p: int | str, *, budget: float = 0.01, folder: str | Path = RESULTS
    ) -> Self:
        """Of what is done of a sweep file; ``p``: index or name. Raises InputError."""
        runs = comparable(folder, run_ids(sweep), p)
        missing = [name for name in (BASE, CONTROL) if name not in runs]
        if missing:
            raise InputError(f"sweep: no run of {missing[0]} is done; allowed: {sweep} with one")
        if not set(runs[BASE]) & set(runs[CONTROL]):
            raise InputError(f"sweep: no seed of both {BASE} and {CONTROL!r} is done; allowed: one")
        first = next(iter(runs[BASE].values()))
        known = read_run(first)
        (index,) = class_indices([p], known["classes"], known["parameters"]["dataset"])
        return cls(runs, index, budget, class_name(first, index))

    @cached_property
    def usual(self) -> dict[str, Mapping[int, Path]]:
        """The ``runs`` but for those of another radius or other epochs."""
        return {name: each for name, each in self.runs.items() if not UNUSUAL.search(name)}

    @cached_property
    def whole(self) -> dict[str, list[Path]]:
        """Folders of the methods that have every seed of both ADV and the control, by seed."""
        seeds = sorted(set(self.runs[BASE]) & set(self.runs[CONTROL]))
        return {
            name: [each[seed] for seed in seeds]
            for name, each in self.usual.items()
            if set(seeds) <= set(each)
        }

    @cached_property
    def gathered(self) -> Gathered:
        """What was read of `whole`."""
        return Gathered(self.whole, [self.p], budget=self.budget)

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """`rank` of `whole`."""
        return self.against(BASE)

    def against(self, base: str) -> pd.DataFrame:
        """The same with another ``base`` to beat."""
        return self.gathered.ranked(base)

    def screened(self) -> pd.DataFrame:
        """`rank` of one training of every method, on the seed that most have."""
        seeds = Counter(seed for each in self.usual.values() for seed in each)
        seed = seeds.most_common(1)[0][0]
        first = {name: [each[seed]] for name, each in self.usual.items() if seed in each}
        return rank(first, [self.p], budget=self.budget)

    def claim(self) -> pd.DataFrame:
        """What the runs say of "CSA protects p more than ADV": `gain` with its ends, `verdict`.

        A row per pair of ``against`` - ADV, and the control - and CSA's costs.
        """
        parts = []
        for base in (BASE, CONTROL):
            found = self.against(base).drop(index=base)
            parts.append(found[found.index.str.startswith("CSA")].assign(against=base))
        rows = pd.concat(parts).reset_index().set_index(["against", "method"])
        said = np.select(
            [rows["gain_low"] > 0, rows["gain_high"] < 0], ["more", "LESS"], "not shown"
        )
        columns = ["gain", "gain_low", "gain_high", "trainings"]
        return rows[columns].assign(verdict=said)

    def over_epochs(self) -> pd.DataFrame:
        """Recall at the budget of one training, by method and epochs, where several were tried."""
        longer = [name for name in self.runs if name.endswith(" epochs")]
        methods = dict.fromkeys(name.rpartition(", ")[0] for name in longer)
        rows = []
        for method in methods:
            for name in [method, *longer]:
                if name == method or name.rpartition(", ")[0] == method:
                    each = self.runs.get(name, {})
                    if each:
                        rows.append({"method": method} | self._of_epochs(each[min(each)]))
        columns = ["method", "epochs", "value", "low", "high"]
        return pd.DataFrame(rows, columns=columns).sort_values(["method", "epochs"])

    def _of_epochs(self, folder: Path) -> dict[str, Any]:
        margins, own = read_margins(folder, protected=[self.p])
        reached = protection(margins, own, budgets=[self.budget]).iloc[0]
        epochs = read_run(folder)["parameters"]["epochs"]
        return {"epochs": epochs, **reached[["value", "low", "high"]]}

    def margins(self, names: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`csnb.read_margins` of the first training of each of these methods."""
        first = {name: self.whole[name][0] for name in names}
        return {name: read_margins(folder, protected=[self.p]) for name, folder in first.items()}


def comparable(folder: str | Path, ids: Iterable[str], p: int | str) -> dict[str, dict[int, Path]]:
    """Of these runs in ``folder``, those that are done and say something of class ``p``.

    ``p``: index or name. Folders by method and seed. A method's name has its options, costs that
    are not 10 and 10, its offset, and a radius and epochs that are not those of most runs. One that
    knows no class, such as ADV without an offset, stands there for every class. Raises InputError
    for two runs of one name and seed that trained different networks.
    """
    results = {status.folder: status.result for status in finished(folder, ids)}
    each = {k: Counter(r["parameters"][k] for r in results.values()) for k in ("eps", "epochs")}
    usual = {k: counts.most_common(1)[0][0] for k, counts in each.items() if counts}
    found: dict[str, dict[int, Path]] = {}
    for place, result in results.items():
        wanted = class_indices([p], result["classes"], result["parameters"]["dataset"])
        if tuple(result["protected"]) == wanted or not _knows_class(result):
            name, seed = _named(result, usual), result["parameters"]["seed"]
            other = found.setdefault(name, {}).setdefault(seed, place)
            if weights_digest(results[other]) != weights_digest(result):
                raise InputError(
                    f"runs: {other.name} and {place.name} are both {name} of seed {seed}; "
                    "allowed: one of each method and seed"
                )
    return found


def sweep_gains(
    sweep: str | Path, classes: Iterable[int], *, budget: float = 0.01, folder: str | Path = RESULTS
) -> dict[str, pd.DataFrame]:
    """`gains` of what is done of a sweep file, by the names of those ``classes`` with ADV and CSA.

    Of one seed at least. Raises InputError.
    """
    ids, found = run_ids(sweep), {}
    for p in classes:
        runs = comparable(folder, ids, p)
        if set(runs.get(BASE, {})) & set(runs.get("CSA", {})):
            name = class_name(next(iter(runs[BASE].values())), p)
            found[name] = gains(runs, [p], base=BASE, budget=budget)
    return found


def class_name(run: str | Path, p: int) -> str:
    """Data set, class ``p`` and threat model of a finished run, for titles."""
    result = read_run(run)
    name = result["classes"][p]
    named = f"{p}" if name == str(p) else f"{p} ({name})"
    return f"{result['parameters']['dataset']} {named}, {Experiment.of_result(result).threat()}"


def _knows_class(result: Mapping[str, Any]) -> bool:
    """Whether the run tells a class from the others; without weight, costs, offset nothing does."""
    if result["parameters"].get("offset"):  # the first committed runs are older than it
        return True
    spec, costs = METHODS.parse(result["parameters"]["method"]), np.array(result["costs"])
    option, neutral = NEUTRAL.get(spec.name, ("", None))
    if spec.name in ("STD", "ADV") or (option and spec.options[option] == neutral):
        return False
    alike = np.ptp(costs[~np.eye(len(costs), dtype=bool)]) == 0
    return not (spec.name in BY_COSTS and alike)


def _named(result: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    asked, name = result["parameters"], METHODS.parse(result["parameters"]["method"]).label
    costs = dict.fromkeys([asked["miss_cost"], asked["alarm_cost"]])
    if asked["cost_matrix"]:
        name += ", costs by a matrix"
    elif list(costs) != [10.0]:
        name += ", costs " + " and ".join(f"{cost:g}" for cost in costs)
    if asked.get("offset"):
        name += f", offset {asked['offset']}"
    if asked["eps"] != usual["eps"]:
        name += f", eps {asked['eps']:g}"
    return name if asked["epochs"] == usual["epochs"] else f"{name}, {asked['epochs']} epochs"
