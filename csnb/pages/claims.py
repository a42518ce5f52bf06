"""REPRODUCTION.md: what the paper says, claim by claim, and what finished runs say of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from csnb.attacks import keeps_to_ball
from csnb.costs import protect
from csnb.curves import BASE, CONTROL, signed
from csnb.losses import expected_cost, fuzziness
from csnb.markdown import signed_ends, table
from csnb.pages.counting import (
    Finding,
    audited,
    audits_of,
    by_sign,
    counted,
    judged,
    lost,
    mostly,
    of_order,
    of_pair,
    tests_of,
)
from csnb.pages.evidence import Evidence
from csnb.pages.hours import of_sweeps
from csnb.paper import minmax, normalization, theory, upheld
from csnb.paper.tables import accuracies, agreement, other_side, plain_attack, protecting
from csnb.runs import read_histories, read_hits, read_run, read_weights
from csnb.runs.frames import read_answers
from csnb.statistics import difference, of_repeats

NAMES = {
    "mnist": "Table II, MNIST",
    "cifar10": "Table III, CIFAR-10",
    "cifar100": "Table IV, CIFAR-100",
}
NEAR = 0.01  # of accuracy: almost the same, almost nothing
FALL = 0.01  # of fuzziness, whose largest value is ln 2: it falls
LINEAR = {"classes": 10, "p1": 0.01, "draws": 10_000, "seed": 0}  # models of Theorem 1
HEAD = """\
# What of the paper holds

Written by `make pages` from the runs in [results/runs](results/runs); no number here was typed by
hand. Verdicts: **holds** (in all comparisons), **in part** (in some, and the other way in none),
**mixed** (in some each way), **not shown** (in none, most are unclear), **contradicted** (in none,
most are the other way, or what is printed is false), **not run**; what is claimed of most holds
where more than half are so. Two networks are compared on the same test images of the protected
class: by McNemar's exact test at 5 %, with Holm's correction for all of a table, under attacks with
exact gradients; CW, whose budget decides its numbers, is left out. Such a test knows nothing of
another seed. Where the classes of a table have several trainings each, attacks are counted instead:
by Student's test of the mean difference over classes and trainings, whose error is of images and
trainings, with Holm's correction for the attacks. What an audit left is counted network by network,
by Newcombe's 95 % interval of the difference, without correction; it decides no verdict but that on
obfuscated gradients. Gains at equal false alarms are over trainings where there are several, with
95 % intervals for all methods at once. A mean over classes is one of each class's trainings first.
CSE's gamma is 1, which came nearest to Table II of those that
[calibration](notebooks/calibration.ipynb) tried; on MNIST the fuzziness hardly moves then.
"""
TABLES = """\
## The tables

Of the cells that have ours beside the printed one, by float32 gradients as the paper's library has
them: the share of printed values *inside* our 95 % interval, over images and seeds; the mean
*distance*; Spearman's correlation of their *ranks*. Of the cells in which the printed accuracies
put the first of a pair of the paper's methods above the second, with Newcombe's interval of the gap
above 0 (CSE, CSA, CSE+ADV > STD, CSE+ADV > CSA; CW left out): in how many our networks do so, each
training counted.
"""
HOURS = """\
## What it took

