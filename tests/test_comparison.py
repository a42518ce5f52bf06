"""One class over a sweep: counted by hand from kept margins, and from made-up rankings."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from making import QUICK, stripes

import csnb
from csnb import Experiment, InputError, find_or_run, read_margins
from csnb.batch import run_ids
from csnb.curves import BASE, CONTROL, Comparison, comparable
from csnb.runs import Status

GRID = [
    {"method": "ADV", "seed": [0, 1]},
    {"method": "ADV", "epochs": 2},
    {"method": "CSA", "miss_cost": 1.0, "alarm_cost": 1.0, "seed": [0, 1]},
    {"method": "CSA", "protected_class": 1, "seed": [0, 1]},
    {"method": "REST", "protected_class": 1, "seed": 1},
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep file over a data set, and its runs."""
    folder = tmp_path_factory.mktemp("comparison")
    common = QUICK | {"dataset": stripes(folder / "stripes.npz"), "eps": 0.1}
    (folder / "params.yaml").write_text(yaml.safe_dump(common))
    sweep = {"notebook": str(csnb.paths.NOTEBOOKS / "protect.ipynb"), "params": "params.yaml"}
    text = yaml.safe_dump(sweep | {"grid": GRID[0], "also": GRID[1:]})
    (folder / "sweep.yaml").write_text(text)
    for asked in GRID:
        for seed in np.atleast_1d(asked.get("seed", 0)).tolist():
            one = common | asked | {"seed": seed, "runs": str(folder / "runs")}
            find_or_run(Experiment(**one))
    return folder


@pytest.fixture(scope="module")
def compared(place: Path) -> Comparison:
    sweep = place / "sweep.yaml"
    return Comparison.of_sweep(sweep, "middle", budget=0.1, folder=place / "runs")


def recall(folder: Path, budget: float = 0.1) -> float:
    """Counted: of the class above the highest margin that the budget of the others leaves."""
    margins, own = read_margins(folder, protected=[1])
    least = np.sort(margins[~own])[::-1][int(budget * (~own).sum() + 1e-9)]
    return float((margins[own] > least).mean())


def test_what_tells_of_a_class_are_its_runs_and_those_that_know_none(place: Path) -> None:
    runs, ids = place / "runs", [*run_ids(place / "sweep.yaml"), "never-made"]
    found = {name: set(each) for name, each in comparable(runs, ids, 1).items()}
    free = {"ADV": {0, 1}, "CSA, costs 1": {0, 1}, "ADV, 2 epochs": {0}}
    assert found == free | {"CSA": {0, 1}, "REST": {1}}
    assert comparable(runs, ids, "middle") == comparable(runs, ids, 1)
    assert {name: set(each) for name, each in comparable(runs, ids, 2).items()} == free


