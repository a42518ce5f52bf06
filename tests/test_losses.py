import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import examples
from scipy.special import entr, expit
from torch import Tensor

from csnb.losses import (
    cross_entropy_sum,
    example_loss,
    expected_cost,
    fuzziness,
    l1_minus_l2,
    l2_norm,
    log_objective,
    log_odds,
    minmax_fuzziness,
)

LOGITS = torch.tensor(
    [[1.0, 2, 5], [4, 4, 2]], dtype=torch.float64
).log()  # softmax: 1/8, 2/8, 5/8 and .4, .4, .2
LABELS = torch.tensor([2, 0])
COSTS = torch.tensor(
    [[0.0, 2, 5], [3, 0, 7], [1, 4, 0]], dtype=torch.float64
)  # row predicted, column true
LN2, LN3 = math.log(2), math.log(3)
FINITE = st.floats(-30, 30, allow_nan=False)


def tensor(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def test_the_expected_cost_weighs_the_column_of_the_true_class() -> None:
    # true class 2: 5/8 of nothing, 1/8 of C[0, 2] = 5, 2/8 of C[1, 2] = 7
    # true class 0: .4 of C[1, 0] = 3, .2 of C[2, 0] = 1
    torch.testing.assert_close(expected_cost(LOGITS, LABELS, COSTS), tensor(19 / 8, 1.4))


def test_eq_4_by_hand() -> None:
    cross_entropies, costs = (-math.log(5 / 8), -math.log(0.4)), (19 / 8, 1.4)
    total = sum(cross_entropies) + sum(costs)
    assert example_loss(LOGITS, LABELS, COSTS).item() == pytest.approx(total / 2, rel=1e-12)


def test_without_costs_eq_4_is_the_cross_entropy() -> None:
    total = -math.log(5 / 8) - math.log(0.4)
    assert example_loss(LOGITS, LABELS, None).item() == pytest.approx(total / 2, rel=1e-12)


def test_the_papers_attacks_climb_the_sum_of_the_cross_entropies() -> None:
    total = -math.log(5 / 8) - math.log(0.4)
    assert cross_entropy_sum(LOGITS, LABELS).item() == pytest.approx(total, rel=1e-12)


def test_with_all_costs_one_the_chance_of_being_wrong_remains() -> None:
    ones = 1 - torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(expected_cost(LOGITS, LABELS, ones), tensor(1 - 5 / 8, 1 - 0.4))


def test_the_expected_cost_of_a_certain_prediction_is_that_mistakes_cost() -> None:
    logits = torch.tensor([[0.0, 0, 1e4], [1e4, 0, 0]])
    torch.testing.assert_close(
        expected_cost(logits, torch.tensor([1, 0]), COSTS.float()), torch.tensor([4.0, 0.0])
    )


def test_fuzziness_is_largest_at_no_weight_and_vanishes_at_large_ones() -> None:
    assert fuzziness([tensor(0.0)]).item() == pytest.approx(LN2, rel=1e-12)
    assert fuzziness([tensor(40.0, -40.0)]).item() == pytest.approx(0, abs=1e-15)


def test_minmax_fuzziness_vanishes_at_no_weight_and_at_large_ones() -> None:
    assert minmax_fuzziness([tensor(0.0)]).item() == pytest.approx(0, abs=1e-15)
    assert minmax_fuzziness([tensor(40.0, -40.0)]).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("regulariser", "weight", "rho"),
    [
        (fuzziness, LN3, 1 / 4),  # 1 / (1 + 3)
        (fuzziness, math.log(9), 1 / 10),
        (minmax_fuzziness, LN3, 1 / 2),  # 2 / (1 + 3)
        (minmax_fuzziness, math.log(9), 1 / 5),
    ],
)
def test_fuzziness_in_closed_form(
    regulariser: Callable[[list[Tensor]], Tensor], weight: float, rho: float, sign: int
) -> None:
    expected = -(rho * math.log(rho) + (1 - rho) * math.log(1 - rho))
    assert regulariser([tensor(sign * weight)]).item() == pytest.approx(expected, rel=1e-12)


