"""What README says of runs is what the committed runs say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from csnb.batch import run_ids
from csnb.curves import BASE, CONTROL, Comparison, comparable, read_certified, read_margins
from csnb.pages import readme as pages
from csnb.pages.claims import findings
from csnb.pages.counting import Finding
from csnb.pages.evidence import Evidence
from csnb.paths import CHECKOUT


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence()


def test_readme_is_current_and_its_picture_is_there(evidence: Evidence) -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    said = pages.measured(
        evidence.curves, evidence.guarantees, evidence.offsets, findings(evidence)
    )
    assert pages.readme(text, said) == text, "make pages writes it again"
    assert pages.PICTURE.is_file() and f"]({pages.PICTURE.relative_to(CHECKOUT)})" in text


def test_only_what_is_between_the_marks_is_written() -> None:
    first, last = pages.MARKS
    page = f"above\n{first}\nold\n{last}\nbetween\n{first}\n{last}\nbelow\n"
    told = f"above\n{first}\n\nnew\n\n{last}\nbetween\n{first}\n\nmore\n\n{last}\nbelow\n"
    assert pages.readme(page, ("new", "more")) == told
    assert pages.readme(pages.readme(page, ("a", "b")), ("new", "more")) == told
    with pytest.raises(ValueError):
        pages.readme(page, ("new",))


def test_a_row_has_the_ranking_s_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"recall": 0.9, "low": 0.85, "high": 0.95, "area": 0.99, "time": 1.25, "lost": 1}
    row |= {"as_trained": 0.8}
    row |= {"gain": 0.1, "gain_low": 0.02, "gain_high": 0.18, "trainings": 5}
    row |= {"price": -0.01, "price_low": -0.03, "price_high": 0.01}
    names = pd.Index(["REST", BASE, CONTROL], name="method")
    ranking = pd.DataFrame(row, index=names)
    monkeypatch.setattr(Comparison, "ranking", ranking)
    one = Comparison({name: {0: Path(name)} for name in names}, 8, 0.01, "mnist 8")
    _, page = pages.measured([one], pd.DataFrame(), pd.DataFrame(), [])
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(table) == 4
    assert table[0].startswith("| mnist 8, 5 trainings of each, 95 % intervals | recall at 1% ")
    assert table[1] == (
        "| REST | 0.900 [0.850, 0.950] | +0.100 [+0.020, +0.180] | -0.010 [-0.030, +0.010] "
        "| 1 of 5 |"
    )
    assert table[2] == "| ADV with the best offset | 0.900 [0.850, 0.950] |  |  | 1 of 5 |"
    rows = [line for line in pages.of_classes([one]).splitlines() if "---" not in line]
    assert rows[1] == (
        "| mnist 8 | 1% | REST, of 3 methods, 5 trainings each | 0.900 "
        "| +0.100 [+0.020, +0.180], class lost in 1 of 5 | -0.010 [-0.030, +0.010] |"
    )
    ranking.loc[CONTROL, "lost"] = 0
    rows = [line for line in pages.of_classes([one]).splitlines() if "---" not in line]
    assert "costs 1, of 3 methods" in rows[1] and "**+0.100 [+0.020, +0.180]** |" in rows[1]
    found = pd.DataFrame({**row, "gain_low": -0.02, "budget": 0.05, "certified": -0.012}, ["a 1"])
    rows = [line for line in pages.guaranteed(found).splitlines() if "---" not in line]
    assert rows[1] == ("| a 1 | 5% | 5 trainings each | 0.900 | +0.100 [-0.020, +0.180] | -0.012 |")


def test_what_to_use_is_what_is_shown_above_adv(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {  # by class, then by method: gain, its lower end, in how many lost, as trained
        "a 1": {"CSA": (0.03, 0.01, 0, 0.4), "REST": (0.05, -0.1, 0, 0.1)},
        "a 2": {"CSA": (0.3, 0.2, 0, 0.6), "REST": (0.2, 0.1, 0, 0.3)},
        "a 3": {"CSA": (0.5, -1, 0, 0.1), "MARGIN": (0.4, 0.3, 2, 0.1)},
    }
    own = {BASE: (0, 0, 0, 0.5), CONTROL: (2, 1, 0, 0.1)}
    columns = ["gain", "gain_low", "lost", "as_trained"]
    known = {
        name: pd.DataFrame.from_dict(of | own, orient="index", columns=columns).assign(trainings=3)
        for name, of in found.items()
    }
    monkeypatch.setattr(Comparison, "ranking", property(lambda one: known[one.name]))
    curves = [Comparison({}, 1, 0.01, name) for name in known]
    said = pages.to_use(curves)
    assert (
        "equal false alarms: CSA in 2 of 3 classes (recall +0.030 to +0.300); "
        "REST in 1 of 2 classes (recall +0.200). "
    ) in said
    assert "as trained, 2 of these 3 recognise less of their class under attack than ADV" in said
    assert said.endswith("the class is lost by MARGIN in 2 of 3 trainings.")
    assert pages.to_use(curves[:2]).endswith(" No training lost its class.")
    assert pages.to_use(curves[2:]).startswith("**What to use**: ADV with an offset")


def test_the_paper_s_claims_are_counted_by_verdict() -> None:
    found = [Finding(verdict, "") for verdict in ("mixed", "holds", "mixed", "contradicted")]
    said = pages.of_claims(found)
    assert "Of 4 claims: holds 1, mixed 2, contradicted 1 (" in said


def test_what_a_chosen_offset_keeps_of_its_budget_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pages, "to_use", lambda curves: "Use.")
    monkeypatch.setattr(pages, "of_class", lambda one: "")
    monkeypatch.setattr(pages, "of_classes", lambda curves: "")
    found = pd.DataFrame({"offset": ["0.01", "0.05"], "false_alarms": [0.02, 0.04]})
    assert pages.measured([None], pd.DataFrame(), found, [])[0].split("\n\n")[1] == (
        "Use. Chosen on held-out images, in 2 trainings, `offset` left 0.80 to 2.00 times the "
        "false alarms that it was asked for (mean 1.40)."
    )


def test_a_guarantee_is_counted_from_kept_bounds_and_the_same_seeds(evidence: Evidence) -> None:
    found = evidence.guarantees.loc["mnist 8, eps 0.2 (pixel)"]
    runs = comparable(evidence.folder, run_ids("certified_mnist"), 8)
    shares, recalled = {}, {}
    for name in ("IBP", "IBP(weight=0)"):
        folders = [folder for _, folder in sorted(runs[name].items())]
        scores = [read_certified(folder).query("measure == 'accuracy'") for folder in folders]
        shares[name] = np.mean([(s["correct"] / s["total"]).mean() for s in scores])
        each = []
        for folder in folders:
            margins, own = read_margins(folder, protected=8, attack="certified")
            least = np.sort(margins[~own])[::-1][int(0.01 * (~own).sum())]
            each.append((margins[own] > least).mean())
        recalled[name] = np.mean(each)
    assert found["trainings"] == len(folders) == 3
    assert found["certified"] == pytest.approx(shares["IBP"] - shares["IBP(weight=0)"])
    assert found["recall"] == pytest.approx(recalled["IBP"])
    assert found["gain"] == pytest.approx(recalled["IBP"] - recalled["IBP(weight=0)"])
