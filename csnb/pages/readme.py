"""README's measurements: what to use, a class's ranking and picture, every class in a row."""

import re
from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd

from csnb import figures
from csnb.curves import BASE, CONTROL, Comparison, protects_most, recommendation, shown, signed
from csnb.margins import protection_curve
from csnb.markdown import table
from csnb.pages.counting import Finding
from csnb.paths import CHECKOUT, RESULTS

PICTURE = RESULTS.parent / "protection.png"
PLACE = PICTURE.relative_to(CHECKOUT)
MARKS = "<!-- measured: make pages -->", "<!-- measured so far -->"
VERDICTS = "holds", "in part", "mixed", "not shown", "contradicted", "not run"
MOST = 6  # methods in the picture


def measured(
    curves: Sequence[Comparison],
    guarantees: pd.DataFrame,
    offsets: pd.DataFrame,
    findings: Sequence[Finding],
) -> tuple[str, str]:
    """What README says in Markdown: on its first screen, and further down.

    First: does the paper hold, what to use, a picture, every class. Then: a class with every
    method, and what is certified. ``curves``, ``guarantees``, ``offsets``: of
    `csnb.pages.evidence.Evidence`; ``findings``: of `csnb.pages.claims`.
    """
    drawn = f"![Recall of the class by false alarms, both under attack]({PLACE})"
    first = [of_claims(findings), to_use(curves) + _kept(offsets), drawn, of_classes(curves)]
    rest = [of_class(curves[0]), *([guaranteed(guarantees)] if len(guarantees) else [])]
    return "\n\n".join(first), "\n\n".join(rest)


def of_claims(findings: Sequence[Finding]) -> str:
    """How many of the paper's claims came to which verdict."""
    counts = Counter(found.verdict for found in findings)
    said = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS if counts[verdict])
    page = "[REPRODUCTION.md](REPRODUCTION.md)"
    return f"**Does the paper hold?** Of {len(findings)} claims: {said} ({page})."


def of_class(one: Comparison) -> str:
    """A class's ranking in Markdown: a table, what to use."""
    trainings = int(one.ranking["trainings"].iloc[0])
    about = f"{one.name}, {trainings} trainings of each, 95 % intervals"
    head = [about, f"recall at {one.budget:.0%} false alarms", "gain over ADV"]
    rows = [[*head, "robust average, less ADV's", "class lost"]]
    for name, row in one.ranking.iterrows():
        recall = f"{row['recall']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        gain, price = ("" if name == BASE else signed(row, k) for k in ("gain", "price"))
        lost = f"{row['lost']:.0f} of {row['trainings']:.0f}"
        rows.append([f"{name}{_note(name)}", recall, gain, price, lost])
    return f"{table(rows)}\n\n{recommendation(one.ranking, one.name)}"


def of_classes(curves: Sequence[Comparison]) -> str:
    """A row per class: the method that protects it most."""
    most = "who protects it most, and never lost it"
    head = ["every class so far, under attack", "false alarms", most, "recall"]
    rows = [[*head, "gain over ADV with the best offset", "robust average, less ADV's"]]
    for one in curves:
        name = protects_most(one.ranking)
        row = one.ranking.loc[name]
        many = f"{name}, of {len(one.ranking)} methods, {row['trainings']:.0f} trainings each"
        ends = [f"{row['recall']:.3f}", _gain(row), signed(row, "price")]
        rows.append([one.name, f"{one.budget:.0%}", many, *ends])
    return table(rows)


