"""Audits of finished runs, each kept in its run's folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from csnb.attacks import ATTACKS, ThreatModel, keeps_to_ball
from csnb.auditing.of_model import conduct, key, most_images, sample
from csnb.auditing.plan import BUDGETS
from csnb.auditing.report import Audit, Counts
from csnb.auditing.work import Case, Store
from csnb.data.dataset import class_indices
from csnb.errors import InputError, choices
from csnb.experiment import Experiment
from csnb.images import at_once
from csnb.paths import expand
from csnb.pretrained import load_model, run_data
from csnb.runs import inspect, read_run, run_folders, weights_digest
from csnb.runs.audits import audit_file
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
