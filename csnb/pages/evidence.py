"""Finished runs, as the pages ask for them: each part is read once."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from csnb.auditing import kept_audits
from csnb.batch import make_plan, run_ids
from csnb.certified import CERTIFIED
from csnb.curves import (
    Comparison,
    as_they_stand,
    class_name,
    comparable,
    rank,
    read_certified,
    sweep_gains,
)
from csnb.errors import InputError
from csnb.paper import Table, minmax
from csnb.runs import RESULTS, finished, read_histories

TABLES = {  # sweeps of which the first whose runs are all done is the table, else the last
    "mnist": ("mnist_table2",),
    "cifar10": ("cifar10_table3",),
    "cifar100": ("cifar100_table4", "cifar100_narrow"),
}
FIGURE_6 = ({"method": "STD"}, {"method": "CSE", "protected_class": 21})  # of Table IV
CURVES = (  # sweep, classes, false alarms that are allowed
    ("protection_mnist", (8, 0, 3), 0.01),
    ("protection_fashion_mnist", (6, 1, 3), 0.01),
    ("protection_cifar10", (3, 1, 0), 0.05),
)
OFFSETS = "protection_offset"
PUBLISHED = (  # the same, of the paper's own tables, which attacked the protected class alone
    ("mnist_table2", (8, 0, 3), 0.01),
    ("cifar10_table3", (3, 1, 0), 0.05),
)
GUARANTEES = (  # the same, of certified training and certified false alarms
    ("certified_mnist", (8, 5, 3), 0.01),
    ("certified_fashion_mnist", (6,), 0.01),
    ("certified_cifar10", (3,), 0.05),
)
TERM, PLAIN = "IBP", "IBP(weight=0)"


class Evidence:
    """Finished runs in ``folder``, as the paper orders them; each part is read once."""

    def __init__(self, folder: str | Path = RESULTS) -> None:
        self.folder = Path(folder)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """By data set."""
        ids = {name: run_ids(sweep) for name, sweep in self.sweeps.items()}
        return {name: Table(name, self.folder, each) for name, each in ids.items()}

    @cached_property
    def sweeps(self) -> dict[str, str]:
        """The one of `TABLES` behind each table, by data set."""
        return {name: next(filter(self._whole, of), of[-1]) for name, of in TABLES.items()}

    def _whole(self, sweep: str) -> bool:
        ids = run_ids(sweep)
        return len(finished(self.folder, ids)) == len(ids)

    @cached_property
    def curves(self) -> list[Comparison]:
        """Of the protected classes for which ADV, the control and CSA are done."""
        found = []
        for sweep, classes, budget in CURVES:
            for p in classes:
                try:
                    one = Comparison.of_sweep(sweep, p, budget=budget, folder=self.folder)
                except InputError:
                    continue
                found += [one] if "CSA" in one.whole else []
        return found

    @cached_property
    def offsets(self) -> pd.DataFrame:
        """`as_they_stand` of the runs whose offset was chosen on held-out images."""
        return as_they_stand(one.folder for one in finished(self.folder, run_ids(OFFSETS)))

    @cached_property
    def published(self) -> pd.DataFrame:
        """`sweep_gains` of the tables in the paper's own ball: a row per class and method."""
        found = {}
        for sweep, classes, budget in PUBLISHED:
            found |= sweep_gains(sweep, classes, budget=budget, folder=self.folder)
        return pd.concat(found, names=["class"]) if found else pd.DataFrame()

    @cached_property
    def guarantees(self) -> pd.DataFrame:
        """What the term for the class guarantees over plain IBP: a row per class.

        Columns of `rank` of certified margins, ``budget``, and ``certified``: average accuracy of
        all classes that no attack can lower, less that of plain IBP.
        """
        rows = {}
        for sweep, classes, budget in GUARANTEES:
            ids = run_ids(sweep)
            for p in classes:
                each = comparable(self.folder, ids, p)
                seeds = sorted(each.get(TERM, {}).keys() & each.get(PLAIN, {}).keys())
                runs = {name: [each[name][seed] for seed in seeds] for name in (TERM, PLAIN)}
                if seeds:
                    name = class_name(runs[TERM][0], p)
                    rows[name] = {"budget": budget} | _guaranteed(runs, p, budget)
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def figures(self) -> dict[tuple[str, str, bool], Path]:
        """Runs behind the figures by data set, method, and whether each epoch was attacked."""
        found = {}
        for status in finished(self.folder, run_ids("figures")):
            asked = status.result["parameters"]
            key = (asked["dataset"], asked["method"], bool(asked["monitor"]))
            found[key] = status.folder
        return found

    @cached_property
    def trends(self) -> dict[str, list[Path]]:
        """Runs behind figure 5, of STD and of CSE, by data set, where both are done."""
        names = {d: [(d, m, True) for m in ("STD", "CSE")] for d in ("mnist", "cifar10")}
        done = {d: keys for d, keys in names.items() if set(keys) <= set(self.figures)}
        return {d: [self.figures[key] for key in keys] for d, keys in done.items()}

    @cached_property
    def first_layers(self) -> pd.DataFrame:
        """`csnb.paper.minmax.networks` of Table II."""
        return minmax.networks(self.tables["mnist"].folders)

    @cached_property
    def courses(self) -> pd.DataFrame:
        """How STD and CSE trained for Table II (see `read_histories`)."""
        table = self.tables["mnist"]
        methods = [result["parameters"]["method"] for result in table.results]
        found = zip(table.folders, methods, strict=True)
        folders = [folder for folder, method in found if method in ("STD", "CSE")]
        return read_histories(folders) if folders else pd.DataFrame(columns=["seed"])

    @cached_property
    def resnets(self) -> list[Path]:
        """Runs behind figure 6, of STD and of CSE for its class, where both are done."""
        plans = [make_plan(self.sweeps["cifar100"], self.folder, only) for only in FIGURE_6]
        found = [status for plan in plans for _, status in plan]
        return [one.folder for one in found] if all(one.state == "done" for one in found) else []

    @cached_property
    def times(self) -> pd.DataFrame:
        """How long methods train, by ADV: a row per data set and method, where they were timed.

        Columns ``ratio`` (median), ``least`` and ``most``, of benchmarks/training_time.py's rounds.
        """
        names, file = ["dataset", "method"], self.folder.parent / "training_time.csv"
        frame = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=names)
        return frame.set_index(names)

    @cached_property
    def audits(self) -> pd.DataFrame:
        """Of every run (see `csnb.auditing.kept_audits`)."""
        return kept_audits(self.folder)


def _guaranteed(runs: Mapping[str, Sequence[Path]], p: int, budget: float) -> dict[str, float]:
    ranked = rank(runs, [p], base=PLAIN, budget=budget, attack=CERTIFIED)
    means = {}
    for name, folders in runs.items():
        of_all = [read_certified(folder).set_index("measure") for folder in folders]
        means[name] = float(np.mean([scores.loc["average", "value"] for scores in of_all]))
    return {**ranked.loc[TERM], "certified": means[TERM] - means[PLAIN]}