Hours of training and attacks, as if one run had followed the other; a machine's cores had a run
each. Worst margins and audits came later and are not in them. A run of two sweeps counts in both.
"""


@dataclass(frozen=True)
class Claim:
    """What the paper says, ``where``; the ``notebook`` that shows it; how runs are asked."""

    where: str
    says: str
    notebook: str
    ask: Callable[[Evidence], Finding]


CLAIMS: list[Claim] = []


def claim(
    where: str, says: str, notebook: str
) -> Callable[[Callable[[Evidence], Finding]], Callable[[Evidence], Finding]]:
    """Add a function of the `Evidence` to `CLAIMS`."""

    def add(ask: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
        CLAIMS.append(Claim(where, says, notebook, ask))
        return ask

    return add


# --- the claims, in the paper's order


@claim("Abstract; IV", "CSA protects the class more than standard training", "table2_mnist")
def csa_above_std(evidence: Evidence) -> Finding:
    return of_pair(evidence, "mnist", "CSA", "STD")


@claim(
    "Abstract", "the protected class does \"much better\" than with existing models: costs protect "
    "it more than adversarial training without them (recall alone)", "table2_mnist",
)  # fmt: skip
def csa_above_adv(evidence: Evidence) -> Finding:
    return of_pair(evidence, "mnist", "CSA", "ADV")


@claim("Abstract", "the same on CIFAR-10", "table3_cifar10")
def cifar10_csa_above_adv(evidence: Evidence) -> Finding:
    return of_pair(evidence, "cifar10", "CSA", "ADV")


@claim("Abstract", "costs protect the class more at equal false alarms into it", "protection")
def csa_above_adv_at_equal_alarms(evidence: Evidence) -> Finding:
    if not evidence.curves:
        return Finding("not run", "no class has ADV, the control and CSA")
    parts, words = [], []
    for one in evidence.curves:
        said = one.claim()
        for against in (BASE, CONTROL):
            row = said.loc[(against, "CSA")]
            ends = signed(row, "gain")
            other = against if against == BASE else "CSA with costs of 1"
            parts.append(f"{one.name}: {ends} against {other} ({row['trainings']:.0f} trainings)")
            words += [row["verdict"]] if against == BASE else []
        gone = one.ranking.loc["CSA", "lost"]
        parts += [f"**CSA loses {one.name}** in {gone:.0f}, as trained"] if gone else []
    counts = [words.count(word) for word in ("more", "LESS", "not shown")]
    return Finding(judged(*counts), "; ".join(parts))


@claim(
    "Abstract",
    "the same of the networks of Tables II and III, in the ball that they were trained for",
    "protection",
)
def csa_above_adv_in_the_paper_s_ball(evidence: Evidence) -> Finding:
    if evidence.published.empty:
        return Finding("not run", "no class of a table has ADV and CSA")
    rows = evidence.published.xs("CSA", level="method")
    parts = [
        f"{name}: {signed(row, 'gain')} (trainings of each: {row['trainings']:.0f})"
        for name, row in rows.iterrows()
    ]
    verdict = judged(*by_sign(zip(rows["gain_low"], rows["gain_high"], strict=True)))
    gone = [
        f"{dataset}: {said}"
        for dataset, table in evidence.tables.items()
        for said in lost(table, "CSA", BASE)
    ]
    return Finding(verdict, "CSA less ADV: " + "; ".join([*parts, *gone]))


@claim(
    "Abstract", "without an attack the average accuracy of all classes is almost as before",
    "table3_cifar10",
)  # fmt: skip
def clean_average(evidence: Evidence) -> Finding:
    """Almost: at most `NEAR` below that of standard training, seed by seed."""
    parts, gaps = [], []
    for dataset in ("mnist", "cifar10"):
        table = evidence.tables[dataset]
        if table.scores.empty:
            continue
        found = other_side(table.scores, table.alarms)["less STD's"].dropna()
        each = {name: found[name] for name in ("CSA", "CSE", "CSE+ADV") if name in found}
        gaps += each.values()
        said = ", ".join(f"{name} {gap:+.3f}" for name, gap in each.items())
        parts += [f"{dataset}: {said}"] if each else []
    near = sum(gap >= -NEAR for gap in gaps)
    said = f"less that of STD, at least -{NEAR:g} in {near} of {len(gaps)}; {'; '.join(parts)}"
    return Finding(judged(near, len(gaps) - near, 0), said if gaps else "STD or others are missing")


@claim("Abstract", "under attack that average is better than ADV's", "protection")
def robust_average(evidence: Evidence) -> Finding:
    rows = {one.name: one.ranking.loc["CSA"] for one in evidence.curves}
    parts = [f"{name}: {signed(row, 'price')}" for name, row in rows.items()]
    counts = by_sign((row["price_low"], row["price_high"]) for row in rows.values())
    said = f"CSA less ADV, above in {counts[0]}, below in {counts[1]} of {len(parts)}"
    return Finding(judged(*counts), f"{said}: {'; '.join(parts)}" if parts else "no run")


@claim(
    "Abstract", "under attack that average is better than the standard model's, of CSE without "
    "adversarial training", "fig5_training_trends",
)  # fmt: skip
def robust_average_of_cse(evidence: Evidence) -> Finding:
    """After the last epoch; as if of other images: on the safe side."""
    parts, intervals = [], []
    for dataset, folders in evidence.trends.items():
        last = read_histories(folders).groupby("method")["robust_accuracy"].last()
        n = monitored(folders[0])
        low, high = map(float, difference(last["CSE"], n, last["STD"], n))
        intervals.append((low, high))
        ends = signed_ends(last["CSE"] - last["STD"], low, high)
        parts.append(f"{dataset}, of {n} images under PGD, one training each: CSE - STD {ends}")
    return Finding(judged(*by_sign(intervals)), "; ".join(parts))


@claim(
    "Abstract", "the model built on Min-Max can combine with adversarial training to improve "
    "(CSE+ADV above ADV)", "table2_mnist",
)  # fmt: skip
def cse_adv_above_adv(evidence: Evidence) -> Finding:
    return of_pair(evidence, "mnist", "CSE+ADV", "ADV")


@claim("Abstract", "CSE+ADV above ADV on CIFAR-10", "table3_cifar10")
def cifar10_cse_adv_above_adv(evidence: Evidence) -> Finding:
    return of_pair(evidence, "cifar10", "CSE+ADV", "ADV")


@claim("III-C, Eq. 4", "with c = 1 CSA is standard adversarial training", "equation_checks")
def equal_costs_are_no_costs(evidence: Evidence) -> Finding:
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    label, costs = torch.tensor([0]), torch.tensor(protect(3, 0, 1.0))
    entropy = torch.nn.functional.cross_entropy(logits, label)
    (plain,) = torch.autograd.grad(entropy, logits, retain_graph=True)
    whole = entropy + expected_cost(logits, label, costs).sum()
    (slope,) = torch.autograd.grad(whole, logits)
    ratio = float((slope / plain).mean())
    said = "a term 1 - f_y remains: the gradient is 1 + f_y times as steep"
    return Finding("contradicted", f"{said}, {ratio:.3f} at logits 1, 0, -1")


@claim(
    "III-C", "adversarial training gives the Min-Max property: ADV has more of it than STD",
    "fig3_minmax_csa_adv",
)  # fmt: skip
def adversarial_training_gives_min_max(evidence: Evidence) -> Finding:
    return _of_weights(evidence, ["STD", "ADV"])


@claim(
    "III-C, Fig. 3", "CSA's first convolution has more weights near zero and larger large ones "
    "than ADV's (Min-Max)", "fig3_minmax_csa_adv",
)  # fmt: skip
def figure_3(evidence: Evidence) -> Finding:
    return _of_weights(evidence, ["ADV", "CSA"])


@claim(
    "III-C, Fig. 4", "ADV, CSA+L2, CSA in this order have more of the Min-Max property",
    "fig4_minmax_l2",
)  # fmt: skip
def figure_4(evidence: Evidence) -> Finding:
    return _of_weights(evidence, ["ADV", "CSA+L2", "CSA"])


@claim(
    "Fig. 1", "minimising CSE's loss causes the Min-Max property: CSE has more of it than STD",
    "fig3_minmax_csa_adv",
)  # fmt: skip
def cse_gives_min_max(evidence: Evidence) -> Finding:
    """On MNIST over trainings, and in CIFAR-10's convolutions, where the fuzziness falls."""
    found = {}
    if (over := _over_trainings(evidence, ["STD", "CSE"])) is not None:
        found[f"mnist, {_said(over)}"] = over
    if "cifar10" in evidence.trends:
        read = [read_weights(folder) for folder in evidence.trends["cifar10"]]
        convolutions = [[w.ravel() for name, w in of.items() if "conv" in name and w.ndim == 4]
                        for of in read]  # fmt: skip
        weights = dict(zip(("STD", "CSE"), map(np.concatenate, convolutions), strict=True))
        found["cifar10, one training each, both convolutions"] = minmax.compare(
            pd.DataFrame(weights)
        )
    if not found:
        return Finding("not run", "a training of a method is missing")
    parts = [of_order(frame, "measures", name).numbers for name, frame in found.items()]
    return Finding(of_order(pd.concat(found.values()), "").verdict, "; ".join(parts))


