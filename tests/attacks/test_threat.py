"""What an attacker may be, and what is refused."""

import math

import pytest

from csnb import InputError, ThreatModel


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
def test_impossible_radius_is_refused_in_one_line(eps: float) -> None:
    with pytest.raises(InputError, match=r"^eps: .* is not allowed; allowed: .* - radius of the"):
        ThreatModel(eps)


@pytest.mark.parametrize("eps", [True, "0.3", None, [0.3]])
def test_a_radius_that_is_no_number_is_refused(eps: object) -> None:
    with pytest.raises(InputError, match=r"^eps: .* is not allowed; allowed: .*number - radius"):
        ThreatModel(eps)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("norm", "Linf", "did you mean linf?"),  # it ran L2 once
        ("norm", "inf", "allowed: linf, l2"),
        ("norm", math.inf, "allowed: linf, l2"),
        ("space", "pixels", "did you mean pixel?"),
        ("bounded", 1, "allowed: True or False"),
        ("bounded", "yes", "allowed: True or False"),
    ],
)
def test_another_spelling_is_refused_with_what_is_allowed(
    name: str, value: object, says: str
) -> None:
    with pytest.raises(InputError, match=rf"^{name}: ") as error:
        ThreatModel(0.3, **{name: value})
    assert says in str(error.value) and repr(value) in str(error.value)


def test_the_defaults_are_the_papers() -> None:
    assert ThreatModel(0.3) == ThreatModel(0.3, "linf", "normalized", False)
