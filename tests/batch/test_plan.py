"""Sweep files: which runs, how far they are, how long they will take, as commands."""

import gc
import json
import shlex
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from batches import ROOT, write_sweep

from csnb import Experiment, InputError, runs
from csnb.__main__ import main
from csnb.batch import make_plan, plan, run_ids
from csnb.batch.plan import Job, estimate, parse_only
from csnb.curves import baseline
from csnb.runs import Status

PROTECT = ROOT / "notebooks" / "protect.ipynb"
SWEEPS = sorted((ROOT / "params" / "sweeps").glob("*.yaml"))
GRID = {"method": ["CSA", "CSE(gamma=10, convs=1)"], "protected_class": [0, "below"]}


def base(folder: Path) -> dict:
    return yaml.safe_load((folder / "base.yaml").read_text())


def test_a_plan_is_the_grid_and_what_comes_beside_it_each_run_once(tmp_path: Path) -> None:
    also = [{"method": "STD", "seed": [0, 1]}, {"method": "CSA", "protected_class": "above"}]
    file = write_sweep(tmp_path, also=also, **GRID)
    wanted = [{"method": m, "protected_class": p} for m in GRID["method"] for p in (0, 1)]
    wanted += [{"method": "STD", "seed": 0}, {"method": "STD", "seed": 1}]
    ids = [Experiment(**base(tmp_path) | own).identity().run_id for own in wanted]
    made = make_plan(file, tmp_path / "runs")
    assert [job.run_id for job, _ in made] == ids == run_ids(file)
    assert [job.folder for job, _ in made] == [tmp_path / "runs" / name for name in ids]
    assert {status.state for _, status in made} == {"todo"}
    assert not (tmp_path / "runs").exists()
    assert {job.parameters["threads"] for job, _ in made} == {1}


def test_params_lie_beside_the_sweep_file_wherever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sweep(tmp_path, method=["CSA"])
    before = run_ids(file)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_ids("../sweep.yaml") == before


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("method=CSA", 2),
        ("method=CSE(gamma=10, convs=1),protected_class=below", 1),
        ("protected_class=1, method = CSE( convs=1, gamma=1e1 )", 1),
        ("eps=1/2", 1),
        ("protected_class=0", 3),
        ("attacks=FGSM,PGD(steps=3, restarts=2),method=STD", 1),
    ],
)
def test_only_keeps_runs_that_have_the_values_in_any_notation(
    text: str, number: int, tmp_path: Path
) -> None:
    also = [{"method": "STD", "eps": 0.5, "attacks": "FGSM, PGD(restarts=2, steps=3)"}]
    file = write_sweep(tmp_path, also=also, **GRID)
    assert len(make_plan(file, tmp_path, parse_only(text))) == number


