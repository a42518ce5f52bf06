"""A sweep file as a list of runs, how far each of them is, and how long the others will take."""

import itertools
import json
import math
import shlex
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from csnb.batch.child import verbatim
from csnb.errors import InputError, choices, one_line, shown
from csnb.experiment import PLACE, Experiment
from csnb.params import find, read_yaml
from csnb.paths import PARAMS, RESULTS, expand, read_file, resolve
from csnb.runs import Identity, Status, inspect
from csnb.spec import explain, split

SWEEPS = PARAMS / "sweeps"
MOST = 100_000  # runs of a grid
KIND = ("dataset", "method", "epochs", "attacks", "attack_images")  # what a run's time depends on
ALIKE = (5, 3, 1)  # so many of these equal: all; data and training; data


class Sweep(BaseModel):
    """What a sweep file holds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    notebook: str = Field(description="an .ipynb with a cell tagged parameters")
    params: str | None = Field(None, description="a YAML of parameters")
    grid: dict[str, Any] | None = Field(None, description="names with lists of values")
    also: list[dict[str, Any]] | None = Field(None, description="more such grids")
    timeout: int | None = Field(
        None, ge=1, le=100_000_000, description="seconds that a run may take"
    )


@dataclass(frozen=True)
class Job:
    """One run of a sweep, and what it is executed with.

    ``parameters``: what the notebook is given. ``kind``: see `KIND`. ``timeout``: seconds that it
    may take; None: any. ``cwd``: where relative paths among the parameters are taken from.
    """

    run_id: str
    runs: Path
    parameters: dict[str, Any]
    kind: tuple[Any, ...]
    notebook: Path
    timeout: int | None
    cwd: Path

    @property
    def folder(self) -> Path:
        """Where its result will be."""
        return self.runs / self.run_id

    def look(self) -> Status:
        """How far it is. Raises InputError if its inputs have changed since it was planned."""
        identity = Experiment(**self.parameters).identity()
        if identity.run_id != self.run_id:
            raise InputError(f"run {self.run_id}: its inputs have changed; allowed: plan it again")
        return inspect(self.folder, identity)

    def command(self) -> str:
        """A line for a POSIX shell that executes it by papermill."""
        found = shutil.which("papermill") == str(Path(sys.executable).with_name("papermill"))
        words = ["papermill"] if found else [sys.executable, "-m", "papermill"]
        words += [verbatim(self.notebook), verbatim(self.runs / f"{self.run_id}.ipynb")]
        for name, value in self.parameters.items():
            words += ["-r" if isinstance(value, str) else "-p", name, str(value)]
        return f"mkdir -p {shlex.quote(str(self.runs))} && {shlex.join(words)}"


Plan = list[tuple[Job, Status]]


def make_plan(
    file: str | Path, runs: str | Path = "runs", only: Mapping[str, Any] | None = None
) -> Plan:
    """The runs of a sweep file, checked down to their inputs, and how far each is in ``runs``.

    ``file``: a YAML, or the name of one of csnb's own. ``only``: keep the runs whose parameters
    have these values. Raises InputError for whatever is wrong.
    """
    only = only or {}
    if not isinstance(only, Mapping) or not all(isinstance(name, str) for name in only):
        raise InputError(f"only: {shown(only)} is not allowed; allowed: names with values")
    jobs = _jobs(_own(file), resolve(runs, "runs"), dict(only))
    return [(job, replace(inspect(job.folder, content), result=None)) for job, content in jobs]


def run_ids(file: str | Path) -> list[str]:
    """The ids of a sweep file's runs, in its order. Raises InputError."""
    return [job.run_id for job, _ in _jobs(_own(file), Path(), {})]


def estimate(plan: Plan) -> tuple[float, Counter[str]]:
    """Seconds of work that is left, and for how many runs each source spoke.

    A run counts as the mean of those most like it (see `ALIKE`), of this sweep, else committed with
    csnb; as 0 where none is known.
    """
    known, sources = defaultdict(list), ("of this sweep", "committed with csnb")
    own = [(job.kind, status.seconds) for job, status in plan if status.state == "done"]
    for source, runs in zip(sources, (own, _committed()), strict=True):
        for kind, seconds in runs:
            for n in ALIKE:
                known[kind[:n], source].append(seconds)
    means = {key: fmean(seconds) for key, seconds in known.items()}
    total, spoke = 0.0, Counter[str]()
    for job in (job for job, status in plan if status.state != "done"):
        keys = ((job.kind[:n], source) for n in ALIKE for source in sources)
        key = next((key for key in keys if key in means), ((), "nothing is known of"))
        total += means.get(key, 0.0)
        spoke[key[1]] += 1
    return total, spoke