def _of_weights(evidence: Evidence, methods: list[str]) -> Finding:
    found = _over_trainings(evidence, methods)
    if found is None:
        return Finding("not run", "a training of a method is missing")
    return of_order(found, "measures", _said(found))


def _over_trainings(evidence: Evidence, methods: list[str]) -> pd.DataFrame | None:
    """Of Table II's first convolutions, where each method was trained."""
    networks = evidence.first_layers
    there = set(methods) <= set(networks.index.get_level_values("method"))
    return minmax.over_trainings(networks, methods) if there else None


def _said(over: pd.DataFrame) -> str:
    return f"conv1, {over['trainings'].min()} trainings"


def _of_figure(evidence: Evidence, methods: list[str]) -> list[Path]:
    """MNIST's run of each method, behind figures 3 and 4; nothing where one is missing.

    STD's is figure 5's, the only one of it that is attacked after each epoch.
    """
    keys = [("mnist", name, name == "STD") for name in methods]
    known = evidence.figures
    return [known[key] for key in keys] if set(keys) <= set(known) else []


@claim(
    "III-C", "ADV, CSA+L2, CSA in this order protect the class more", "fig4_minmax_l2",
)  # fmt: skip
def csa_l2_between(evidence: Evidence) -> Finding:
    methods = ["ADV", "CSA+L2", "CSA"]
    folders = _of_figure(evidence, methods)
    if not folders:
        return Finding("not run", "a training of the figure is missing")
    found = minmax.protection(read_hits(folders), methods)
    attacks = [a for a in found["attack"].unique() if a != "clean" and keeps_to_ball(a)]
    exact = found["attack"].isin([attack for attack in attacks if plain_attack(attack) == attack])
    finding = of_order(found[exact], "comparisons under attack")
    missed = found.set_index(["attack", "claim"]).loc[("clean", "ADV < CSA+L2"), "second"]
    return Finding(finding.verdict, f"{finding.numbers}; CSA+L2's clean recall: {missed:.3f}")


