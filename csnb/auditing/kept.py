"""What audits left, in tables: those at hand, those kept with runs, one method's by another's."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csnb.auditing.report import LEVELS, Audit
from csnb.experiment import Experiment
from csnb.runs import inspect, run_folders, weights_digest
from csnb.runs.audits import NUMBERS, TEXTS, read_audits
from csnb.statistics import difference

PLACE = ["dataset", "threat", "class", "seed"]
RUN = ["run", "dataset", "threat", "method", "seed"]
SUMMARY = ["class", "n", "claim", *LEVELS, "low", "high", "verdict", "flagged"]


def overview(audits: Mapping[str, Audit]) -> pd.DataFrame:
    """A row per run: claimed, audited, certified, verdict, what is flagged."""
    rows = [{"run": name} | _summary(audit.rows) for name, audit in audits.items()]
    return pd.DataFrame(rows)


def kept_audits(runs: str | Path) -> pd.DataFrame:
    """As `overview`, of every audit that is kept with a finished run in a folder of runs.

    With the run's ``dataset``, ``threat`` model, ``method`` and ``seed``.
    """
    rows = [run | _summary(rows) for run, rows in _kept(runs)]
    return pd.DataFrame(rows, columns=[*RUN, *SUMMARY])


def kept_rows(runs: str | Path) -> pd.DataFrame:
    """All rows of these audits (see `csnb.auditing.Audit`), with the same of the run; ``file``."""
    parts = [rows.assign(**run) for run, rows in _kept(runs)]
    nothing = pd.DataFrame(columns=[*TEXTS, *NUMBERS, "file", "run"])
    return pd.concat(parts, ignore_index=True) if parts else nothing


def fullest(kept: pd.DataFrame) -> pd.DataFrame:
    """Of each run's class the audit of most images; of several, the one that left the least."""
    rows = kept.sort_values(["n", "audited"], ascending=[False, True])
    return rows.drop_duplicates(["run", "class"])


def compared(kept: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """What audits left of the class to the ``first`` method, beside the ``second``.

    ``kept``: of `kept_audits`. A row per data set, threat model, class and seed that both were
    audited on, each by one network: the shares ``first`` and ``second``, their ``difference`` with
    ``low`` and ``high`` (Newcombe's 95 % interval, as if the images were not the same: on the safe
    side where both tend to stand on the same ones) and ``verdict``: above, below, or unclear where
    it holds 0.
    """
    rows = fullest(kept)
    one, other = (rows[rows["method"] == name] for name in (first, second))
    both = one.merge(other, on=PLACE, suffixes=("", "_other")).sort_values(PLACE)
    low, high = difference(both["audited"], both["n"], both["audited_other"], both["n_other"])
    return both[PLACE].assign(
        first=both["audited"],
        second=both["audited_other"],
        difference=both["audited"] - both["audited_other"],
        low=low,
        high=high,
        verdict=np.select([low > 0, high < 0], ["above", "below"], "unclear"),
    )


def _kept(runs: str | Path) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """What is said of a run, and the rows of one of its audits."""
    for path in run_folders(runs):
        found = inspect(path)
        if found.state == "done":
            asked = found.result["parameters"]
            run = {"run": path.name, "dataset": asked["dataset"]}
            run |= {"threat": str(Experiment.of_result(found.result).threat())}
            run |= {"method": asked["method"], "seed": asked["seed"]}
            yield from ((run, rows) for rows in read_audits(path, weights_digest(found.result)))


def _summary(rows: pd.DataFrame) -> dict[str, object]:
    verdict = rows[rows["part"] == "verdict"].iloc[0]
    accuracy = rows[(rows["part"] == "accuracy") & (rows["class"] == verdict["class"])]
    own = accuracy.set_index("name")
    signs = rows[(rows["part"] == "indicator") & (rows["flagged"].astype(str) == "True")]
    known = {"class": verdict["class"], "n": int(verdict["n"]), "claim": rows["claim"].iloc[0]}
    known |= {level: float(own["value"].get(level, np.nan)) for level in LEVELS}
    known |= {"low": float(own["low"]["audited"]), "high": float(own["high"]["audited"])}
    return known | {"verdict": verdict["name"], "flagged": ", ".join(signs["name"])}
