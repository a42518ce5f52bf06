"""Audits of finished runs, kept in their folders."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csnb.attacks import ATTACKS, ThreatModel, keeps_to_ball
from csnb.auditing.of_model import conduct, key, most_images, sample
from csnb.auditing.plan import BUDGETS
from csnb.auditing.report import LEVELS, Audit, Counts
from csnb.auditing.work import Case, Store
from csnb.data.dataset import class_indices
from csnb.errors import InputError, choices
from csnb.experiment import Experiment
from csnb.images import at_once
from csnb.paths import expand
from csnb.pretrained import load_model, run_data
from csnb.runs import inspect, read_run, run_folders, weights_digest
from csnb.runs.audits import NUMBERS, TEXTS, audit_file, read_audits
from csnb.runs.frames import read_answers
from csnb.spec import Spec

SOURCES = ("STD", "ADV")  # methods whose networks are tried from outside


def audit_run(
    folder: str | Path,
    *,
    protected: int | str | Sequence[int | str] | None = None,
    claim: str = "",
    budget: str = "quick",
    images: int | None = None,
    transfer: Sequence[str | Path] | None = None,
    seed: int = 0,
) -> Audit:
    """Audit a finished run under its own threat model; the rows are kept in its folder.

    ``protected``: classes that are to stand; default: the run's. ``claim``: the label of one of its
    attacks; default: the strongest that keeps to the ball. What it left is read from the run's
    predictions. ``transfer``: folders of other runs; default: one of STD and one of ADV on the same
    images beside this one, if there are any. The rest: see `csnb.audit`, InputError too.
    """
    folder = expand(folder, "run")
    result = read_run(folder)
    e = Experiment.of_result(result)
    data = run_data(result)
    own = tuple(result["protected"])
    if protected is not None:
        own = class_indices(protected, data.classes, data.name)
    spec, right, spoken = _claim(folder, e.threat(), own, claim)
    weights = weights_digest(result)
    sources = beside(folder, result) if transfer is None else list(map(Path, transfer))
    chosen = sample(data.y_test, own, most_images(budget, images), seed)
    digests = [weights_digest(read_run(source)) for source in sources]
    content = [weights, budget, images, seed, spec.identity, digests]
    store = Store(audit_file(folder, own, key(content)), len(chosen))
    x, y = at_once(data.x_test[chosen]), data.y_test[chosen]
    model = load_model(folder)
    known = (right | ~spoken)[chosen], spoken[chosen]
    case = Case(model, x, y, e.threat(), own, spec, seed, *known)
    others = {source.name: load_model(source) for source in sources}
    totals = Counts.of(np.isin(data.y_test.numpy(), own))
    names = [data.classes[p] for p in own]
    return conduct(case, BUDGETS[budget], others, store, names, totals, weights)


def audit_runs(folder: str | Path, **settings: Any) -> dict[str, Audit]:
    """Audit the run in ``folder``, or all finished ones in a folder of runs (see `audit_run`).

    By run. Raises InputError.
    """
    folder = expand(folder, "runs")
    found = [folder] if (folder / "result.json").exists() else list(run_folders(folder))
    done = [path for path in found if inspect(path).state == "done"]
    if not done:
        raise InputError(f"runs: {folder} holds no finished run; allowed: a run's folder, or runs")
    return {path.name: audit_run(path, **settings) for path in done}


def beside(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """The first run of each of `SOURCES` on the same images that lies beside, but for itself."""
    found: dict[str, Path] = {}
    for path in run_folders(folder.parent):
        state = inspect(path) if path.name != folder.name else None
        if state is None or state.state != "done" or set(found) == set(SOURCES):
            continue
        method = state.result["parameters"]["method"]
        same = state.result["digests"]["test"] == result["digests"]["test"]
        if same and method in SOURCES and weights_digest(state.result) != weights_digest(result):
            found.setdefault(method, path)
    return list(found.values())


def overview(audits: Mapping[str, Audit]) -> pd.DataFrame:
    """A row per run: claimed, audited, certified, verdict, what is flagged."""
    rows = [{"run": name} | _summary(audit.rows) for name, audit in audits.items()]
    return pd.DataFrame(rows)


def kept_audits(runs: str | Path) -> pd.DataFrame:
    """As `overview`, of every audit that is kept with a finished run in a folder of runs.

    With the run's ``dataset``, ``threat`` model, ``method`` and ``seed``.
    """
    return pd.DataFrame([run | _summary(rows) for run, rows in _kept(runs)])


def kept_rows(runs: str | Path) -> pd.DataFrame:
    """All rows of these audits (see `csnb.auditing.Audit`), with the same of the run; ``file``."""
    parts = [rows.assign(**run) for run, rows in _kept(runs)]
    nothing = pd.DataFrame(columns=[*TEXTS, *NUMBERS, "file", "run"])
    return pd.concat(parts, ignore_index=True) if parts else nothing


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


def _claim(
    folder: Path, threat: ThreatModel, own: Sequence[int], label: str
) -> tuple[Spec, np.ndarray, np.ndarray]:
    """The attack of the claim; which test images are right under it, and which it speaks of."""
    answers = read_answers(folder)
    labels, attacked = answers.labels, answers.attacked
    mine = np.isin(labels[attacked], own)
    inside = {n: h for n, h in answers.hits.items() if keeps_to_ball(n, threat.norm)}
    if not inside or not mine.any():
        raise InputError(
            f"run {folder.name}: no attack within the ball on images of class {own}; "
            "allowed: a run that attacked them"
        )
    if label and label not in inside:
        raise InputError(f"claim: {label!r} is none of the run's; {choices(label, inside)}")
    label = label or min(inside, key=lambda name: inside[name][mine].mean())
    right, spoken = (np.zeros(len(labels), dtype=bool) for _ in range(2))
    right[attacked], spoken[attacked] = inside[label], True
    return ATTACKS.parse(label), right, spoken
