"""A sweep file as a list of runs, and how far each of them is."""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from csnb.errors import InputError, one_line
from csnb.experiment import NOT_IN_ID, Experiment
from csnb.params import PARAMS, find, read_yaml
from csnb.runs import read_run, sources_digest

SWEEPS = PARAMS / "sweeps"
ENTRIES = ("notebook", "params", "grid", "also", "timeout")
State = Literal["done", "todo", "failed", "stale", "broken"]


@dataclass(frozen=True)
class Code:
    """What a run is executed with: the notebook, its digest (of the code cells), the digest of csnb's sources."""

    notebook: Path
    digest: str
    sources: str


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its id, the parameters that its notebook is given, and its folder."""

    run_id: str
    folder: Path
    parameters: dict[str, Any]

    def __str__(self) -> str:
        return self.run_id


@dataclass(frozen=True)
class Status:
    """How far a run is, why, how long it took (seconds) and, of a done run, its main numbers."""

    state: State
    reason: str = ""
    seconds: float = 0.0
    summary: str = ""


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep file and their status, in the file's order."""

    code: Code
    timeout: int | None
    jobs: list[Job]
    statuses: list[Status]

    @property
    def open(self) -> list[Job]:
        """The runs that are not done."""
        return [job for job, status in zip(self.jobs, self.statuses, strict=True) if status.state != "done"]

    def seconds_left(self) -> float | None:
        """Estimate: for each open run the mean of the done ones of its method, else of all; None where none is done."""
        measured = defaultdict(list)
        for job, status in zip(self.jobs, self.statuses, strict=True):
            if status.state == "done":
                measured[job.parameters.get("method")].append(status.seconds)
        means = {method: sum(seconds) / len(seconds) for method, seconds in measured.items()}
        done = [seconds for group in measured.values() for seconds in group]
        if not done:
            return None
        return sum(means.get(job.parameters.get("method"), sum(done) / len(done)) for job in self.open)

    def count(self) -> Counter[str]:
        """Runs by state."""
        return Counter(status.state for status in self.statuses)


def make_plan(file: str | Path, runs: str | Path, only: Mapping[str, Any] | None = None) -> Plan:
    """The runs of a sweep file, each checked as an `Experiment`, and their status in the folder ``runs``.

    ``file``: a YAML, or the name of one of csnb's own. ``only``: keep the runs whose parameters have these values. Raises
    InputError before any work for whatever is wrong.
    """
    file = find(file, SWEEPS)
    content = read_yaml(file)
    unknown = [name for name in content if name not in ENTRIES]
    if unknown or "notebook" not in content:
        problem = f"{unknown[0]}: no such entry" if unknown else "notebook: missing"
        raise InputError(f"{problem} in {file}; allowed: {', '.join(ENTRIES)}, of which notebook must be there")
    timeout = content.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 1):
        raise InputError(f"timeout: {timeout!r} in {file} is not allowed; allowed: seconds for a cell, a whole number from 1")
    code = read_code(file.parent / content["notebook"])
    folder = Path(runs).expanduser().resolve()
    jobs = _jobs(file, content, folder, dict(only or {}))
    with ThreadPoolExecutor() as pool:  # hashing weights releases the interpreter
        statuses = list(pool.map(lambda job: inspect(job, code), jobs))
    return Plan(code, timeout, jobs, statuses)


def run_ids(file: str | Path) -> list[str]:
    """The ids of a sweep file's runs, in its order."""
    file = find(file, SWEEPS)
    return [job.run_id for job in _jobs(file, read_yaml(file), Path(), {})]


def read_code(notebook: Path) -> Code:
    """The notebook's code cells and csnb's sources, as digests. Raises InputError where it is not a notebook for runs."""
    try:
        cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"notebook: {notebook} cannot be read ({one_line(error)}); allowed: an .ipynb file") from None
    if not any("parameters" in cell["metadata"].get("tags", ()) for cell in cells):
        raise InputError(f"notebook: {notebook} has no cell tagged parameters; allowed: one that papermill can run")
    sources = json.dumps(["".join(cell["source"]) for cell in cells])
    return Code(notebook.resolve(), hashlib.sha256(sources.encode()).hexdigest()[:16], sources_digest())