def test_minmax_fuzziness_is_largest_where_rho_is_half() -> None:
    weights = torch.linspace(-8, 8, 401, dtype=torch.float64)
    values = [minmax_fuzziness([w.view(1)]).item() for w in weights]
    assert max(values) <= LN2 + 1e-12
    assert abs(weights[int(np.argmax(values))]).item() == pytest.approx(
        LN3, abs=0.03
    )  # the grid's step is 0.04


@examples(60)
@given(st.lists(FINITE, min_size=1, max_size=6))
def test_both_fuzzinesses_are_mean_binary_entropies(values: list[float]) -> None:
    weights, w = [tensor(*values)], np.abs(values)
    for regulariser, rho in ((fuzziness, expit(-w)), (minmax_fuzziness, 2 * expit(-w))):
        expected = (entr(rho) + entr(1 - rho)).mean()
        assert regulariser(weights).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("regulariser", [fuzziness, minmax_fuzziness])
def test_fuzziness_averages_over_all_elements_and_not_over_layers(
    regulariser: Callable[[list[Tensor]], Tensor],
) -> None:
    layers = [torch.full((2, 1, 3), 0.5), torch.full((1, 2), -LN3)]
    a, b = (regulariser([layer]).item() for layer in layers)
    assert regulariser(layers).item() == pytest.approx((6 * a + 2 * b) / 8, rel=1e-6)
    assert a != pytest.approx(b, rel=0.01)


def descend(regulariser: Callable[[list[Tensor]], Tensor], *values: float) -> tuple[Tensor, Tensor]:
    """The weights before and after one small step of gradient descent."""
    weights = tensor(*values).requires_grad_()
    regulariser([weights]).backward()
    return weights.detach(), weights.detach() - 0.1 * weights.grad


def test_minimising_fuzziness_as_printed_pushes_every_weight_up() -> None:
    before, after = descend(fuzziness, -3, -1, -0.1, 0.1, 1, 3)
    assert (after.abs() > before.abs()).all()


def test_minimising_minmax_fuzziness_pulls_small_weights_to_zero_and_pushes_large_ones_up() -> None:
    before, after = descend(minmax_fuzziness, -3, -1.2, 1.2, 3)
    assert (after.abs() > before.abs()).all()
    before, after = descend(minmax_fuzziness, -1, -0.1, 0.1, 1)
    assert (after.abs() < before.abs()).all()


@pytest.mark.parametrize("regulariser", [fuzziness, minmax_fuzziness])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fuzziness_and_its_gradient_are_finite_from_no_weight_to_100(
    regulariser: Callable[[list[Tensor]], Tensor], dtype: torch.dtype
) -> None:
    values = [0.0, -0.0, 1e-45, 1e-30, 1e-8, 1e-3, 1, 10, 50, 100]
    weights = tensor(*values, *(-v for v in values), dtype=dtype).requires_grad_()
    value = regulariser([weights])
    value.backward()
    assert 0 <= value.item() <= LN2
    assert weights.grad.isfinite().all()
    assert (weights.grad[[0, 1]] == 0).all()


def test_l1_minus_l2_is_summed_per_layer() -> None:
    # 3 + 4 - 5 = 2 and 2 + 3 + 6 - 7 = 4; over both at once it would be 18 - sqrt(74)
    assert l1_minus_l2([tensor(3.0, -4.0)]).item() == pytest.approx(2, rel=1e-12)
    assert l1_minus_l2(
        [tensor(3.0, -4.0), tensor(2.0, -3.0, 6.0).view(3, 1)]
    ).item() == pytest.approx(6, rel=1e-12)


def test_l1_minus_l2_of_one_weight_is_zero() -> None:
    assert l1_minus_l2([tensor(0.0, -7.0, 0.0)]).item() == pytest.approx(0, abs=1e-12)


