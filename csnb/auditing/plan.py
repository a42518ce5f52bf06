"""What an audit does, by budget: which attacks, on how many images."""

from dataclasses import dataclass, field
from typing import Literal

Aim = Literal["class", "miss", "loss", "own"]
Sort = Literal["white", "one step", "transfer", "black"]
Crowd = Literal["all", "near", "nearest"]


@dataclass(frozen=True)
class Attack:
    """One attack of an audit.

    ``spec``: of `csnb.ATTACKS` or `AUDITED`. ``aim``: what it climbs - "class": the margin of the
    protected classes, "miss": the lead of the likeliest other class, "loss": cross-entropy by its
    exact gradient, "own": what it was made for. ``crowd``: which of the images that stand it
    meets - "near" and "nearest": so many as the budget says, those whose true class has led by the
    least and that nothing certifies; of the "class" attack, standing or not, those that are the
    nearest to the class's boundary.
    """

    name: str
    spec: str
    aim: Aim
    sort: Sort
    crowd: Crowd = "all"


@dataclass(frozen=True)
class Budget:
    """How much work an audit may do.

    ``images``: at most so many, half of them of the protected classes. ``near``: so many for the
    attacks after the first, ``nearest``: for the slowest. ``looks``: images that indicators look
    at. ``transfer``: the attack on the other networks.
    """

    images: int
    near: int
    nearest: int
    looks: int
    attacks: tuple[Attack, ...]
    transfer: str = field(default="PGD(steps=20, step_size=0)")


def _attacks(*specs: str) -> tuple[Attack, ...]:
    return tuple(
        Attack(name, spec, aim, sort, crowd)
        for (name, aim, sort, crowd), spec in zip(KINDS, specs, strict=True)
    )


KINDS: tuple[tuple[str, Aim, Sort, Crowd], ...] = (
    ("PGD on the class's margin", "class", "white", "near"),
    ("PGD on the margin", "miss", "white", "all"),
    ("PGD on cross-entropy", "loss", "white", "near"),
    ("momentum", "miss", "white", "near"),
    ("APGD-CE", "own", "white", "near"),
    ("APGD-T", "own", "white", "nearest"),
    ("FAB-T", "own", "white", "nearest"),
    ("FGSM", "loss", "one step", "all"),
    ("Square", "own", "black", "nearest"),
    ("SPSA", "own", "black", "nearest"),
    ("random search", "own", "black", "all"),
)
BUDGETS = {
    "quick": Budget(
        images=1000,
        near=400,
        nearest=100,
        looks=100,
        attacks=_attacks(
            "PGD(steps=40, step_size=0, schedule=cosine)",
            "PGD(steps=40, step_size=0, schedule=cosine)",
            "PGD(steps=20, step_size=0, schedule=cosine)",
            "MIA(steps=20, step_size=0)",
            "APGD(steps=25)",
            "APGDT(steps=20, targets=3)",
            "FAB(steps=10, targets=1)",
            "FGSM",
            "SQUARE(queries=200)",
            "SPSA(steps=5, samples=16)",
            "RANDOM(tries=20)",
        ),
    ),
    "full": Budget(
        images=10**9,
        near=10**9,
        nearest=10**9,
        looks=1000,
        attacks=_attacks(
            "PGD(steps=200, step_size=0, restarts=5, schedule=cosine)",
            "PGD(steps=200, step_size=0, restarts=10, schedule=cosine)",
            "PGD(steps=200, step_size=0, restarts=5, schedule=cosine)",
            "MIA(steps=100, step_size=0)",
            "APGD",
            "APGDT",
            "FAB",
            "FGSM",
            "SQUARE",
            "SPSA",
            "RANDOM",
        ),
        transfer="PGD(steps=100, step_size=0)",
    ),
}