@claim(
    "III-C, Eq. 8-9", "minimising the fuzziness sends most weights to zero and a few to large "
    "values", "equation_checks",
)  # fmt: skip
def fuzziness_sends_to_zero(evidence: Evidence) -> Finding:
    sizes = torch.logspace(-3, 1, 400, dtype=torch.float64)
    values = torch.stack([fuzziness([size.reshape(1)]) for size in sizes])
    assert (values.diff() < 0).all(), "Eq. 8 as printed falls with every |w|"
    return Finding(
        "contradicted",
        f"it falls with |w| everywhere, from {values[0]:.3f} near 0 to {values[-1]:.3f} at 10: as "
        "printed, minimising it makes every weight larger and none zero",
    )


@claim(
    "III-C", "without a maximum to look for, CSE takes much less time to train than CSA",
    "table2_mnist",
)  # fmt: skip
def time_of_training(evidence: Evidence) -> Finding:
    """Much less: less than half."""
    return _faster(evidence, "CSE", "CSA", ("mnist", "cifar10"), part=0.5)


def _faster(
    evidence: Evidence, first: str, second: str, datasets: Sequence[str], *, part: float = 1
) -> Finding:
    """Does the ``first`` method train in less than a ``part`` of the ``second``'s time?

    Where its longest round is less than that of the shortest of the other.
    """
    gaps, said = [], []
    for dataset in datasets:
        keys = [(dataset, first), (dataset, second)]
        if not set(keys) <= set(evidence.times.index):
            continue
        one, other = (evidence.times.loc[key] for key in keys)
        gaps.append((part * other["least"] - one["most"], part * other["most"] - one["least"]))
        words = [
            f"{name} {row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
            for name, row in ((first, one), (second, other))
        ]
        said.append(f"{dataset}: {', '.join(words)}")
    about = "of ADV's time, on a quiet machine (median of the rounds, least to most)"
    numbers = f"{about}: {'; '.join(said)}" if said else f"{first} or {second} was not timed"
    return Finding(judged(*by_sign(gaps)), numbers)