@pytest.mark.parametrize(
    ("method", "costs", "name", "everywhere"),
    [
        ("STD", (10, 10), "STD", True),
        ("CSA", (10, 10), "CSA", False),
        ("CSA", (10, 1), "CSA, costs 10 and 1", False),
        ("CSA", (1, 1), "CSA, costs 1", True),
        ("MARGIN", (1, 1), "MARGIN, costs 1", True),
        ("CSE+ADV", (1, 1), "CSE+ADV, costs 1", True),
        ("REST", (1, 1), "REST, costs 1", False),
        ("REST(weight=0)", (10, 10), "REST(weight=0)", True),
        ("RADIUS(factor=1)", (10, 10), "RADIUS(factor=1)", True),
        ("WEIGHT(weight=1)", (10, 10), "WEIGHT(weight=1)", True),
        ("DAFA(strength=0)", (10, 10), "DAFA(strength=0)", True),
        ("TRADES", (10, 10), "TRADES", True),
        ("TRADES(weight=2)", (10, 10), "TRADES(weight=2)", False),
        ("IBP", (10, 10), "IBP", False),
        ("IBP", (1, 1), "IBP, costs 1", True),
        ("IBP(weight=0)", (10, 10), "IBP(weight=0)", True),
        ("CROWN-IBP(weight=0)", (10, 10), "CROWN-IBP(weight=0)", True),
    ],
)
def test_methods_are_named_with_what_sets_them_apart(
    method: str, costs: tuple[float, float], name: str, everywhere: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked = {"method": method, "miss_cost": costs[0], "alarm_cost": costs[1], "seed": 3}
    asked |= {"dataset": "letters"}
    known = {"protected": [1], "classes": ["a", "b", "c"], "sha256": {"model.safetensors": "0"}}
    known["costs"] = csnb.protect(3, 1, *costs).tolist()
    asked |= {"epochs": 12, "eps": 0.1, "cost_matrix": "", "offset": ""}
    unusual = {
        "long": {"epochs": 24},
        "wide": {"eps": 0.3},
        "both": {"epochs": 24, "eps": 0.3},
        "matrix": {"cost_matrix": "costs.csv"},
        "shifted": {"offset": "0.05"},
    }

    def found(folder: Path) -> Status:
        result = known | {"parameters": asked | unusual.get(folder.name, {})}
        return Status("done", folder=folder, result=result)

    monkeypatch.setattr("csnb.runs.state.inspect", found)
    ids = ["run", "again", "once more", "at last", *unusual]  # the first four are one network
    plain = name.partition(", ")[0]
    expected = {name: {3: tmp_path / "run"}, f"{name}, 24 epochs": {3: tmp_path / "long"}}
    expected |= {f"{name}, eps 0.3": {3: tmp_path / "wide"}}
    expected |= {f"{name}, eps 0.3, 24 epochs": {3: tmp_path / "both"}}
    expected |= {f"{plain}, costs by a matrix": {3: tmp_path / "matrix"}}
    shifted = f"{name}, offset 0.05"  # for a class, whatever the method
    assert comparable(tmp_path, ids, 1) == expected | {shifted: {3: tmp_path / "shifted"}}
    assert comparable(tmp_path, ids, 0) == (expected if everywhere else {})
    usual = Comparison(comparable(tmp_path, ids, 1), 1, 0.1, "made up").usual
    assert set(usual) == {name, f"{plain}, costs by a matrix", shifted}
    for p in (3, -1, "d"):
        with pytest.raises(
            InputError, match=rf"^protected_class: '?{p}'? is not a class of letters"
        ):
            comparable(tmp_path, ids, p)


def test_two_networks_of_one_name_and_seed_are_refused(place: Path, tmp_path: Path) -> None:
    run = comparable(place / "runs", run_ids(place / "sweep.yaml"), 1)["CSA"][0]
    asked = yaml.safe_load((place / "params.yaml").read_text()) | GRID[3]
    other = find_or_run(Experiment(**asked | {"seed": 0, "lr": 0.5, "runs": str(tmp_path)}))
    shutil.copytree(run, tmp_path / run.name)
    said = f"runs: {run.name} and {other.name} are both CSA of seed 0; allowed: one of each"
    with pytest.raises(InputError, match=re.escape(said)):
        comparable(tmp_path, [run.name, other.name], 1)


def test_without_a_seed_that_adv_and_the_control_share_nothing_is_compared(place: Path) -> None:
    sweep = yaml.safe_load((place / "sweep.yaml").read_text())
    apart = sweep | {"grid": {"method": "ADV", "seed": 0}, "also": [GRID[2] | {"seed": 1}]}
    (place / "apart.yaml").write_text(yaml.safe_dump(apart))
    said = r"^sweep: no seed of both ADV and 'CSA, costs 1' is done; allowed: one$"
    with pytest.raises(InputError, match=said):
        Comparison.of_sweep(place / "apart.yaml", 1, folder=place / "runs")


def test_methods_with_all_seeds_are_ranked_and_all_are_screened(compared: Comparison) -> None:
    assert compared.name == "stripes.npz 1 (middle), eps 0.1 (normalized)" and compared.p == 1
    seeds = {name: len(each) for name, each in compared.whole.items()}
    assert seeds == {BASE: 2, CONTROL: 2, "CSA": 2}
    mean = {name: np.mean([*map(recall, each)]) for name, each in compared.whole.items()}
    for base in (BASE, CONTROL):
        found = compared.against(base)
        for name, value in mean.items():
            assert found.loc[name, "recall"] == pytest.approx(value)
            assert found.loc[name, "gain"] == pytest.approx(value - mean[base])
    assert compared.ranking.equals(compared.against(BASE))
    screened = compared.screened()  # of seed 1, which all have
    rest = compared.runs["REST"][1]
    assert set(screened.index) == {BASE, CONTROL, "CSA", "REST"}
    assert set(screened["trainings"]) == {1}
    assert screened.loc["REST", "recall"] == pytest.approx(recall(rest))
    assert screened.loc[BASE, "recall"] == pytest.approx(recall(compared.runs[BASE][1]))


def test_recall_by_epochs_is_of_one_training_each(compared: Comparison) -> None:
    rows = compared.over_epochs()
    assert rows[["method", "epochs"]].to_numpy().tolist() == [["ADV", 1], ["ADV", 2]]
    folders = [compared.runs["ADV"][0], compared.runs["ADV, 2 epochs"][0]]
    assert rows["value"].tolist() == pytest.approx([*map(recall, folders)])


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 0.3, "more"), (-0.1, 0.3, "not shown"), (-0.3, -0.1, "LESS")]
)
def test_the_claim_is_read_off_the_interval(
    low: float, high: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_up(compared: Comparison, base: str) -> pd.DataFrame:
        names = [BASE, "CSA", "CSA, costs 10 and 1", "REST", CONTROL]
        row = {"gain": (low + high) / 2, "gain_low": low, "gain_high": high, "trainings": 3}
        return pd.DataFrame(row, index=pd.Index(names, name="method"))

    monkeypatch.setattr(Comparison, "against", made_up)
    runs = {name: {0: Path(name)} for name in (BASE, CONTROL, "CSA")}
    claim = Comparison(runs, 1, 0.05, "any").claim()
    dear = ["CSA", "CSA, costs 10 and 1"]
    pairs = [(BASE, dear[0]), (BASE, dear[1]), (BASE, CONTROL), *((CONTROL, d) for d in dear)]
    assert claim.index.tolist() == pairs and set(claim["verdict"]) == {said}


def test_without_adv_or_the_control_nothing_is_compared(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweep: no run of ADV is done; allowed: .*sweep\.yaml"):
        Comparison.of_sweep(place / "sweep.yaml", 1, folder=tmp_path)
