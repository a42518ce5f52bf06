"""README's measurement: a class's ranking as a table, and the picture above it."""

import matplotlib.pyplot as plt

from csnb import figures
from csnb.curves import BASE, CONTROL, Comparison, recommendation, signed
from csnb.margins import protection_curve
from csnb.paths import CHECKOUT, RESULTS

PICTURE = RESULTS.parent / "protection.png"
MARKS = "<!-- measured: make pages -->", "<!-- measured so far -->"
MOST = 6  # methods in the picture


def measured(one: Comparison) -> str:
    """A class's ranking in Markdown: the picture, a table, what to use."""
    trainings = int(one.ranking["trainings"].iloc[0])
    about = f"{one.name}, {trainings} trainings of each, 95 % intervals"
    place = PICTURE.relative_to(CHECKOUT)
    columns = [about, f"recall at {one.budget:.0%} false alarms", "gain over ADV"]
    columns += ["robust average, less ADV's", "class lost"]
    rows = [f"![Recall of the class by false alarms, both under attack]({place})", ""]
    rows += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, row in one.ranking.iterrows():
        recall = f"{row['recall']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        gain, price = ("" if name == BASE else signed(row, k) for k in ("gain", "price"))
        rows.append(
            f"| {name}{_note(name)} | {recall} | {gain} | {price} | "
            f"{row['lost']:.0f} of {row['trainings']:.0f} |"
        )
    return "\n".join([*rows, "", recommendation(one.ranking, one.name)])


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


def readme(text: str, said: str) -> str:
    """README's ``text`` with ``said`` between its two marks."""
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{said}\n\n{MARKS[1]}{after}"