@claim("III-D, Theorem 1", "one p1 << 1 makes the bound hold for every x", "theorem1_minmax")
def theorem_1(evidence: Evidence) -> Finding:
    """At p1 = 0.01, beside a large input a small one breaks it; for one x there is a p1."""
    row = theory.gradient_bound(np.array([1000.0, 0.1]), **LINEAR).iloc[1]
    said = f"10 classes, p1 = 0.01, x = (1000, 0.1): {row['b']:.1e} against {row['a']:.1e}"
    proven = f"for a given x it is true up to a p1, {theory.proven_p1(np.ones(2)):.1e} at (1, 1)"
    verdict = {"fails": "contradicted", "holds": "holds"}.get(row["verdict"], "not shown")
    return Finding(verdict, f"{said}; {proven}")


@claim("III-D, (11)", "and so the loss changes less under any perturbation", "theorem1_minmax")
def inequality_11(evidence: Evidence) -> Finding:
    """From x to -x the right side is 0 in expectation, and the left side is not."""
    x = theory.example_inputs(10, 0)["in [0, 1]"]
    found = theory.inequality_11(x, -2 * x, **LINEAR)
    low, high = found["expected_low"], found["expected_high"]
    said = f"x in [0, 1] to -x, expected losses: right less left side in [{low:.4f}, {high:.4f}]"
    broken = f"single draws of the weights break it in {found['broken']:.1%}"
    return Finding("contradicted" if high < 0 else "not shown", f"{said}; {broken}")


@claim("IV, Table I", "standard deviations of the data sets' pixels", "table1_normalization")
def table_1(evidence: Evidence) -> Finding:
    """Which deviation of the training images gives all printed digits?"""
    sources = normalization.sources(normalization.table1()).xs("training", level="images")
    of_spread = sources.reset_index().query("statistic != 'mean'")
    pixels = of_spread["statistic"] == "pixels"
    said = "; ".join(f"{row.dataset}: {row.statistic}" for row in of_spread.itertuples())
    verdict = judged(int(pixels.sum()), int((~pixels).sum()), 0)
    return Finding(verdict, f"the statistic of the training images with all digits: {said}")


@claim(
    "IV-A, Table II", "CSE is robust without adversarial training: above standard training on "
    "MNIST", "table2_mnist",
)  # fmt: skip
def cse_above_std(evidence: Evidence) -> Finding:
    return of_pair(evidence, "mnist", "CSE", "STD")


@claim("IV-A, Table II", "CSE+ADV protects more than standard training on MNIST", "table2_mnist")
def cse_adv_above_std(evidence: Evidence) -> Finding:
    return of_pair(evidence, "mnist", "CSE+ADV", "STD")


@claim("IV-A, Table II", "CSE+ADV protects more than CSA in most scenarios", "table2_mnist")
def cse_adv_above_csa(evidence: Evidence) -> Finding:
    return of_pair(evidence, "mnist", "CSE+ADV", "CSA", mostly)


@claim(
    "IV-A and IV-B, Fig. 5", "the fuzziness starts around 0.7, falls in CSE and stays in STD",
    "fig5_training_trends",
)  # fmt: skip
def figure_5(evidence: Evidence) -> Finding:
    """Falls: by more than `FALL`. Stays: falls by less than a tenth of CSE's."""
    parts, words = [], []
    for dataset, folders in evidence.trends.items():
        course = read_histories(folders).groupby("method", sort=False)["fuzziness"]
        ends = course.agg(["first", "last"])
        drop = ends["first"] - ends["last"]
        said = ", ".join(f"{m} {e['first']:.4f} to {e['last']:.4f}" for m, e in ends.iterrows())
        words.append(bool(drop["CSE"] > 10 * abs(drop["STD"]) and drop["CSE"] > FALL))
        parts.append(f"{dataset}: {said}")
    counts = [words.count(True), 0, words.count(False)]
    rule = f"falls: by more than {FALL:g} and ten times as much as STD's"
    return Finding(judged(*counts), "; ".join([*parts, rule]))


def fuzziness_fell(run: Path) -> bool:
    """Whether a run's fuzziness fell by more than `FALL` while it trained."""
    course = read_histories([run])["fuzziness"]
    return bool(course.iloc[0] - course.iloc[-1] > FALL)


