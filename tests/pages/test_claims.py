"""REPRODUCTION.md: current, and its verdicts counted from what was made up."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import csnb
from csnb.batch import run_ids
from csnb.pages.claims import (
    CLAIMS,
    adversarial_training_gives_min_max,
    cifar10_cw,
    cifar100,
    clean_average,
    csa_above_adv_in_the_paper_s_ball,
    csa_l2_between,
    cse_is_masked,
    figure_3,
    figure_5_convergence,
    figure_5_converges,
    figure_5_course,
    of_tables,
    report,
    robust_average_of_cse,
    time_of_cse,
    time_of_training,
)
from csnb.pages.evidence import Evidence
from csnb.paths import CHECKOUT, NOTEBOOKS
from csnb.statistics import difference


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
    heads = [rows.index(line) for line in rows if line.startswith(("| table ", "| sweep "))]
    claims, tables, sweeps = np.split(np.array(rows), heads)
    assert {line.count(" | ") for line in claims} == {3}
    assert {line.count(" | ") for line in tables} == {6} and len(tables) == 4
    assert {line.split(" | ", 1)[1][-7:] for line in sweeps[1:]} == {"- | - |"}


def test_table_iv_is_the_full_sweep_once_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    full = run_ids("cifar100_table4")
    there = set(full)
    monkeypatch.setattr("csnb.pages.evidence.finished", lambda _, ids: sorted(there & set(ids)))
    assert Evidence("nowhere").sweeps["cifar100"] == "cifar100_table4"
    there.remove(full[0])
    assert Evidence("nowhere").sweeps["cifar100"] == "cifar100_narrow"
    assert Evidence("nowhere").sweeps["mnist"] == "mnist_table2"


def table(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| ")]


def test_csa_is_counted_by_class_in_the_paper_s_ball() -> None:
    ends = {"one": (0.02, 0.01, 0.03), "two": (0.01, -0.01, 0.03), "three": (-0.02, -0.03, -0.01)}
    columns = ["gain", "gain_low", "gain_high"]
    rows = pd.DataFrame.from_dict(ends, orient="index", columns=columns).assign(trainings=3)
    made = pd.concat({"CSA": rows, "STD": -rows}).swaplevel().rename_axis(["class", "method"])
    found = csa_above_adv_in_the_paper_s_ball(SimpleNamespace(published=made, tables={}))
    assert found.verdict == "mixed"
    assert found.numbers.startswith(
        "CSA less ADV: one: +0.020 [+0.010, +0.030] (trainings of each: 3); two"
    )
    for names, verdict in ((["one"], "holds"), (["two"], "not shown"), (["three"], "contradicted")):
        evidence = SimpleNamespace(published=made.loc[names], tables={})
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
    head, row = of_tables(SimpleNamespace(tables={"mnist": made}, sweeps={"mnist": "mnist_table2"}))
    assert len(head) == len(row) == 7
    assert row[:4] == ["Table II, MNIST", "1 of 9", "20 of 240", "50%"] and row[-1] == "-"


def test_almost_the_same_average_is_at_most_a_hundredth_less_of_the_same_seed() -> None:
    rows = [("STD", 0, 0, 0.98), ("STD", 0, 1, 0.90), ("CSE", 3, 0, 0.99), ("CSA", 3, 0, 0.965)]
    rows += [("CSA", 3, 1, 0.885), ("CSA", 4, 0, 0.965)]  # always 0.015 less; of no mean is that so
    scores = pd.DataFrame(rows, columns=["method", "protected_class", "seed", "value"])
    alarms = scores.assign(value=0.1)
    scores = pd.concat([scores.assign(measure=m) for m in ("average", "worst")])
    made = SimpleNamespace(scores=scores.assign(attack="clean"), alarms=alarms)
    found = clean_average(SimpleNamespace(tables={"mnist": made, "cifar10": made}))
    assert found.verdict == "mixed"
    assert found.numbers.startswith("less that of STD, at least -0.01 in 2 of 4; mnist: CSA -0.015")
    assert "CSE +0.010; cifar10" in found.numbers
    kept = [made.scores["method"] != name for name in ("STD", "CSA")]
    without = [SimpleNamespace(scores=made.scores[k], alarms=alarms) for k in kept]
    tables = dict(zip(("mnist", "cifar10"), without, strict=True))
    assert clean_average(SimpleNamespace(tables=tables)).verdict == "holds"


def test_cw_leaves_almost_nothing_of_the_class_that_is_protected() -> None:
    left = {"CW": (0.0, 0.9), "PGD": (0.9, 0.9), "CW(steps=9)": (0.0, 0.9), "clean": (1.0, 1.0)}
    rows = [(attack, p, value) for attack, each in left.items() for p, value in enumerate(each)]
    scores = pd.DataFrame(rows, columns=["attack", "class", "value"]).assign(run="a", method="CSA")
    scores = scores.assign(measure="accuracy", protected_class=0)
    other = scores.assign(run="b", method="STD", value=0.5)
    found = cifar10_cw(SimpleNamespace(tables={"cifar10": SimpleNamespace(scores=scores)}))
    assert found.verdict == "holds"
    assert found.numbers.startswith("at most 0.01 of the class is left in 2 of 2 cells")
    both = SimpleNamespace(scores=pd.concat([scores, other]))
    found = cifar10_cw(SimpleNamespace(tables={"cifar10": both}))
    assert found.verdict == "mixed" and "in 2 of 6 cells" in found.numbers


@pytest.mark.parametrize(
    ("of_cse", "of_std", "verdict"),
    [
        ("masked", "stands", "holds"), ("masked", "masked", "not shown"),
        ("stands", "masked", "contradicted"), ("stands", "overstated", "not shown"),
    ],
)  # fmt: skip
def test_a_property_obfuscates_where_only_those_that_have_it_are_masked(
    of_cse: str, of_std: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a", "CSE", of_cse, "3"), ("b", "STD", of_std, "3"), ("other", "CSE", "masked", "4")]
    rows += [("still", "CSE", "masked", "5"), ("c", "STD", "stands", "5")]
    audits = pd.DataFrame(rows, columns=["run", "method", "verdict", "class"])
    audits = audits.assign(dataset="mnist", seed=0, n=300, audited=0.5)
    twice = audits[:1].assign(n=9, verdict="stands")  # of fewer images: does not count
    tables = {"mnist": SimpleNamespace(ids=["a", "b", "still", "c"])}
    monkeypatch.setattr("csnb.pages.claims.fuzziness_fell", lambda run: run != Path("runs/still"))
    audits = pd.concat([twice, audits], ignore_index=True)
    evidence = SimpleNamespace(audits=audits, tables=tables, folder=Path("runs"))
    found = cse_is_masked(evidence)
    assert found.verdict == verdict
    assert f"CSE in {1 + (of_cse == 'masked')}, STD in " in found.numbers
    assert "of 2 networks; where CSE's fuzziness fell by more than 0.01, in 1, CSE" in found.numbers


def test_little_help_is_what_is_not_shown_above_standard_training() -> None:
    rows = [("CSE > STD", "below"), ("CSA > STD", "unclear"), ("CSE+ADV > STD", "above")]
    tests = pd.DataFrame(rows, columns=["pair", "verdict"]).assign(attack="PGD", gradient="exact")
    known = [("a", "STD", 0.6, 0.2), ("b", "CSE", 0.31, 0.1), ("c", "CSA", 0.29, 0.9)]
    known += [("d", "CSE+ADV", 0.5, 0.2)]
    frame = pd.DataFrame(known, columns=["run", "method", "value", "audited"]).assign(seed=0)
    scores = frame.assign(measure="accuracy", attack="clean", **{"class": 0}, protected_class=0)
    audits = frame.assign(n=100, dataset="cifar100", threat="eps 8/255", verdict="stands")
    audits = audits.assign(**{"class": "0"})[audits["method"] != "CSE+ADV"]
    made = SimpleNamespace(paired=tests, there="9 of 10", scores=scores, ids=list("abcd"))
    found = cifar100(SimpleNamespace(tables={"cifar100": made}, audits=audits))
    assert found.verdict == "mixed"
    counts, cse, gone, csa = found.numbers.split("; ")
    words = "exact gradients, above and below STD (9 of 10 runs): CSE in 0 and 1 of 1, "
    assert counts == f"{words}CSA in 0 and 0 of 1, CSE+ADV in 1 and 0 of 1"
    said = "left by the audit: {} against 0.200 of STD (classes: 1), above in {}, below in {}, "
    assert cse.startswith(said.format("0.100 of CSE", 0, 1))
    assert csa.startswith(said.format("0.900 of CSA", 1, 0))
    assert gone.startswith("**CSA loses the class** in 1 of 1 trainings (class 0): clean recall")
    unclear, below = tests.assign(verdict="unclear"), tests.assign(verdict="below")
    for rows_left, verdict in ((unclear, "not shown"), (below, "holds"), (tests[:2], "not run")):
        made = SimpleNamespace(paired=rows_left, there="9 of 10", scores=scores, ids=list("abcd"))
        evidence = SimpleNamespace(tables={"cifar100": made}, audits=audits)
        assert cifar100(evidence).verdict == verdict


def courses(**columns: dict[str, list[float]]) -> pd.DataFrame:
    """Histories of CSE and STD, a column of each from the first epoch on."""
    parts = []
    for method in ("CSE", "STD"):
        part = pd.DataFrame({name: each[method] for name, each in columns.items()})
        part["epoch"] = range(1, len(part) + 1)
        parts.append(part.assign(dataset="made up", method=method, test_accuracy=0.9))
    return pd.concat(parts)


@pytest.mark.parametrize(
    ("late", "verdict", "ends"),
    [
        ([3, 3, 4], "holds", "+3.333 [+1.899, +4.768]"),  # s = 0.577, t of 2 degrees 4.303
        ([-3, -3, -4], "contradicted", "-3.333 [-4.768, -1.899]"),
        ([1, 0, -1], "not shown", "+0.000 [-2.484, +2.484]"),
        ([2, 2, 2], "not shown", "+2.000 [+nan, +nan]"),
        ([], "not run", ""),
    ],
)
def test_what_takes_more_epochs_is_harder_to_converge(
    late: list[int], verdict: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pd.DataFrame({"0": late, "1": late, "9": [*late[:-1], None][: len(late)]})
    monkeypatch.setattr("csnb.paper.minmax.later", lambda *given: made if late else made[[]])
    found = figure_5_convergence(SimpleNamespace(courses=None))
    assert found.verdict == verdict
    assert not late or found.numbers.endswith(
        f"{ends} (classes: 2, trainings of each: {len(late)})"
    )


def test_min_max_is_judged_over_the_trainings_of_table_ii() -> None:
    keys = [(m, "0", seed) for m in ("STD", "ADV") for seed in range(3)]
    index = pd.MultiIndex.from_tuples(keys, names=["method", "class", "seed"])
    made = pd.DataFrame({"more": [0, 0, 0, 9, 8, 9], "less": [9, 8, 9, 0, 0, 0]}, index)
    for columns, verdict in ((["more"], "holds"), (["less"], "contradicted"), ([*made], "mixed")):
        found = adversarial_training_gives_min_max(SimpleNamespace(first_layers=made[columns]))
        assert found.verdict == verdict and "conv1, 3 trainings: of " in found.numbers
    assert figure_3(SimpleNamespace(first_layers=made)).verdict == "not run"


@pytest.mark.parametrize(("end", "verdict"), [(0.905, "holds"), (0.95, "mixed")])
def test_what_moves_no_more_at_the_end_has_converged(
    end: float, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 epochs the last three count."""
    course = [0.1] * 27 + [0.9, 0.9]
    made = courses(accuracy={"CSE": [*course, 0.9], "STD": [*course, end]})
    monkeypatch.setattr("csnb.pages.claims.read_histories", lambda folders: made)
    found = figure_5_converges(SimpleNamespace(trends={"cifar10": []}))
    assert found.verdict == verdict and f"CSE 0.0000, STD {end - 0.9:.4f}" in found.numbers


