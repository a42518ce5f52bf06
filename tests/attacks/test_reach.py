"""An attack whose steps cannot reach the radius is warned of: once, wherever it is used."""

import warnings
from pathlib import Path

import pytest
from making import QUICK, images, lenet

from csnb import ATTACKS, Experiment, Run, ThreatModel, evaluate, perturb
from csnb.attacks import warn_short

FILE = """
import csnb

@csnb.attack
def slow(target, x, y, *, steps: int = 1, step_size: float = 1e-9):
    return x
"""


def warned(spec: str, threat: ThreatModel) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_short(ATTACKS.parse_list(spec), threat)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("spec", "eps", "norm"),
    [
        ("FGSM, PGD, CW, MIA, L2BIA, LinfBIA", 0.3, "linf"),  # the papers'
        ("PGD", 0.4, "linf"),  # 40 x 0.01
        ("LinfBIA(steps=3, step_size=0.1)", 0.3, "linf"),  # 0.30000000000000004
        ("PGD(steps=7, step_size=0.1)", 0.7000000000000001, "l2"),
        ("PGD(steps=1, step_size=0)", 100, "l2"),  # follows eps
        ("FGSM, CW(steps=1, step_size=1e-9)", 100, "l2"),  # no steps, no ball
        ("PGD(steps=40, step_size=0.02, schedule=cosine)", 0.4, "linf"),  # half of 40 x 0.02
    ],
)
def test_what_reaches_the_radius_or_knows_none_is_not_warned_of(
    spec: str, eps: float, norm: str
) -> None:
    assert warned(spec, ThreatModel(eps, norm)) == []


@pytest.mark.parametrize("name", ["PGD", "MIA", "L2BIA", "LinfBIA"])
def test_steps_that_stay_within_the_ball_are_warned_of_in_one_line(name: str) -> None:
    spec = f"{name}(steps=4, step_size=0.02)"
    line = f"{spec}: 4 steps of 0.02 cannot reach eps 3; step_size=0 follows eps"
    assert warned(f"FGSM, {spec}", ThreatModel(3, "l2")) == [line]


def test_falling_steps_reach_half_as_far() -> None:
    (line,) = warned("PGD(steps=40, step_size=0.01, schedule=cosine)", ThreatModel(0.3))
    assert line.endswith("40 steps of 0.01 cannot reach eps 0.3; step_size=0 follows eps")


def test_the_default_steps_are_too_short_for_a_radius_of_3() -> None:
    found = warned("PGD, LinfBIA(step_size=0)", ThreatModel(3.0, "l2"))
    assert found == ["PGD: 40 steps of 0.01 cannot reach eps 3; step_size=0 follows eps"]


def test_of_an_attack_of_ones_own_nobody_knows_what_its_steps_mean(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    assert warned(f"{tmp_path}/mine.py:slow", ThreatModel(3)) == []


def test_an_evaluation_warns_once_and_not_for_each_batch() -> None:
    x, y = images(600)
    with pytest.warns(UserWarning, match="cannot reach eps") as caught:
        attacks = "FGSM, LinfBIA(steps=1, step_size=0.01)"
        evaluate(lenet(), x, y, attacks=attacks, threat=ThreatModel(0.3))
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perturb(lenet(), x[:2], y[:2], "LinfBIA(steps=1, step_size=0.01)", ThreatModel(0.3))


def test_a_run_warns_when_it_is_made(data: str, tmp_path: Path) -> None:
    short = "PGD(steps=2, step_size=0.01)"
    given = QUICK | {"dataset": data, "runs": str(tmp_path), "attacks": "FGSM"}
    for name in ("attacks", "adversary", "monitor"):
        with pytest.warns(UserWarning, match=r"^PGD\(steps=2.*cannot reach eps 0\.3") as caught:
            Run(Experiment(**given | {name: short}))
        assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run(Experiment(**given))