def parse_only(text: str) -> dict[str, str]:
    """``"method=CSE(gamma=10, convs=1), protected_class=3"`` as a mapping. Raises InputError."""
    pairs: list[list[str]] = []
    for part in split(text):
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            pairs.append([name.strip(), value.strip()])
        elif pairs:  # a comma of the value's own: attacks=FGSM, PGD(steps=3)
            pairs[-1][1] += f", {part}"
        else:
            raise InputError(f"only: {part!r} is not allowed; allowed: name=value, name=value")
    return dict(pairs)


def _own(file: str | Path) -> Path:
    """A sweep file by its path, or one of csnb's own by its name. Raises InputError."""
    found = find(file, SWEEPS)
    if not found.is_file():
        names = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
        raise InputError(f"sweep: no file {str(file)!r}; {choices(str(file), names, 'a path')}")
    return found


def _jobs(file: Path, runs: Path, only: Mapping[str, Any]) -> Iterator[tuple[Job, Identity]]:
    """Every run of the sweep, once, in order, as job and content. Raises InputError."""
    sweep = _read(file)
    notebook = _notebook(file.parent / sweep.notebook)
    places: dict[str, dict[str, Any]] = {}
    for given in _parameters(file, sweep):
        if "runs" in given:
            raise InputError(f"runs: a parameter in {file}; allowed: an argument of the sweep")
        # one thread: scores do not depend on how many run at once
        parameters = {"threads": 1} | given | {"runs": str(runs)}
        experiment = Experiment(**parameters)
        if only and not _same(experiment, Experiment(**parameters | only)):
            continue
        identity, place = experiment.identity(), experiment.model_dump(include=PLACE)
        run_id = identity.run_id
        if run_id not in places:
            kind = tuple(identity.parameters[name] for name in KIND)
            job = Job(run_id, runs, parameters, kind, notebook, sweep.timeout, Path.cwd())
            yield job, identity
        if places.setdefault(run_id, place) != place:
            name = next(n for n in sorted(place) if place[n] != places[run_id][n])
            both = f"{place[name]!r} and {places[run_id][name]!r}"
            raise InputError(f"{name}: {both} for one run in {file}; allowed: one of them")
    if not places:
        what = f"only: {dict(only)} fits no run of" if only else "grid: [] leaves no run in"
        raise InputError(f"{what} {file}; allowed: values that make at least one")


def _same(experiment: Experiment, other: Experiment) -> bool:
    """Whether two experiments are one, a class by its name or its index."""
    p, q = experiment.protected_class, other.protected_class
    if other.model_copy(update={"protected_class": p}) != experiment:
        return False
    return p == q or experiment.identity().protected == other.identity().protected


def _read(file: Path) -> Sweep:
    """A sweep file. Raises InputError."""
    content = read_yaml(file)
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        text = explain(error, content, Sweep.model_fields, "entry")
        raise InputError(f"{text} (in {file})") from None


def _parameters(file: Path, sweep: Sweep) -> Iterator[dict[str, Any]]:
    """The parameters of each run: the base with each of the grid, then with each of ``also``."""
    grids = [sweep.grid or {}] if sweep.grid or not sweep.also else []
    grids += sweep.also or []
    number = sum(math.prod(map(len, _lists(grid).values())) for grid in grids)
    if number > MOST:
        raise InputError(f"grid: {number} runs in {file}; allowed: up to {MOST}")
    for grid in grids:
        params = grid.get("params", sweep.params)
        base = read_yaml(expand(file.parent / str(params), "params")) if params else {}
        own = _lists(grid)
        yield from (
            base | dict(zip(own, values, strict=True))
            for values in itertools.product(*own.values())
        )


def _lists(grid: Mapping[str, Any]) -> dict[str, list[Any]]:
    """A grid's own parameters, each with its values."""
    own = {name: value for name, value in grid.items() if name != "params"}
    return {name: value if isinstance(value, list) else [value] for name, value in own.items()}


def _notebook(path: Path) -> Path:
    """The path, after a look at whether papermill can run it. Raises InputError."""
    try:
        cells = json.loads(read_file(path))["cells"]
        if any("parameters" in cell["metadata"].get("tags", ()) for cell in cells):
            return path.resolve()
        reason = "has no cell tagged parameters"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"cannot be read ({one_line(error)})"
    allowed = Sweep.model_fields["notebook"].description
    raise InputError(f"notebook: {path} {reason}; allowed: {allowed}")


def _committed() -> Iterator[tuple[tuple[Any, ...], float]]:
    """Kind and seconds of each run that is committed with csnb."""
    for file in sorted(RESULTS.glob("*/result.json")):
        try:
            result = json.loads(file.read_bytes())
            kind = tuple(result["parameters"][name] for name in KIND)
            yield kind, float(sum(result["seconds"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
