"""What an attacker may be, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

from csnb import InputError, ThreatModel
from csnb.attacks import Loss, Target
from csnb.images import batch_of


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


def target(objective: Loss | None) -> Target:
    box = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    return Target(lambda x: x, box, False, 0.3, math.inf, objective, False)


def test_what_an_attack_of_ones_own_climbs_is_the_sum_of_the_log_odds_of_being_wrong() -> None:
    # the true classes' probabilities are 5/8 and 2/5
    logits = torch.tensor([[1.0, 2, 5], [4, 4, 2]], dtype=torch.float64).log()
    labels = torch.tensor([2, 0])
    expected = math.log(3 / 5) + math.log(3 / 2)
    assert target(None).loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)


def test_an_objective_is_climbed_instead_of_cross_entropy_whatever_its_gradient() -> None:
    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[0, labels[0]]

    logits, labels = torch.tensor([[7.0, 2.0]]), torch.tensor([1])
    assert target(objective).loss(logits, labels) == 2
    assert target(objective).climb("float32")(logits, labels) == 2


def test_a_step_of_0_follows_eps_and_any_other_is_as_given() -> None:
    assert target(None).step(0, 10) == pytest.approx(2.5 * 0.3 / 10)
    assert target(None).step(0.02, 10) == 0.02


@pytest.mark.parametrize(
    ("shape", "on_cpus", "elsewhere"),
    [
        ((1, 28, 28), 256, 256), ((3, 32, 32), 256, 256), ((3, 64, 64), 64, 256),
        ((3, 224, 224), 5, 27), ((3, 4096, 4096), 1, 1),
    ],
)  # fmt: skip
def test_large_images_come_in_smaller_batches(
    shape: tuple[int, ...], on_cpus: int, elsewhere: int
) -> None:
    """Of those of the paper 256, as ever; of larger ones as many numbers, on a GPU 2^22."""
    assert batch_of(torch.empty(0, *shape)) == on_cpus
    assert batch_of(torch.empty(5, *shape, device="meta")) == elsewhere