def to_use(curves: Sequence[Comparison]) -> str:
    """Which methods are shown to protect more than ADV with the best offset, and how much.

    A class that a training lost does not count.
    """
    rows = pd.concat(
        [one.ranking.assign(base=one.ranking.loc[BASE, "as_trained"]) for one in curves]
    ).drop(index=[BASE, CONTROL])
    kept = rows[shown(rows)]
    sure, fewer = kept.groupby(level=0)["gain"].agg(["size", "min", "max"]), kept["as_trained"]
    said = [
        f"{name} in {row['size']:.0f} of {(rows.index == name).sum()} classes "
        f"(recall {_range(row['min'], row['max'])})"
        for name, row in sure.sort_values("size", ascending=False, kind="stable").iterrows()
    ]
    if not said:
        return "**What to use**: ADV with an offset; no method is shown to protect a class more."
    less = f"{(fewer < kept['base']).sum()} of these {len(kept)}"
    return (
        "**What to use**: shown to protect more than ADV, each with its own best offset, at equal "
        f"false alarms: {'; '.join(said)}. Elsewhere use ADV with an offset; `protect_best` "
        f"measures it for a class of yours. Set `offset`: as trained, {less} recognise less of "
        f"their class under attack than ADV does. {_losers(rows)}"
    )


def _kept(offsets: pd.DataFrame) -> str:
    """How far offsets that were chosen on held-out images keep their budgets on test images."""
    if offsets.empty:
        return ""
    times = offsets["false_alarms"] / offsets["offset"].astype(float)
    return (
        f" Chosen on held-out images, in {len(times)} trainings, `offset` left "
        f"{times.min():.2f} to {times.max():.2f} times the false alarms that it was asked for "
        f"(mean {times.mean():.2f})."
    )


def _range(least: float, most: float) -> str:
    """Both ends with their signs, or one where they are the same."""
    return f"{least:+.3f}" if least == most else f"{least:+.3f} to {most:+.3f}"


def _losers(rows: pd.DataFrame) -> str:
    """By which methods a class is lost, and how often. ``rows``: of rankings."""
    counts = rows.groupby(level=0)[["lost", "trainings"]].sum()
    counts = counts[counts["lost"] > 0].sort_values("lost", ascending=False, kind="stable")
    said = [f"{name} in {n:.0f} of {total:.0f}" for name, (n, total) in counts.iterrows()]
    if not said:
        return "No training lost its class."
    return f"Without an offset, the class is lost by {', '.join(said)} trainings."


def guaranteed(found: pd.DataFrame) -> str:
    """A row per class: what no attack can undo. ``found``: of `Evidence.guarantees`."""
    head = ["what no attack can undo", "false alarms", "IBP with the term for the class", "recall"]
    rows = [[*head, "gain over plain IBP", "certified average, less plain IBP's"]]
    for name, row in found.iterrows():
        many = f"{row['trainings']:.0f} training{'s' if row['trainings'] > 1 else ''} each"
        ends = [f"{row['recall']:.3f}", _gain(row), f"{row['certified']:+.3f}"]
        rows.append([str(name), f"{row['budget']:.0%}", many, *ends])
    return table(rows)


def _gain(row: pd.Series) -> str:
    """The gain; where its interval is above 0 bold, or in how many trainings the class was lost."""
    said = signed(row, "gain")
    if row["gain_low"] <= 0:
        return said
    if row["lost"]:
        return f"{said}, class lost in {row['lost']:.0f} of {row['trainings']:.0f}"
    return f"**{said}**"


def _note(name: str) -> str:
    notes = {BASE: " with the best offset", CONTROL: " (the control: no class is dear)"}
    return notes.get(name, "")


def picture(one: Comparison) -> plt.Axes:
    """The curves of one training of ADV, the control and the methods that rank first."""
    others = [name for name in one.ranking.index if name not in (BASE, CONTROL)]
    names = [BASE, CONTROL, *others[: MOST - 2]]
    curves = {name: protection_curve(*pair) for name, pair in one.margins(names).items()}
    title = figures.caption(one.name, "one training of each")
    return figures.protection_curve(curves, budget=one.budget, title=title)


def readme(text: str, said: Sequence[str]) -> str:
    """README's ``text`` with each of ``said`` between a pair of its marks, in their order."""
    first, last = map(re.escape, MARKS)
    parts = re.split(f"(?s)(?<={first}).*?(?={last})", text)
    found = [part for one, part in zip(said, parts[1:], strict=True) for part in (one, part)]
    return "\n\n".join([parts[0], *found])