@claim("IV-A and IV-B, Fig. 5", "so CSE is more robust than STD", "fig5_training_trends")
def figure_5_robustness(evidence: Evidence) -> Finding:
    parts, counts = [], [0, 0, 0]
    for dataset, folders in evidence.trends.items():
        found = minmax.protection(read_hits(folders), ["STD", "CSE"])
        exact = found[found["attack"] == "PGD"].iloc[0]
        counts[["holds", "reversed", "unclear"].index(exact["verdict"])] += 1
        gap = signed_ends(*exact[["difference", "low", "high"]])
        parts.append(f"{dataset}, the class under exact PGD, one training: CSE - STD {gap}")
    return Finding(judged(*counts), "; ".join(parts))


@claim(
    "IV-B, Fig. 5", "as the fuzziness of CSE falls, the network becomes more robust",
    "fig5_training_trends",
)  # fmt: skip
def figure_5_course(evidence: Evidence) -> Finding:
    """From the first epoch to the last, of all classes; as if of other images: on the safe side.

    Where the fuzziness fell.
    """
    parts, intervals = [], []
    for dataset, folders in evidence.trends.items():
        if not fuzziness_fell(folders[1]):
            parts.append(f"{dataset}: CSE's fuzziness fell by {FALL:g} at most")
            continue
        course = read_histories(folders).query("method == 'CSE'")["robust_accuracy"]
        first, last, n = course.iloc[0], course.iloc[-1], monitored(folders[1])
        low, high = map(float, difference(last, n, first, n))
        intervals.append((low, high))
        ends = f"{first:.3f} to {last:.3f}, {signed_ends(last - first, low, high)}"
        parts.append(f"{dataset}, accuracy under PGD, first to last epoch: {ends}")
    return Finding(judged(*by_sign(intervals)), "; ".join(parts))


def monitored(run: Path) -> int:
    """On how many test images a run's attack after each epoch was measured."""
    return min(read_run(run)["parameters"]["monitor_images"], len(read_answers(run).labels))


@claim("IV-A, Fig. 5", "on MNIST CSE is harder to converge than STD", "fig5_training_trends")
def figure_5_convergence(evidence: Evidence) -> Finding:
    """By the epochs to the same training accuracy: the two losses are different sums."""
    late = minmax.later(evidence.courses, "STD", "CSE").dropna(axis=1)
    if late.empty:
        return Finding("not run", "a training of CSE or STD is missing")
    mean, low, high, _ = (float(end[0]) for end in of_repeats(late.mean(axis=1).to_frame()))
    about = f"classes: {late.shape[1]}, trainings of each: {len(late)}"
    numbers = (
        "epochs to 99 % of the lower final training accuracy, CSE's less STD's: "
        f"{signed_ends(mean, low, high)} ({about})"
    )
    return Finding(judged(*by_sign([(low, high)])), numbers)


@claim("IV-A", "and takes more time to train", "table2_mnist")
def time_of_cse(evidence: Evidence) -> Finding:
    return _faster(evidence, "STD", "CSE", ["mnist"])


