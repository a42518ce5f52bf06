"""What an audit does, by budget: which attacks, on how many images."""

from dataclasses import dataclass, field
from typing import Literal

Aim = Literal["class", "miss", "loss", "own"]
Sort = Literal["white", "one step", "transfer", "black"]


@dataclass(frozen=True)
class Attack:
    """One attack of an audit.

    ``spec``: of `csnb.ATTACKS` or `AUDITED`. ``aim``: what it climbs - "class": the margin of the
    protected classes, "miss": the lead of the likeliest other class, "loss": cross-entropy by its
    exact gradient, "own": what it was made for. ``hardest``: only the images that are nearest to
    being missed, where the budget says so.
    """

    name: str
    spec: str
    aim: Aim
    sort: Sort
    hardest: bool = False


@dataclass(frozen=True)
class Budget:
    """How much work an audit may do.

    ``images``: at most so many, half of them of the protected classes. ``hardest``: so many images
    for the slowest attacks. ``looks``: images that indicators look at. ``transfer``: the attack on
    the other networks.
    """

    images: int
    hardest: int
    looks: int
    attacks: tuple[Attack, ...]
    transfer: str = field(default="PGD(steps=20, step_size=0)")


def _attacks(*specs: str) -> tuple[Attack, ...]:
    return tuple(
        Attack(name, spec, aim, sort, name in SLOW)
        for (name, aim, sort), spec in zip(KINDS, specs, strict=True)
    )


KINDS: tuple[tuple[str, Aim, Sort], ...] = (
    ("PGD on the class's margin", "class", "white"),
    ("PGD on the margin", "miss", "white"),
    ("PGD on cross-entropy", "loss", "white"),
    ("momentum", "miss", "white"),
    ("APGD-CE", "own", "white"),
    ("APGD-T", "own", "white"),
    ("FAB-T", "own", "white"),
    ("FGSM", "loss", "one step"),
    ("Square", "own", "black"),
    ("SPSA", "own", "black"),
    ("random search", "own", "black"),
)
SLOW = ("APGD-T", "FAB-T", "Square", "SPSA")
BUDGETS = {
    "quick": Budget(
        images=1000,
        hardest=100,
        looks=100,
        attacks=_attacks(
            "PGD(steps=40, step_size=0)",
            "PGD(steps=40, step_size=0)",
            "PGD(steps=20, step_size=0)",
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
        hardest=10**9,
        looks=1000,
        attacks=_attacks(
            "PGD(steps=200, step_size=0, restarts=5)",
            "PGD(steps=200, step_size=0, restarts=10)",
            "PGD(steps=200, step_size=0, restarts=5)",
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