@pytest.mark.parametrize(
    ("std", "cse", "verdict"),
    [
        ((0.2, 0.3), (0.31, 0.4), "holds"),
        ((0.2, 0.3), (0.1, 0.19), "contradicted"),
        ((0.2, 0.3), (0.25, 0.4), "not shown"),
        ((0.2, 0.3), None, "not run"),
    ],
)
def test_a_method_takes_more_time_where_its_shortest_round_does(
    std: tuple[float, float], cse: tuple[float, float] | None, verdict: str
) -> None:
    found = time_of_cse(timed({("mnist", "STD"): std, ("mnist", "CSE"): cse}))
    assert found.verdict == verdict
    assert cse is None or found.numbers.endswith(
        f"CSE {sum(cse) / 2:.2f} ({cse[0]:.2f} to {cse[1]:.2f})"
    )


def timed(ends: dict[tuple[str, str], tuple[float, float] | None]) -> SimpleNamespace:
    """Evidence of methods' times by data set: least and most."""
    rows = {
        place: {"ratio": sum(two) / 2, "least": two[0], "most": two[1]}
        for place, two in ends.items()
        if two
    }
    index = pd.MultiIndex.from_tuples(rows, names=["dataset", "method"])
    return SimpleNamespace(times=pd.DataFrame(list(rows.values()), index))


