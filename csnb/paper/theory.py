"""Section III-D in numbers: two linear models with random weights, Theorem 1, inequality 11.

L(x; W) = -log softmax(W x)_y with W (m, d): m classes, d inputs. Model#1 draws a_ij ~ U(0, 1),
Model#2 b_ij ~ B(1, p1). The rows of W are exchangeable, so that no label y is special.
"""

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import exp1, logsumexp, softmax
from scipy.stats import binom, norm

from csnb.errors import InputError
from csnb.statistics import wilson

# The p1 at which p1 (1 - p1) = 1/12: as x -> 0, E dL/dx_i -> (1 - 1/m) Var(w) x_i. Below it small
# enough inputs have Theorem 1, above it they have not; at it the skewness of the weights decides.
SMALL_INPUT_P1 = (1 - np.sqrt(2 / 3)) / 2


def draw_models(
    draws: int, classes: int, inputs: int, p1: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """``draws`` of W_a and W_b, (n, m, d) each, from the same numbers: b_ij is 1 if a_ij > 1 - p1.

    Each model has its own distribution; sharing the numbers makes differences between them less
    noisy. ``p1`` in [0, 1], else InputError.
    """
    if not 0 <= p1 <= 1:
        raise InputError(f"p1: {p1} is not a probability; allowed: 0 to 1")
    a = np.random.default_rng(seed).random((draws, classes, inputs))
    return a, (a > 1 - p1).astype(float)


def losses(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """L(x; W) of weights (n, m, d) at ``x`` (d,) for each label: (n, m)."""
    z = w @ x
    return logsumexp(z, axis=1, keepdims=True) - z


def gradient_terms(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draws (n, d) whose mean is E dL/dx_i, for weights ``w`` (n, m, d) at ``x`` (d,).

    They are sum_k (softmax_k - q_k) w_ki, q being the softmax without input i. It knows nothing of
    w_.i, as the label does not: its sum has the same expectation as w_yi, with less noise. The
    softmax is q tilted by e^(w_ki x_i), so that each draw has the sign of x_i.
    """
    z = (w @ x)[:, :, None]
    return ((softmax(z, axis=1) - softmax(z - w * x, axis=1)) * w).sum(1)


def gradient_bound(
    x: np.ndarray, *, classes: int, p1: float, draws: int, seed: int
) -> pd.DataFrame:
    """Theorem 1 at ``x`` (d,) by Monte Carlo: is |E dL_b/dx_i| <= |E dL_a/dx_i|? A row per input.

    Columns: ``x``, ``a`` and ``b`` (the expected gradients), ``margin`` (the bound's right side
    minus its left) with its interval ``low`` to ``high`` - 95 % for all inputs together
    (Bonferroni) - and ``verdict``: holds, fails or unclear.
    """
    a, b = (gradient_terms(w, x) for w in draw_models(draws, classes, len(x), p1, seed))
    draws_of_margin = np.sign(x) * (a - b)  # both have the sign of x_i
    margin, low, high = _mean_interval(draws_of_margin, tests=len(x))
    verdict = np.select([low >= 0, high < 0], ["holds", "fails"], "unclear")
    measured = {"x": x, "a": a.mean(0), "b": b.mean(0)}
    return pd.DataFrame(measured | {"margin": margin, "low": low, "high": high, "verdict": verdict})


def worst(bound: pd.DataFrame) -> pd.Series:
    """The row of a `gradient_bound` that speaks most against Theorem 1; ``ratio`` is |b| / |a|."""
    ratio = (bound["b"].abs() / bound["a"].abs()).where(
        bound["x"] != 0, 0.0
    )  # 0 / 0 where x_i is 0
    order = bound["verdict"].map({"fails": 0, "unclear": 1, "holds": 2})
    first = pd.DataFrame({"verdict": order, "ratio": -ratio}).sort_values(["verdict", "ratio"])
    return bound.assign(ratio=ratio).loc[first.index[0]]


def inequality_11(
    x: np.ndarray, delta: np.ndarray, *, classes: int, p1: float, draws: int, seed: int
) -> dict[str, float]:
    """Three readings of |L_b(x) - L_b(x + delta)| <= |L_a(x) - L_a(x + delta)|, by Monte Carlo.

    ``broken``: the share of independent draws of W_a and W_b (label 0) for which it is false, as
    printed, with its Wilson interval ``broken_low`` to ``broken_high``. ``expected``: |E change of
    L_a| - |E change of L_b|, and ``size``: E |change of L_a| - E |change of L_b|, each with its
    95 % interval; below 0 it is false.
    """
    models = draw_models(draws, classes, len(x), p1, seed)
    changes = [losses(w, x) - losses(w, x + delta) for w in models]
    a, b = (change[:, 0] for change in changes)
    false = (np.abs(np.roll(b, 1)) > np.abs(a)).sum()  # the neighbour's draw is an independent one
    low, high = map(float, wilson(false, draws))
    result = {"broken": false / draws, "broken_low": low, "broken_high": high}
    means = [np.sign(change.mean()) * change.mean(1) for change in changes]
    sizes = [np.abs(change).mean(1) for change in changes]
    for name, (first, second) in (("expected", means), ("size", sizes)):
        mean, low, high = (float(v[0]) for v in _mean_interval((first - second)[:, None]))
        result |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return result


def one_input_gradients(x: float, classes: int, p1: np.ndarray) -> tuple[float, np.ndarray]:
    """E dL_a/dx, and E dL_b/dx for each ``p1`` (k,), of one input ``x``, without Monte Carlo.

    0 < |x| <= 300. Model#2: k of the m weights are 1 with binomial chance. Model#1: E[w e^(xw) / S]
    with 1/S as the integral of e^(-s S), so that the classes separate; phi = E e^(-s e^(xw)) has a
    closed form. The integral over log s is a sum of 4,000 steps.
    """
    log_s, step = np.linspace(-40 - max(x, 0), 6 - min(x, 0), 4000, retstep=True)
    s = np.exp(log_s)
    phi = (exp1(s) - exp1(s * np.exp(x))) / x
    integrand = phi ** (classes - 1) * (phi - np.exp(-s * np.exp(x))) / x
    return float(classes * step * integrand.sum() - 0.5), _ones_gradient(x, classes, p1)


def _ones_gradient(x: float, classes: int, p1: np.ndarray) -> np.ndarray:
    """E dL_b/dx for one input and each p1 (k,)."""
    ones = np.arange(classes + 1)
    chosen = ones / (ones + (classes - ones) * np.exp(-x))  # softmax mass on the ones
    return binom.pmf(ones, classes, p1[:, None]) @ chosen - p1


def critical_p1(x: float, classes: int) -> float:
    """The least p1 at which Theorem 1 fails for one input, 0 < |x| <= 300; nan: none up to 1/2."""
    p1 = np.geomspace(1e-5, 0.5, 100)
    a, b = one_input_gradients(x, classes, p1)
    false = np.abs(b) > abs(a)
    if not false.any():
        return np.nan
    first = int(false.argmax())

    def excess(p: float) -> float:
        return float(abs(_ones_gradient(x, classes, np.array([p]))[0]) - abs(a))

    return brentq(excess, p1[first - 1] if first else 1e-10, p1[first])


def large_input_p1(classes: int) -> float:
    """Where `critical_p1` goes as x -> infinity; m times it goes to ln 2 as ``classes`` m grow.

    The softmax gives the largest weight: (m - 1) / (2 (m + 1)) above the mean in Model#1, and
    1 - (1 - p1)^m - p1 in Model#2.
    """

    def excess(p1: float) -> float:
        return 1 - (1 - p1) ** classes - p1 - (classes - 1) / (2 * (classes + 1))

    return brentq(excess, 0, 1 - classes ** (-1 / (classes - 1)))  # up to Model#2's largest


def proven_p1(x: np.ndarray) -> float:
    """A p1 up to which Theorem 1 is true at ``x`` (d,), for any number of classes.

    With B the sum of the |x_j|, no two logits are further apart than B, and every softmax lies in
    [e^-B, e^B] / m. E dL/dx_i is the integral from 0 to x_i of E Var(w_.i), a variance under the
    softmax, which lies in [e^-2B, e^2B] (1 - 1/m) Var(w): p1 (1 - p1) <= e^-4B / 12 is enough. It
    is far from necessary: where B is large, the theorem stays true up to a much larger p1.
    """
    variance = np.exp(-4 * np.abs(x).sum()) / 12
    return float(2 * variance / (1 + np.sqrt(1 - 4 * variance)))


def example_inputs(inputs: int, seed: int) -> dict[str, np.ndarray]:
    """Vectors x (d,) of many kinds, by name."""
    rng = np.random.default_rng(seed)
    positive, normal = rng.random(inputs), rng.standard_normal(inputs)
    dominated = np.full(inputs, 0.1)
    dominated[0] = 100.0
    return {
        "zero": np.zeros(inputs),
        "small": 0.01 * normal,
        "in [0, 1]": positive,
        "in [-1, 0]": -positive,
        "mixed signs": normal,
        "large, positive": 100 * positive,
        "large, mixed": 100 * normal,
        "0.1 beside 100": dominated,
    }


def _mean_interval(values: np.ndarray, tests: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the draws (n, d), low and high of its normal 95 % interval for ``tests`` together."""
    mean = values.mean(0)
    half = norm.ppf(1 - 0.025 / tests) * values.std(0, ddof=1) / np.sqrt(len(values))
    return mean, mean - half, mean + half