def test_only_that_fits_nothing_or_is_nothing_is_refused(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, **GRID)
    for text, message in (
        ("method=ADV", "fits no run"),
        ("methods=ADV", "methods: no such parameter"),
        ("CSA", "only: 'CSA' is not allowed"),
    ):
        with pytest.raises(InputError, match=message):
            make_plan(file, tmp_path, parse_only(text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": {"methods": ["CSA"]}}, "methods: no such parameter"),
        ({"grid": {"eps": [0.1, -1]}}, "eps: -1 is not allowed"),
        ({"grid": {"protected_class": [7]}}, "protected_class: 7"),
        ({"grid": {"cost_matrix": ["nowhere.csv"]}}, "nowhere.csv"),
        ({"grid": {"dataset": ["minst"]}}, "did you mean mnist"),
        ({"grid": {3: ["CSA"]}}, "grid: {3: ['CSA']}"),
        ({"grid": {"seed": list(range(400)), "eps": list(range(400))}}, "160000 runs"),
        ({"grid": ["CSA"]}, "grid: ['CSA']"),
        ({"also": [{"method": "CSB"}]}, "CSB"),
        ({"also": {"method": "STD"}}, "also: {'method': 'STD'}"),
        ({"also": ["STD"]}, "also: ['STD']"),
        ({"also": [{"params": ["a"]}]}, "['a']: cannot be read"),
        ({"grid": {"threads": [1, 2]}}, "for one run in"),
        ({"grid": {"runs": ["here"]}}, "runs: a parameter"),
        ({"grids": {}}, "grids: no such entry"),
        ({"timeout": "1h"}, "timeout: '1h' is not"),
        ({"timeout": 0}, "timeout: 0 is not"),
        ({"params": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"params": ["a"]}, "params: ['a'] is not"),
        ({"notebook": 3}, "notebook: 3 is not"),
        ({"notebook": None}, "notebook: None is not"),
        ({"notebook": "nowhere.ipynb"}, "nowhere.ipynb cannot be read"),
        ({"notebook": "sweep.yaml"}, "sweep.yaml cannot be read"),
        ({"grid": {"method": []}}, "leaves no run"),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line_before_any_work(
    change: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_sweep(tmp_path, method=["CSA"])
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    assert main(["sweep", str(file), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_unknown_sweep_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "mnist_tabel2"]) == 2
    error = capsys.readouterr().err
    assert "did you mean mnist_table2?" in error and "cifar10_table3" in error


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("mnist_table2", 105), ("cifar10_table3", 55), ("fashion_mnist_table2", 32)),
        *(("cifar100_table4", 11), ("figures", 7), ("threat_model", 4), ("digits_table", 10)),
        ("cifar100_narrow", 10),
    ],
)
def test_the_sweeps_of_the_paper_are_all_there(name: str, number: int, tmp_path: Path) -> None:
    assert [file.stem for file in SWEEPS].count(name) == 1
    made = make_plan(name, tmp_path)
    assert [job.run_id for job, _ in made] == run_ids(ROOT / f"params/sweeps/{name}.yaml")
    assert len(made) == number and {job.notebook for job, _ in made} == {PROTECT}


@pytest.mark.parametrize(
    "name", ["mnist_table2", "cifar10_table3", "fashion_mnist_table2", "cifar100_table4"]
)
def test_a_table_s_own_run_of_adv_is_what_its_notebooks_compare_with(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = set()
    instead = "csnb.curves.of_runs.find_or_run"
    monkeypatch.setattr(instead, lambda e: asked.add(e.identity().run_id))
    for job, _ in make_plan(name, tmp_path):
        e = Experiment(**job.parameters)
        baseline(SimpleNamespace(experiment=e, data=None, identity=e.identity()))
    assert asked and asked <= set(run_ids(name))


def test_figures_use_the_runs_of_the_tables_but_where_an_attack_is_watched() -> None:
    known = {run for name in ("mnist_table2", "cifar10_table3") for run in run_ids(name)}
    ours = {run: run.rsplit("-", 1)[0] for run in run_ids("figures")}
    watched = {
        f"{data}-{method}-p0-s0" for data in ("mnist", "cifar10") for method in ("STD", "CSE")
    }
    own = {head for run, head in ours.items() if run not in known}
    assert own == watched
    shared = {head for run, head in ours.items() if run in known}
    assert shared == {"mnist-ADV-p0-s0", "mnist-CSA-p0-s0", "mnist-CSA+L2-p0-s0"}


def test_four_thousand_runs_are_planned_within_four_seconds_in_little_memory(
    tmp_path: Path,
) -> None:
    file = write_sweep(tmp_path, seed=list(range(2000)), method=["CSA", "CSE"])
    (tmp_path / "runs").mkdir()
    gc.collect()
    gc.freeze()  # what other tests left behind is not looked through again and again
    start = time.process_time()  # whoever else is at work on this machine
    made = make_plan(file, tmp_path / "runs")
    assert time.process_time() - start < 4
    gc.unfreeze()
    assert len({job.folder for job, _ in made}) == 4_000
    small = write_sweep(tmp_path, seed=list(range(400)), method="CSA")
    tracemalloc.start()
    made = make_plan(small, tmp_path / "runs")
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.6e6 and most < 6.4e6, len(made)  # some 3 KB a run


# --- how long it will take


def job(method: str, seed: int, epochs: int = 2, dataset: str = "stripes.npz") -> Job:
    kind = (dataset, method, epochs, "FGSM", "protected")
    return Job(f"{method}{seed}", Path(), {}, kind, Path(), None, Path())


def done(seconds: float) -> Status:
    return Status("done", seconds=seconds)


TODO = Status("todo")
UNKNOWN = "nothing is known of"


def test_the_time_left_is_that_of_runs_most_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "RESULTS", Path("nowhere"))
    jobs = [job("CSA", 0), job("CSA", 1), job("STD", 0), job("STD", 1), job("STD", 0, epochs=9)]
    found = [done(3), done(5), done(10), TODO, done(70), TODO]
    made = list(zip([*jobs, job("ADV", 5)], found, strict=True))
    assert estimate(made) == (10 + 22, {"of this sweep": 2})  # STD as long; of the data set