def test_the_l2_norm_is_that_of_all_parameters_together() -> None:
    assert l2_norm([tensor(2.0, -3.0).view(2, 1), tensor(6.0)]).item() == pytest.approx(
        7, rel=1e-12
    )  # sqrt(4 + 9 + 36)
    assert l2_norm(iter([tensor(3.0), tensor(-4.0)])).item() == pytest.approx(5, rel=1e-12)


@pytest.mark.parametrize("norm", [l1_minus_l2, l2_norm])
def test_a_layer_of_zeros_leaves_the_gradient_of_a_norm_finite(
    norm: Callable[[list[Tensor]], Tensor],
) -> None:
    weights = [tensor(0.0, 0.0).requires_grad_(), tensor(1.0, 2.0).requires_grad_()]
    norm(weights).backward()
    assert all(w.grad.isfinite().all() for w in weights)


@pytest.mark.parametrize("regulariser", [fuzziness, minmax_fuzziness, l1_minus_l2, l2_norm])
def test_gradients_of_the_regularisers(regulariser: Callable[[list[Tensor]], Tensor]) -> None:
    layers = [
        tensor(0.3, -0.9, 2.5, -4.0).view(2, 2).requires_grad_(),
        tensor(1.4, -0.2).requires_grad_(),
    ]
    assert torch.autograd.gradcheck(lambda *weights: regulariser(list(weights)), layers)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: expected_cost(z, LABELS, COSTS),
        lambda z: example_loss(z, LABELS, COSTS),
        lambda z: log_odds(z, LABELS),
        lambda z: log_objective(z, LABELS, COSTS),
    ],
)
def test_gradients_of_eq_4(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, (LOGITS.clone().requires_grad_(),))


def test_log_odds_and_the_logarithm_of_eq_4_by_hand() -> None:
    # the true classes' probabilities are 5/8 and .4
    torch.testing.assert_close(log_odds(LOGITS, LABELS).exp(), tensor(3 / 5, 1.5))
    expected = tensor(-math.log(5 / 8) + 19 / 8, -math.log(0.4) + 1.4)
    torch.testing.assert_close(log_objective(LOGITS, LABELS, COSTS).exp(), expected)


@examples(80)
@given(
    lead=st.floats(-60, 700),
    others=st.lists(st.floats(-5, 5), min_size=2, max_size=5),
    cost=st.sampled_from([0.0, 1.0, 10.0]),
)
def test_what_attacks_climb_has_eq_4s_direction_in_float32_where_that_itself_has_none(
    lead: float, others: list[float], cost: float
) -> None:
    """Against Eq. 4 in 700 bits: its gradient from softmax, divided by its largest part."""
    m = len(others) + 1
    costs = cost * (1 - torch.eye(m)) + torch.arange(m)[:, None] * (1 - torch.eye(m))
    z = torch.tensor([[max(others) + lead, *others]])
    with mpmath.workprec(2000):
        e = [mpmath.exp(mpmath.mpf(float(v))) for v in z[0]]
        p = [v / mpmath.fsum(e) for v in e]
        mean = mpmath.fsum(q * float(c) for q, c in zip(p, costs[:, 0], strict=True))
        for climb, weights in ((log_odds, None), (log_objective, costs[:, 0].tolist())):
            own = [1 + float(c) - mean for c in weights] if weights else [1] * m
            exact = [q * w for q, w in zip(p, own, strict=True)]
            exact[0] -= 1  # cross-entropy's p - onehot, and the expected cost's p (c - mean)
            top = max(map(abs, exact))
            expected = torch.tensor([[float(v / top) for v in exact]])
            logits = z.clone().requires_grad_()
            arguments = (torch.tensor([0]), costs)[: 2 if weights else 1]
            (slope,) = torch.autograd.grad(climb(logits, *arguments).sum(), logits)
            found = slope / slope.abs().max()
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-4)