@claim("IV-B, Fig. 5", "on CIFAR-10 both STD and CSE converge eventually", "fig5_training_trends")
def figure_5_converges(evidence: Evidence) -> Finding:
    """Converged: training accuracy moves by `NEAR` at most in the last tenth of the epochs."""
    if "cifar10" not in evidence.trends:
        return Finding("not run", "a training of the figure is missing")
    moves = {}
    for method, course in read_histories(evidence.trends["cifar10"]).groupby("method"):
        last = course["accuracy"].tail(max(2, len(course) // 10))
        moves[method] = float(last.max() - last.min())
    still = sum(move <= NEAR for move in moves.values())
    said = ", ".join(f"{method} {move:.4f}" for method, move in moves.items())
    about = (
        f"in the last tenth of the epochs training accuracy moves (converged: by {NEAR:g} at most)"
    )
    return Finding(judged(still, len(moves) - still, 0), f"{about}: {said}")


@claim("IV-B, Table III", "CSE protects more than standard training on CIFAR-10", "table3_cifar10")
def cifar10_cse(evidence: Evidence) -> Finding:
    return of_pair(evidence, "cifar10", "CSE", "STD")


@claim("IV-B, Table III", "CSA does so much more", "table3_cifar10")
def cifar10_csa(evidence: Evidence) -> Finding:
    return of_pair(evidence, "cifar10", "CSA", "STD")


@claim("IV-B, Table III", "CSE+ADV does so much more", "table3_cifar10")
def cifar10_cse_adv(evidence: Evidence) -> Finding:
    return of_pair(evidence, "cifar10", "CSE+ADV", "STD")


@claim("IV-B, Table III", "all models are vulnerable to CW", "table3_cifar10")
def cifar10_cw(evidence: Evidence) -> Finding:
    """Vulnerable: at most `NEAR` of the class is left."""
    table = evidence.tables["cifar10"]
    if table.scores.empty:
        return Finding("not run", f"{table.there} runs of the table are done")
    rows = protecting(accuracies(table.scores))
    left = rows.loc[rows["attack"].map(plain_attack).str.partition("(")[0] == "CW", "value"]
    fallen = int((left <= NEAR).sum())
    said = (
        f"at most {NEAR:g} of the class is left in {fallen} of {len(left)} cells (of each training)"
    )
    budget = "CW has no ball, and its budget of steps decides that"
    return Finding(judged(fallen, len(left) - fallen, 0), f"{said}; {budget}")


@claim("IV-B", "the Min-Max property, which CSE is for, obfuscates gradients", "audit")
def cse_is_masked(evidence: Evidence) -> Finding:
    """Where the audit finds CSE masked and not STD, of networks whose fuzziness fell."""
    rows = audits_of(evidence, *evidence.tables)
    rows = rows[rows["method"].isin(["CSE", "STD"])].assign(masked=rows["verdict"] == "masked")
    places = {"index": ["dataset", "class", "seed"], "columns": "method"}
    both = rows.pivot(**places, values=["masked", "run"]).dropna()
    if both.empty or both["masked"].shape[1] < 2:
        return Finding("not run", "no class of a table is audited in both")
    own, theirs = (both["masked", name].astype(bool) for name in ("CSE", "STD"))
    fell = [fuzziness_fell(evidence.folder / run) for run in both["run", "CSE"]]
    counts = [int(which[fell].sum()) for which in (own & ~theirs, theirs & ~own, own == theirs)]
    said = f"masked by the audit: CSE in {own.sum()}, STD in {theirs.sum()} of {len(both)} networks"
    alone = f"where CSE's fuzziness fell by more than {FALL:g}, in {sum(fell)}, CSE alone in"
    return Finding(judged(*counts), f"{said}; {alone} {counts[0]}")


@claim(
    "IV-C, Fig. 6", "the fuzziness of ResNet18's convolutions hardly becomes small, and CSE's are "
    "almost those of STD", "fig6_resnet_fuzziness",
)  # fmt: skip
def figure_6(evidence: Evidence) -> Finding:
    """Small: a tenth less than after the first epoch, in any. Apart: by a tenth of ln 2."""
    if not evidence.resnets:
        return Finding("not run", "STD or CSE is missing")
    frame = read_histories(evidence.resnets).set_index(["method", "epoch"])
    course = frame.filter(like="fuzziness.")
    by_method = course.groupby(level="method")
    left = float((by_method.last() / by_method.first()).to_numpy().min())
    gap = float((course.loc["CSE"] - course.loc["STD"]).abs().to_numpy().max())
    alike = [left > 0.9, gap < 0.1 * math.log(2)]
    said = (
        f"{frame['model'].iloc[0]}, {course.shape[1]} convolutions, {frame['epochs'].iloc[0]} "
        f"epochs, one training each: the one that falls most ends at {left:.3f} of what it was "
        f"after the first epoch (small: below 0.9); CSE and STD are {gap:.4f} apart at most "
        f"(almost: below {0.1 * math.log(2):.2f})"
    )
    return Finding(judged(sum(alike), alike.count(False), 0), said)


@claim("IV-C, Table IV", "on CIFAR-100 and ResNet18 the methods help little", "table4_cifar100")
def cifar100(evidence: Evidence) -> Finding:
    """As claimed: below standard training; the other way: above."""
    table, found = evidence.tables["cifar100"], {}
    for method in ("CSE", "CSA", "CSE+ADV"):
        tests = tests_of(evidence, "cifar100", f"{method} > STD")
        found[method] = counted(tests["exact"]) if "exact" in tests else (0, 0, 0)
    missing = [method for method, counts in found.items() if not sum(counts)]
    if missing:
        words = f"{table.there} runs of the table are done, none with STD and {', '.join(missing)}"
        return Finding("not run", words)
    above, below, unclear = map(sum, zip(*found.values(), strict=True))
    each = [f"{name} in {n[0]} and {n[1]} of {sum(n)}" for name, n in found.items()]
    said = [f"exact gradients, above and below STD ({table.there} runs): {', '.join(each)}"]
    for method in found:
        said += lost(table, method, "STD") + audited(evidence, "cifar100", method, "STD")
    return Finding(judged(below, above, unclear), "; ".join(said))


@claim(
    "V", "in LeNet, the more obvious the Min-Max property, the stronger the robustness",
    "fig4_minmax_l2",
)  # fmt: skip
def min_max_goes_with_recall(evidence: Evidence) -> Finding:
    """Of networks that saw the same kind of images: adversarial training brings both."""
    networks, scores = evidence.first_layers, evidence.tables["mnist"].scores
    there, found = set(networks.index.get_level_values("method")), {}
    for kind in (["STD", "CSE"], ["ADV", "CSA", "CSE+ADV"]):
        if set(kind) <= there:
            found[", ".join(kind)] = minmax.with_recall(networks, scores, kind)
    parts = []
    for kind, rows in found.items():
        most = rows.loc[rows["correlation"].abs().idxmax()]
        ends = signed_ends(*most[["correlation", "low", "high"]])
        told = of_order(rows, "measures of conv1", f"among {kind}").numbers
        parts.append(f"{told}; strongest rank correlation with recall under PGD {ends}")
    verdict = of_order(pd.concat(found.values()), "").verdict if found else "not run"
    return Finding(verdict, "; ".join(parts) or "a training of a method is missing")


# --- the page


@cache
def findings(evidence: Evidence) -> tuple[Finding, ...]:
    """Of `CLAIMS`, in their order."""
    return tuple(each.ask(evidence) for each in CLAIMS)


def report(evidence: Evidence) -> str:
    """REPRODUCTION.md."""
    rows = [["where", "claim", "verdict", "numbers"]]
    for each, found in zip(CLAIMS, findings(evidence), strict=True):
        link = f"[{each.notebook}](notebooks/{each.notebook}.ipynb)"
        numbers = found.numbers.replace("|w|", "\\|w\\|")
        rows.append([each.where, f"{each.says} ({link})", f"**{found.verdict}**", numbers])
    parts = (HEAD, rows), (TABLES, of_tables(evidence)), (HOURS, of_sweeps(evidence.folder))
    return "\n".join(f"{text}\n{table(lines)}\n" for text, lines in parts)


def of_tables(evidence: Evidence) -> list[list[str]]:
    """How near ours are to the printed accuracies: a row per table, the first is the head."""
    rows = [["table", "runs", "cells", "inside", "distance", "ranks", "above, and ours"]]
    for name, one in evidence.tables.items():
        near, counts = agreement(one.comparison).loc["all"], upheld(one.comparison, one.paired)
        ranks = near["correlation"]
        said = "; ".join(
            f"{gradient}: {row['above']} of {row.sum()}, {row['below']} the other way"
            for gradient, row in counts.iterrows()
        )
        numbers = [f"{near['inside']:.0%}", f"{near['distance']:.3f}", f"{ranks:.2f}"]
        shown = [text if near["cells"] else "-" for text in numbers]
        cells = f"{near['cells']:.0f} of {one.comparison['published'].notna().sum()}"
        narrow = ", a narrow ResNet18, 20 epochs" * evidence.sweeps[name].endswith("_narrow")
        rows.append([NAMES[name] + narrow, one.there, cells, *shown, said or "-"])
    return rows
