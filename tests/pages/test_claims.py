"""REPRODUCTION.md: current, and its verdicts counted from what was made up."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import csnb
from csnb.pages.claims import (
    CLAIMS,
    Finding,
    csa_above_adv_in_the_paper_s_ball,
    judged,
    of_minmax,
    of_pair,
    of_tables,
    report,
)
from csnb.pages.evidence import Evidence
from csnb.paths import CHECKOUT, NOTEBOOKS


def test_the_committed_page_is_what_the_committed_runs_say() -> None:
    assert (CHECKOUT / "REPRODUCTION.md").read_text(encoding="utf-8") == report(Evidence()), (
        "make pages writes it again"
    )


def test_every_claim_has_its_notebook_and_its_own_words() -> None:
    assert all((NOTEBOOKS / f"{claim.notebook}.ipynb").is_file() for claim in CLAIMS)
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)


def test_without_runs_nothing_is_claimed_of_them(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    found = {claim.says: claim.ask(evidence) for claim in CLAIMS}
    of_equations = [text for text, one in found.items() if one.verdict != "not run"]
    assert len(of_equations) == 5  # Eq. 4, Eq. 8-9, Theorem 1, inequality 11; Table I of images
    rows = table(report(evidence))
    assert {line.count(" | ") for line in rows[:-4]} == {3}  # of claims
    assert {line.count(" | ") for line in rows[-4:]} == {6}  # of tables


def table(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(
    ("above", "below", "unclear", "verdict"),
    [
        (0, 0, 0, "not run"),
        (3, 0, 0, "holds"),
        (3, 0, 1, "in part"),
        (1, 5, 0, "in part"),
        (0, 1, 14, "not shown"),
        (0, 0, 2, "not shown"),
        (0, 3, 2, "contradicted"),
    ],
)
def test_the_verdict_follows_the_counts(above: int, below: int, unclear: int, verdict: str) -> None:
    assert judged(above, below, unclear) == verdict


def test_pairs_are_counted_by_gradient_and_without_cw() -> None:
    rows = [
        ("PGD", "exact", "above", 0.9, 0.5), ("FGSM", "exact", "unclear", 0.9, 0.8),
        ("CW", "exact", "below", 0.0, 0.9), ("PGD", "float32", "below", 0.5, 0.9),
    ]  # fmt: skip
    tests = pd.DataFrame(rows, columns=["attack", "gradient", "verdict", "first", "second"])
    tests = tests.assign(pair="CSE > STD", protected_class=[3, 4, 4, 4], seed=0)
    other = tests.assign(pair="CSA > STD", verdict="below")
    audits = pd.DataFrame(
        [
            ("a", "CSE", "3", 0.1, "masked"), ("b", "STD", "3", 0.4, "stands"),
            ("c", "CSE", "4", 0.9, "stands"), ("another eps", "STD", "4", 0.0, "masked"),
        ],
        columns=["run", "method", "class", "audited", "verdict"],
    )  # fmt: skip
    ids = ["a", "b", "c", "not done"]
    known = [("a", "STD", 0, 0, 0.9), ("a", "STD", 0, 1, 0.9), ("b", "CSE", 0, 0, 0.44)]
    known += [("b", "CSE", 0, 1, 0.9), ("c", "CSE", 1, 0, 0.1), ("c", "CSE", 1, 1, 0.46)]
    scores = pd.DataFrame(known, columns=["run", "method", "protected_class", "class", "value"])
    scores = scores.assign(measure="accuracy", attack="clean", seed=0)
    made = SimpleNamespace(paired=pd.concat([tests, other]), there="2 of 9", ids=ids, scores=scores)
    evidence = SimpleNamespace(tables={"mnist": made}, audits=audits)
    found = of_pair(evidence, "mnist", "CSE", "STD")
    exact, rounded, lost, audited = found.numbers.split("; ")
    assert found.verdict == "in part"
    assert exact.startswith("exact gradients: above in 1, below in 0, unclear in 1 of 2 ")
    assert "(classes: 2, trainings of each: 1), mean +0.250" in exact
    assert rounded.endswith("above in 0, below in 1, unclear in 0 of 1")
    assert lost.startswith("**CSE loses the class** in 1 of 2 trainings (class 0): clean recall")
    assert (
        audited
        == "left by the audit: 0.100 of CSE against 0.400 of STD (classes: 1), CSE masked in 1"
    )
    expected = Finding("not run", "2 of 9 runs of the table are done, none with both")
    assert of_pair(evidence, "mnist", "CSE+ADV", "CSA") == expected


def test_csa_is_counted_by_class_in_the_paper_s_ball() -> None:
    ends = {"one": (0.02, 0.01, 0.03), "two": (0.01, -0.01, 0.03), "three": (-0.02, -0.03, -0.01)}
    columns = ["gain", "gain_low", "gain_high"]
    rows = pd.DataFrame.from_dict(ends, orient="index", columns=columns).assign(trainings=3)
    made = pd.concat({"CSA": rows, "STD": -rows}).swaplevel().rename_axis(["class", "method"])
    found = csa_above_adv_in_the_paper_s_ball(SimpleNamespace(published=made))
    assert found.verdict == "in part"
    assert found.numbers.startswith(
        "CSA less ADV: one: +0.020 [+0.010, +0.030] (trainings of each: 3); two"
    )
    for names, verdict in ((["one"], "holds"), (["two"], "not shown"), (["three"], "contradicted")):
        evidence = SimpleNamespace(published=made.loc[names])
        assert csa_above_adv_in_the_paper_s_ball(evidence).verdict == verdict


def test_a_table_s_row_counts_what_both_sides_have() -> None:
    known = csnb.paper.published().query("dataset == 'mnist'")
    ours = known["published"].where(
        known["attack"].isin(["PGD", "CW"]) & (known["method"] == "STD")
    )
    near = ours + np.where(known["attack"] == "PGD", 0.01, 0.4)
    comparison = known.assign(ours=near, low=near - 0.02, high=near + 0.02, difference=0.01)
    tests = pd.DataFrame(columns=["pair", "attack", "protected_class", "gradient", "verdict"])
    made = SimpleNamespace(comparison=comparison, paired=tests, there="1 of 9")
    head, row = of_tables(SimpleNamespace(tables={"mnist": made}))
    assert len(head) == len(row) == 7
    assert row[:4] == ["Table II, MNIST", "1 of 9", "20 of 240", "50%"] and row[-1] == "-"


def test_weights_that_are_more_extreme_by_construction_hold() -> None:
    size = [0.001 * (i % 90) / 90 if i % 10 else 1.0 for i in range(300)]
    weights = pd.DataFrame({"ADV": [0.1 + 0.5 * x for x in size], "CSA": size})
    found = of_minmax(weights)
    assert found.numbers.startswith("300 weights") and "as claimed in" in found.numbers
    reverse = of_minmax(weights[["CSA", "ADV"]])
    assert found.verdict in ("holds", "in part") and reverse.verdict != "holds"
