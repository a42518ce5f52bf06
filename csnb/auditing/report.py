"""What an audit came to: tidy rows, a verdict, one screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from csnb.auditing.indicators import Indicator
from csnb.auditing.work import Case, Findings
from csnb.margins import protection, protection_curve
from csnb.statistics import wilson

POINT = 0.01  # a claim that loses no more stands
LEVELS = ("claimed", "audited", "certified")  # the last where bounds know each layer
HEADS = {"certified": "certified at least"}
COLUMNS = [
    "part", "name", "class", "value", "low", "high", "count", "n", "threshold", "flagged",
    "seconds", "text",
]  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """How many images of the protected classes and of others the data has."""

    own: int
    others: int

    @classmethod
    def of(cls, own: np.ndarray) -> Self:
        """From which are of the protected classes, (N,) bool."""
        return cls(int(own.sum()), int((~own).sum()))


@dataclass(frozen=True)
class Level:
    """``right``: (N,) bool, of the images that are ``known``, (N,) bool; worst ``margins`` (N,)."""

    right: np.ndarray
    known: np.ndarray
    margins: np.ndarray


@dataclass(frozen=True)
class Audit:
    """An audit's ``rows`` (tidy), worst ``margins`` (N,) by level, and ``own``, (N,) bool.

    Levels: claimed, audited and, where `csnb.bounds` has rules for the network, certified: at
    least that stands, whatever the attack. ``rows``: by ``part`` - "verdict", "accuracy" (of the
    protected classes), "average" (of the others, of all, weighted as the data has them), "recall"
    (of the protected classes at given false alarms, and the area), "attack" (how many fell to it
    that had stood), "indicator", "bounds" (why there are none).
    """

    rows: pd.DataFrame
    margins: Mapping[str, np.ndarray]
    own: np.ndarray

    @property
    def verdict(self) -> str:
        """stands, overstated, masked or not auditable."""
        return str(self._part("verdict")["name"].iloc[0])

    @property
    def indicators(self) -> pd.DataFrame:
        """A row per indicator, by name: ``value``, ``threshold``, ``flagged``, ``text``."""
        part = self._part("indicator").set_index("name")
        return part[["value", "threshold", "flagged", "text"]]

    def curves(self) -> dict[str, pd.DataFrame]:
        """The protection curve of each level (see `csnb.margins.protection_curve`)."""
        return {name: protection_curve(m, self.own) for name, m in self.margins.items()}

    def table(self) -> pd.DataFrame:
        """The levels side by side, with n and 95 % intervals as text."""
        part = self.rows[self.rows["part"].isin(["accuracy", "average", "recall"])]
        numbers = zip(part["value"], part["low"], part["high"], strict=True)
        texts = [f"{v:.3f} [{lo:.3f}, {hi:.3f}]" if v == v else "" for v, lo, hi in numbers]
        cells = part.assign(text=texts)
        what = ["part", "class"]  # a class may be called "others"
        order = pd.MultiIndex.from_frame(cells[what].drop_duplicates())
        levels = [level for level in LEVELS if (cells["name"] == level).any()]
        wide = cells.pivot(index=what, columns="name", values="text").loc[order, levels]
        sizes = cells.groupby(what)["n"].max()  # the claim may not speak of all
        return (
            wide.rename(columns=HEADS)
            .assign(n=sizes[order].astype(int))
            .droplevel("part")
            .rename_axis(index="", columns="")
        )

    def _part(self, name: str) -> pd.DataFrame:
        return self.rows[self.rows["part"] == name]

    def _repr_markdown_(self) -> str:
        """One screen: the verdict, the levels, what every attack took, what is odd."""
        lines = [f"**{self._part('verdict')['text'].iloc[0]}**", ""]
        lines += _table(self.table().reset_index(names=""))
        attacks = self._part("attack")
        took = [f"{r.name} {r.count:.0f} of {r.n:.0f}" for r in attacks.itertuples(index=False)]
        lines += [f"\n{text}" for text in self._part("bounds")["text"]]
        lines += ["", f"What fell to each attack, of what it was shown: {', '.join(took)}.", ""]
        signs = self._part("indicator")
        flagged = signs["flagged"].astype(bool)
        lines += [f"- **{r.name}**: {r.text}" for r in signs[flagged].itertuples(index=False)]
        lines.append(f"- not flagged: {', '.join(signs[~flagged]['name']) or 'none'}")
        return "\n".join(lines)


def _table(frame: pd.DataFrame) -> list[str]:
    """As Markdown's lines."""
    rows = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return [f"| {' | '.join(row)} |" for row in rows]