def inspect(job: Job, code: Code) -> Status:
    """How far a run is, from its folder alone: done only if every file, its parameters and its code are those asked for."""
    if not (job.folder / "result.json").exists():
        return _failure(job.folder)
    try:
        result = read_run(job.folder)
        with safe_open(job.folder / "model.safetensors", "pt") as weights:
            weights.keys()
        made, seconds, summary = result["provenance"], sum(result["seconds"].values()), summarise(result)
        same = result["parameters"] == Experiment(**job.parameters).model_dump(exclude=NOT_IN_ID)
    except InputError as error:
        return Status("broken", str(error).split(": ", 1)[1])
    except (SafetensorError, KeyError, TypeError, AttributeError, OSError) as error:
        return Status("broken", f"not a readable run ({one_line(error)})")
    notebook = made.get("notebook", "")  # empty: made without a sweep, by papermill or by hand
    if not same:
        return Status("broken", "result.json has other parameters than the run")
    if made["sources"] != code.sources:
        return Status("stale", "made by another version of csnb")
    if notebook not in ("", code.digest):
        return Status("stale", f"made by another version of {code.notebook.name}")
    if notebook and not (job.folder / "notebook.ipynb").exists():
        return Status("broken", "its notebook did not come to its end")
    return Status("done", seconds=seconds, summary=summary)


def summarise(result: Mapping[str, Any]) -> str:
    """A run's main numbers: accuracy of the protected class, clean and under PGD (or the last attack), with intervals."""
    rows = {(row["attack"], row["measure"], row["class"]): row for row in result["scores"]}
    attacks = list(dict.fromkeys(row["attack"] for row in result["scores"]))
    name = next((row["class"] for row in result["scores"] if row["measure"] == "false_alarms"), None)
    shown = list(dict.fromkeys(["clean", "PGD" if "PGD" in attacks else attacks[-1]])) if attacks else []
    numbers = [(attack, rows.get((attack, "accuracy", name))) for attack in shown]
    return ", ".join(f"{a} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" for a, row in numbers if row)


def parse_only(text: str) -> dict[str, str]:
    """``"method=CSA,protected_class=3"`` as a mapping."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise InputError(f"only: {wrong[0]!r} is not allowed; allowed: name=value, separated by commas")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _jobs(file: Path, content: Mapping[str, Any], folder: Path, only: Mapping[str, Any]) -> list[Job]:
    """Every run of the sweep, once, in order. Raises InputError for bad parameters and for two runs in one folder."""
    places: dict[str, dict[str, Any]] = {}
    jobs = []
    for given in _parameters(file, content):
        if "runs" in given:
            raise InputError(f"runs: {given['runs']!r} in {file}; allowed: the folder is an argument of the sweep")
        parameters = {"threads": 1} | given | {"runs": str(folder)}  # so that scores do not depend on how many run at once
        experiment = Experiment(**parameters)
        run_id, place = experiment.run_id, experiment.model_dump(include=NOT_IN_ID)
        if run_id not in places and _wanted(experiment, parameters, only):
            jobs.append(Job(run_id, folder / run_id, parameters))
        if places.setdefault(run_id, place) != place:
            name = next(name for name in sorted(place) if place[name] != places[run_id][name])
            raise InputError(
                f"{name}: {place[name]!r} and {places[run_id][name]!r} for one run in {file}; allowed: one of them"
            )
    if not jobs:
        what = f"only: {dict(only)} fits no run of" if only else "grid: [] leaves no run in"
        raise InputError(f"{what} {file}; allowed: values that make at least one")
    return jobs


def _wanted(experiment: Experiment, parameters: Mapping[str, Any], only: Mapping[str, Any]) -> bool:
    """Whether ``only`` says what the run's parameters say anyway, in whatever notation."""
    return not only or Experiment(**(dict(parameters) | dict(only))) == experiment


def _parameters(file: Path, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters of each run: the base, then every combination of the grid, then those of each entry of ``also``."""
    base = _base(file, content.get("params"))
    grid, also = content.get("grid"), content.get("also") or []
    if not isinstance(also, list) or not all(isinstance(entry, dict) for entry in [*also, grid or {}]):
        raise InputError(f"grid, also: not as allowed in {file}; allowed: a mapping of names to lists, a list of such mappings")
    if grid or not also:
        yield from (base | values for values in _combinations(grid or {}))
    for entry in also:
        own = _base(file, entry["params"]) if "params" in entry else base
        yield from (own | values for values in _combinations({k: v for k, v in entry.items() if k != "params"}))


def _base(file: Path, params: str | None) -> dict[str, Any]:
    return read_yaml(file.parent / params) if params else {}


def _combinations(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values; a single value stands for a list of one."""
    lists = [value if isinstance(value, list) else [value] for value in grid.values()]
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*lists))


def _failure(folder: Path) -> Status:
    """Of a run without a result: what failed.json says, else that it is still to do."""
    try:
        failure = json.loads((folder / "failed.json").read_text())
        return Status("failed", f"{failure['reason']}: {failure['message']}", failure["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return Status("todo")