def test_the_average_under_attack_is_that_of_the_last_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = courses(robust_accuracy={"CSE": [0.1, 0.7], "STD": [0.9, 0.5]})
    monkeypatch.setattr("csnb.pages.claims.read_histories", lambda folders: made)
    monkeypatch.setattr("csnb.pages.claims.monitored", lambda run: 100)
    found = robust_average_of_cse(SimpleNamespace(trends={"mnist": [Path()]}))
    low, high = difference(0.7, 100, 0.5, 100)
    assert found.verdict == "holds"
    assert found.numbers.endswith(f"CSE - STD +0.200 [{low:+.3f}, {high:+.3f}]")


def test_robustness_is_compared_from_the_first_epoch_to_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    courses = {"up": [0.2, 0.9, 0.6], "down": [0.6, 0.9, 0.2], "level": [0.2, 0.6, 0.21]}
    courses["no fall"] = courses["up"]
    fuzzy = {name: 0.6 if name == "no fall" else 0.5 for name in courses}  # at the end

    def histories(folders: list[str]) -> pd.DataFrame:
        name = folders[-1]
        frame = pd.DataFrame({"robust_accuracy": courses[name]}).assign(method="CSE")
        frame["fuzziness"] = [0.6, 0.6, fuzzy[name]]
        other = frame.assign(method="STD", robust_accuracy=0.5)
        return pd.concat([other, frame]) if len(folders) > 1 else frame

    monkeypatch.setattr("csnb.pages.claims.read_histories", histories)
    monkeypatch.setattr("csnb.pages.claims.monitored", lambda run: 100)
    for names, verdict in (("up", "holds"), ("down", "contradicted"), ("level", "not shown")):
        evidence = SimpleNamespace(trends={names: ["STD", names]})
        found = figure_5_course(evidence)
        assert found.verdict == verdict
    low, high = difference(0.21, 100, 0.2, 100)
    still = figure_5_course(SimpleNamespace(trends={"no fall": ["STD", "no fall"]}))
    assert still.verdict == "not run" and "fell by 0.01 at most" in still.numbers
    assert found.numbers.endswith(f"0.200 to 0.210, +0.010 [{low:+.3f}, {high:+.3f}]")