def test_the_first_estimate_comes_from_the_committed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("dataset", "method", "epochs", "attacks", "attack_images")
    for seconds, folder in enumerate(("a", "b"), start=4):
        parameters = dict(zip(names, job("CSA", 0).kind, strict=True))
        (tmp_path / folder).mkdir()
        content = {"parameters": parameters, "seconds": {"train": seconds, "FGSM": 0.5}}
        (tmp_path / folder / "result.json").write_text(json.dumps(content))
    for folder, content in (("c", "[]"), ("d", "{"), ("e", '{"parameters": null}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "result.json").write_text(content)
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    jobs = [job("CSA", 0), job("CSA", 1), job("ADV", 0), job("ADV", 0, dataset="mnist")]
    assert estimate([(job, TODO) for job in jobs]) == (15, {"committed with csnb": 3, UNKNOWN: 1})
    made = [(jobs[0], done(2)), *((job, TODO) for job in jobs[1:])]
    assert estimate(made) == (2 + 2, {"of this sweep": 2, UNKNOWN: 1})


def test_committed_runs_tell_how_long_the_paper_s_tables_take(tmp_path: Path) -> None:
    seconds, sources = estimate(make_plan("digits_table", tmp_path))
    if any(runs.RESULTS.glob("digits*/result.json")):
        assert 10 < seconds < 3600 and sources[UNKNOWN] == 0


# --- written down for others to execute


def test_commands_are_read_back_by_a_shell_exactly_and_make_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = tmp_path / "a 'b' {c} \"d\" $e"
    strange.mkdir()
    also = [{"protected_class": "below", "lr": "1e-3", "momentum": 1e-05, "bounded": True}]
    file = write_sweep(strange, also=also, seed=[1, 2])
    assert main(["sweep", str(file), "--runs", str(strange / "runs"), "--commands"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and not (strange / "runs").exists()
    for line, (planned, _) in zip(lines, make_plan(file, strange / "runs"), strict=True):
        words = shlex.split(line)
        words = words[words.index("&&") + 1 :]
        at = next(i for i, word in enumerate(words) if word.endswith("quick.ipynb"))
        notebook, target = (word.format() for word in words[at : at + 2])  # as papermill does
        assert (notebook, target) == (str(strange / "quick.ipynb"), f"{planned.folder}.ipynb")
        kinds, names, values = (words[at + 2 :][i::3] for i in range(3))
        assert dict(zip(names, values, strict=True)) == {
            name: str(value) for name, value in planned.parameters.items()
        }
        for kind, name in zip(kinds, names, strict=True):
            assert kind == ("-r" if isinstance(planned.parameters[name], str) else "-p")