def tidy(
    case: Case,
    found: Findings,
    made: Sequence[Indicator],
    levels: Mapping[str, Level],
    names: Sequence[str],
    totals: Counts,
) -> pd.DataFrame:
    """All rows of an audit."""
    rows = [_verdict(case, found, made, names, levels)]
    for name, level in levels.items():
        rows += _accuracies(name, level, case.own, names, totals)
    for name, level in levels.items():
        rows += _recalls(name, level.margins, case.own)
    rows += [
        {"part": "attack", "name": row["attack"], "class": "", "count": row["fell"]}
        | {"n": row["asked"], "value": row["fell"] / row["asked"] if row["asked"] else 0.0}
        | {"seconds": round(row["seconds"], 3)}
        | {"text": f"{row['sort']}: {row['spec']}{', failed' if row['failed'] else ''}"}
        for row in found.rows
    ]
    rows += [
        {"part": "indicator", "class": each.kind}
        | {name: getattr(each, name) for name in ("name", "value", "threshold", "flagged", "text")}
        for each in made
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _accuracies(
    name: str, level: Level, own: np.ndarray, names: Sequence[str], totals: Counts
) -> list[dict[str, object]]:
    """Of the protected classes, of the others, of all: weighted as the data has them."""
    rows, ends = [], []
    mine, rest = own & level.known, ~own & level.known
    for part, who, kind in (("accuracy", " or ".join(names), mine), ("average", "others", rest)):
        n, count = int(kind.sum()), int((level.right & kind).sum())
        row = {"part": part, "name": name, "class": who, "count": count, "n": n}
        value = count / n if n else np.nan
        low, high = map(float, wilson(count, n)) if n else (np.nan, np.nan)
        rows.append(row | {"value": value, "low": low, "high": high})
        ends.append((value, low, high))
    weights = np.array([totals.own, totals.others]) / (totals.own + totals.others)
    value, low, high = np.array(ends).T
    mean = float(weights @ value)
    below, above = (np.hypot.reduce(weights * gap) for gap in (value - low, high - value))
    row = {"part": "average", "name": name, "class": "all", "n": sum(r["n"] for r in rows)}
    return [*rows, row | {"value": mean, "low": mean - below, "high": mean + above}]


def _recalls(level: str, margins: np.ndarray, own: np.ndarray) -> list[dict[str, object]]:
    frame = protection(margins, own, budgets=[0.01, 0.05])
    shares = frame["false_alarms"].map(lambda s: f"recall at {s:.0%} false alarms")
    what = np.where(frame["measure"] == "area", "area under the curve", shares)
    numbers = frame[["value", "low", "high"]].to_dict("records")
    known = {"part": "recall", "name": level, "n": int(own.sum())}
    return [known | {"class": str(c)} | row for c, row in zip(what, numbers, strict=True)]


def _verdict(
    case: Case,
    found: Findings,
    made: Sequence[Indicator],
    names: Sequence[str],
    levels: Mapping[str, Level],
) -> dict[str, object]:
    """One of four words, by how many points the claim is too high, and why; what is certain."""
    own = case.own
    n, claimed = int(own.sum()), int((case.right & own).sum())
    left = int((found.standing & own).sum())
    gone = (claimed - left) / n
    low, high = map(float, wilson(claimed - left, n))
    held = int((levels["certified"].right & own).sum()) if "certified" in levels else 0
    word = decide(low > POINT, made, proved=held > 0 and claimed - held <= POINT * n)
    who = " or ".join(map(repr, names))
    said = (
        f"{claimed / n:.1%} of {n} images of {who} stand under {case.claim.label}, {left / n:.1%} "
        f"under the worst of {len(found.rows)} attacks"
    )
    points = f"{100 * gone:.1f} points [{100 * low:.1f}, {100 * high:.1f}]"
    signs = ", ".join(each.name for each in made if each.flagged and each.kind in BEHIND[word])
    blind = any(each.flagged and each.kind == "blind" for each in made)
    unseen = (
        "attacks do not see it: what is left may fall"
        if blind
        else "the claim's attack sees little"
    )
    text = {
        "stands": f"Stands: {said}, {points} less.",
        "overstated": f"Overstated by {points}: {said}.",
        "masked": f"Masked: {said}, {points} less; {unseen} ({signs}).",
        "not auditable": f"Not auditable: no accuracy of this network means anything ({signs}).",
    }[word]
    text += _besides(word, made, held / n)
    row = {"part": "verdict", "name": word, "class": " or ".join(names), "value": gone}
    return row | {"low": low, "high": high, "count": claimed - left, "n": n, "text": text}


def _besides(word: str, made: Sequence[Indicator], held: float) -> str:
    """What else is to be known of a verdict; ``held``: share that is certified."""
    flagged = {each.name: each for each in made if each.flagged}
    said = ""
    if any(each.kind == "short" for each in flagged.values()) and word in ("stands", "overstated"):
        said += " More steps still find more: a larger budget would say less."
    if "bounds" in flagged:
        said += f" A contradiction: {flagged['bounds'].text}."
    if held and word != "not auditable":
        said += f" At least {held:.1%} stand whatever the attack."
    return said


BEHIND = {
    "stands": (), "overstated": (), "masked": ("blind", "claim"), "not auditable": ("broken",)
}  # fmt: skip


def decide(overstated: bool, made: Sequence[Indicator], *, proved: bool = False) -> str:
    """The verdict, of whether the claim is too high and of what indicators say.

    A broken network has no accuracy. One whose claim is ``proved`` by bounds stands, whether
    attacks see it or not. One that they do not see is masked, whatever they left; one that only the
    claim's attack does not see, where others took what it claimed. An attack of too few steps
    claims too much and masks nothing.
    """
    flagged = {(each.kind, each.name) for each in made if each.flagged}
    kinds = {kind for kind, _ in flagged}
    if "broken" in kinds:
        return "not auditable"
    if proved:
        return "stands"
    hidden = {("claim", "float32 gradient"), ("claim", "lead")} & flagged
    if "blind" in kinds or (overstated and hidden):
        return "masked"
    return "overstated" if overstated else "stands"