def test_the_order_of_figure_4_counts_exact_attacks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    few, half, all_of = (np.arange(100) < n for n in (0, 50, 100))
    attacks = {"clean": (all_of, few, all_of), "PGD": (few, half, all_of)}
    attacks |= dict.fromkeys(("PGD(gradient=float32)", "CW"), (all_of, half, few))
    rows = [
        (attack, method, 0, 0, hits)
        for attack, each in attacks.items()
        for method, hits in zip(("ADV", "CSA+L2", "CSA"), each, strict=True)
    ]
    columns = ["attack", "method", "p", "protected_class", "hits"]
    made = pd.DataFrame(rows, columns=columns)
    monkeypatch.setattr("csnb.pages.claims.read_hits", lambda folders: made)
    figures = {("mnist", name, False): Path(name) for name in ("ADV", "CSA+L2", "CSA")}
    found = csa_l2_between(SimpleNamespace(figures=figures))
    assert found.verdict == "holds" and "of 2 comparisons" in found.numbers
    assert found.numbers.endswith("CSA+L2's clean recall: 0.000")


def test_much_less_time_is_less_than_half() -> None:
    ends = {("mnist", "CSE"): (0.3, 0.4), ("mnist", "CSA"): (0.82, 1.1)}
    assert time_of_training(timed(ends)).verdict == "holds"
    slow = {("cifar10", "CSE"): (0.6, 0.7), ("cifar10", "CSA"): (1.0, 1.1)}
    assert time_of_training(timed(ends | slow)).verdict == "mixed"
    assert time_of_training(timed(slow)).verdict == "contradicted"
