"""The robust ROC of a class: worst margins, curves, intervals."""

import numpy as np
import pytest
import torch
from making import images, lenet, linear
from scipy.special import ndtr
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from csnb import InputError, ThreatModel, perturb
from csnb.costs import protect
from csnb.margins import (
    choose_offset,
    class_margin,
    protection,
    protection_curve,
    worst_margins,
)
from csnb.models import Normalized

THREAT = ThreatModel(0.1, space="pixel")


def drawn(n: int = 60, others: int = 140, gap: float = 1.0, seed: int = 0) -> tuple:
    """Normal margins of images of the class and of others, some equal."""
    rng = np.random.default_rng(seed)
    own = np.arange(n + others) < n
    return rng.normal(np.where(own, gap, 0), 1).round(1), own


# --- margins


def test_the_margin_is_the_best_protected_logit_less_the_best_other() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0, 4.0], [3.0, -1.0, 0.0, 2.0]])
    assert class_margin(logits, [1]).tolist() == [1, -4]
    assert class_margin(logits, [0, 2]).tolist() == [-3, 1]


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_on_a_linear_model_of_two_classes_the_worst_margin_is_the_closed_form(kind: str) -> None:
    torch.manual_seed(0)
    weights, bias, x = torch.randn(2, 4), torch.randn(2), torch.rand(40, 1, 2, 2)
    model, y = linear(weights, bias), torch.arange(40) % 2
    slope = weights[1] - weights[0]
    clean = x.flatten(1) @ slope + bias[1] - bias[0]
    reach = 0.1 * float(slope.abs().sum() if kind == "linf" else slope.norm())
    expected = clean + torch.where(y == 1, -reach, reach)
    attack = "PGD(steps=300, step_size=0.002)"
    found = worst_margins(model, x, y, [1], ThreatModel(0.1, kind, "pixel"), attack=attack)
    np.testing.assert_allclose(found, expected, atol=2e-4 if kind == "linf" else 2e-3)


def test_on_a_linear_model_of_many_classes_that_of_the_class_is_its_nearest_rival() -> None:
    torch.manual_seed(1)
    weights, bias, x = torch.randn(5, 4), torch.randn(5), torch.rand(30, 1, 2, 2)
    y = torch.full((30,), 2)
    margins = []
    for rival in (0, 1, 3, 4):
        slope = weights[2] - weights[rival]
        margins.append(x.flatten(1) @ slope + bias[2] - bias[rival] - 0.1 * slope.abs().sum())
    found = worst_margins(linear(weights, bias), x, y, [2], THREAT)
    exact = torch.stack(margins).amin(0).numpy()
    assert (found >= exact - 1e-4).all()  # no attack gets below
    np.testing.assert_allclose(np.median(found - exact), 0, atol=1e-4)


@pytest.fixture(scope="module")
def network() -> tuple[Normalized, Tensor, Tensor]:
    """A network whose answers depend on the image."""
    torch.manual_seed(3)
    model, (x, _) = lenet().eval(), images(160)
    for weights in model.parameters():
        weights.data *= 2.5
    return model, x, model(x).argmax(1)


def test_no_direct_attack_on_a_shifted_network_finds_more_than_the_curve_says(network) -> None:
    model, x, y = network
    p, threat = int(y.mode().values), ThreatModel(0.03)
    margins = worst_margins(model, x, y, [p], threat)
    own = (y == p).numpy()
    fooled = 0
    for offset in (-0.4, -0.1, 0.0, 0.1, 0.4):
        model.body.fc3.bias.data[p] += offset
        found = perturb(model, x, y, "PGD(steps=40, step_size=0, restarts=2)", threat, seed=1)
        called = (model(found).argmax(1) == p).numpy()
        model.body.fc3.bias.data[p] -= offset
        curve = margins + offset > 0
        lost, alarms = ~called & own, called & ~own
        fooled += int((lost | alarms).sum())
        # an image that falls stands on the curve's wrong side, but for an image in a hundred
        assert int((lost & curve).sum() + (alarms & ~curve).sum()) <= 1
    assert fooled > 20


def test_the_best_of_all_iterates_counts_the_clean_image_among_them(network) -> None:
    model, x, y = network
    sign = torch.where(y == 1, -1.0, 1.0).numpy()
    clean = class_margin(model(x), [1]).detach().numpy()
    settings = {"protected": [1], "threat": ThreatModel(0.03)}
    none = worst_margins(model, x, y, **settings | {"threat": ThreatModel(0.0)})
    np.testing.assert_allclose(none, clean, atol=1e-6)
    wild = worst_margins(model, x, y, **settings, attack="PGD(steps=5, step_size=10)")
    assert (sign * wild >= sign * clean - 1e-6).all()
    few, more = (
        sign * worst_margins(model, x, y, **settings, attack=f"PGD(steps=3, restarts={n})")
        for n in (1, 4)
    )
    assert (more >= few - 1e-6).all() and (more > few).any()


def test_the_same_seed_gives_the_same_margins_and_leaves_model_and_generator_alone(network) -> None:
    model, x, y = network
    state = torch.get_rng_state()
    first, again = (worst_margins(model, x[:9], y[:9], [0], THREAT, seed=4) for _ in range(2))
    assert np.array_equal(first, again) and torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in model.parameters())


# --- the curve


def test_logits_that_are_not_finite_have_no_margin(network) -> None:
    model, x, y = network

    class Broken(torch.nn.Module):
        value = torch.nan

        def forward(self, pixels: Tensor) -> Tensor:
            logits = model(pixels)
            return logits.where(torch.arange(len(logits))[:, None] > 0, self.value)

    broken = Broken()
    for broken.value in (torch.nan, torch.inf):
        with pytest.raises(InputError, match=r"^model: gives logits that are not finite; allowed"):
            worst_margins(broken, x, y, [1], ThreatModel(0.0), attack="FGSM")


def test_the_curve_is_scikit_learns() -> None:
    margins, own = drawn()
    curve = protection_curve(margins, own)
    alarms, recall, _ = roc_curve(own, margins, drop_intermediate=False)
    np.testing.assert_allclose(curve["false_alarms"], alarms, atol=1e-12)
    np.testing.assert_allclose(curve["recall"], recall, atol=1e-12)


def test_the_curve_by_hand_with_equal_margins_together() -> None:
    margins, own = [3.0, 2.0, 2.0, -1.0], np.array([True, True, False, False])
    curve = protection_curve(margins, own)
    assert curve["recall"].tolist() == [0, 0.5, 1, 1]
    assert curve["false_alarms"].tolist() == [0, 0, 0.5, 1]
    assert curve["offset"].tolist() == [-3, -2, 1, np.inf]  # above -b: none, 3, 2 and 2, all


def test_an_offset_of_the_curve_gives_its_rates() -> None:
    margins, own = drawn()
    for row in protection_curve(margins, own).itertuples():
        called = margins + row.offset > 0
        assert np.mean(called[own]) == pytest.approx(row.recall)
        assert np.mean(called[~own]) == pytest.approx(row.false_alarms)


def test_recall_at_a_budget_and_area_against_others() -> None:
    margins, own = drawn()
    found = protection(margins, own, budgets=(0.01, 0.05, 0.2)).set_index("measure")
    for row in found.loc["recall"].itertuples():
        best = 0.0
        for threshold in np.unique(margins):
            if np.mean(margins[~own] > threshold) <= row.false_alarms:
                best = max(best, np.mean(margins[own] > threshold))
        assert row.value == pytest.approx(best, abs=1e-12)
    assert found.loc["area", "value"] == pytest.approx(roc_auc_score(own, margins), rel=1e-12)
    assert found[["n", "others", "trainings"]].iloc[0].tolist() == [60, 140, 1]
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()


def test_the_mean_over_trainings_counts() -> None:
    each = [drawn(seed=seed)[0] for seed in range(3)]
    own = drawn()[1]
    values = [protection(margins, own)["value"] for margins in each]
    np.testing.assert_allclose(protection(each, own)["value"], np.mean(values, axis=0))


def test_a_method_against_itself_gains_nothing_and_against_a_worse_one_something() -> None:
    margins, own = drawn()
    same = protection(margins, own, against=margins)
    assert (same[["value", "low", "high"]] == 0).all(axis=None)
    better = protection(margins + 1.0 * own, own, against=margins)
    assert (better["low"] > 0).all()
    shift = protection(margins + 3.0, own, against=margins)  # an offset moves along the curve
    assert (shift[["value", "low", "high"]].abs() < 1e-12).all(axis=None)


@pytest.mark.parametrize("gap", [1.0, 3.0])
def test_intervals_cover_what_infinitely_many_images_would_give(gap: float) -> None:
    budget, cases, held = 0.05, 80, {"recall": 0, "area": 0}
    true = {"recall": ndtr(gap - norm.ppf(1 - budget)), "area": ndtr(gap / np.sqrt(2))}
    rng = np.random.default_rng(5)
    for _ in range(cases):
        own = np.arange(400) < 100
        found = protection(rng.normal(np.where(own, gap, 0), 1), own, budgets=[budget])
        for row in found.itertuples():
            held[row.measure] += row.low <= true[row.measure] <= row.high
    assert min(held.values()) >= 0.9 * cases, held


def test_intervals_cover_what_infinitely_many_images_and_trainings_would_give() -> None:
    budget, cases, held = 0.05, 60, {"recall": 0, "area": 0}
    rng, own = np.random.default_rng(3), np.arange(300) < 100
    gaps = 2 + rng.normal(0, 0.4, 100_000)  # what one training gives or another
    gain = np.mean(ndtr(gaps - norm.ppf(1 - budget))) - ndtr(2 - norm.ppf(1 - budget))
    true = {"recall": gain, "area": np.mean(ndtr(gaps / np.sqrt(2))) - ndtr(np.sqrt(2))}
    for _ in range(cases):
        hard = rng.normal(0, 0.8, 300)  # the images, for every training
        each = hard + rng.normal(0, 0.6, (2, 3, 300)) + 2 * own
        each[0] += rng.normal(0, 0.4, (3, 1)) * own
        for row in protection(each[0], own, against=each[1], budgets=[budget]).itertuples():
            held[row.measure] += row.low <= true[row.measure] <= row.high
    assert min(held.values()) >= 0.9 * cases, held


@pytest.mark.parametrize("n", [5, 10, 50])
def test_the_interval_of_a_gain_covers_of_few_images(n: int) -> None:
    """A bootstrap alone gives none where all images agree: of ten images it covers 0.76."""
    rng, budget, cases, held = np.random.default_rng(1), 0.05, 100, 0
    own, true = np.arange(n + 400) < n, ndtr(2.3 - norm.ppf(0.95)) - ndtr(2 - norm.ppf(0.95))
    for _ in range(cases):
        hard = rng.normal(0, 0.8, n + 400)
        first, second = hard + rng.normal(0, 0.6, (2, n + 400)) + np.array([[2.3], [2]]) * own
        row = protection(first, own, against=second, budgets=[budget]).iloc[0]
        held += row["low"] <= true <= row["high"]
    assert held >= 0.9 * cases, held
    alone = protection([1.0, 0, -1], [True, False, False], against=[-1.0, 0, -2], budgets=[0.1])
    assert alone["value"][0] == 1 and alone["low"][0] < 0  # one image shows nothing


def test_a_higher_level_is_a_wider_interval() -> None:
    margins, own = drawn()
    wide, narrow = (protection(margins, own, level=level) for level in (0.999, 0.5))
    assert (wide["low"] < narrow["low"]).all() and (narrow["high"] < wide["high"]).all()
    with pytest.raises(InputError, match=r"^level: 95 is not allowed; allowed: a share"):
        protection(margins, own, level=95)


@pytest.mark.parametrize(
    ("margins", "own", "says"),
    [
        ([1.0, np.nan], [True, False], "margins: hold values that are not finite"),
        ([1.0, 2.0], [True, True], "own: 2 of 2 images; allowed: some of either kind"),
        ([1.0, 2.0], [False, False], "own: 0 of 2 images"),
        ([1.0, 2.0], [1, 0], r"margins: shaped \(1, 2\) with own int64"),
        ([1.0, 2.0, 3.0], [True, False], r"margins: shaped \(1, 3\) with own bool"),
    ],
)
def test_what_has_no_curve_is_refused_in_one_line(margins: list, own: list, says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}"):
        protection(margins, np.array(own))


def test_budgets_and_pairs_that_do_not_fit_are_refused() -> None:
    margins, own = drawn()
    with pytest.raises(
        InputError, match=r"^budgets: \[0\] is not allowed; allowed: a share between"
    ):
        protection(margins, own, budgets=[0])
    with pytest.raises(InputError, match=r"^against: margins shaped \(2, 200\); allowed: \(1, 200"):
        protection(margins, own, against=[margins, margins])


# --- the operating point


MARGINS = [4.0, 3.0, 3.0, 1.0, -1.0, -2.0, -2.0, -5.0]
LABELS = [1, 1, 0, 0, 1, 2, 1, 2]  # 4 of class 1, 4 others


@pytest.mark.parametrize(
    ("budget", "offset"),
    [
        (0.1, -3.5),  # one of the others stands at 3, as does one of the class
        (0.25, -2.0),  # 1 of 4: all at 3
        (0.5, 1.5),  # 2 of 4, down to -1: the offset is as large as it may be
        (0.75, 3.5),
        (0.99, 3.5),
    ],
)
def test_a_budget_is_used_and_kept(budget: float, offset: float) -> None:
    found = choose_offset(MARGINS, LABELS, [1], costs=protect(3, 1), budget=budget)
    assert found == offset
    alarms = np.mean(np.array(MARGINS)[np.array(LABELS) != 1] + found > 0)
    assert alarms <= budget


def test_where_not_one_false_alarm_is_allowed_none_is_made() -> None:
    settings = {"protected": [1], "costs": protect(2, 1), "budget": 0.001}
    assert choose_offset([2.0, 1.0, -1.0], [0, 1, 1], **settings) == -3.0  # 1 beyond the first
    assert choose_offset([2.0, 3.0, -1.0], [1, 1, 0], **settings) == -0.5


@pytest.mark.parametrize(("miss", "alarm"), [(10, 10), (10, 1), (1, 10), (3, 2), (0, 5), (5, 0)])
def test_the_cheapest_offset_costs_least_of_all(miss: float, alarm: float) -> None:
    costs = protect(3, 1, miss, alarm)
    margins, labels = np.array(MARGINS), np.array(LABELS)

    def paid(b: float) -> float:
        called = margins + b > 0
        return miss * np.sum(~called & (labels == 1)) + alarm * np.sum(called & (labels != 1))

    found = choose_offset(MARGINS, LABELS, [1], costs=costs)
    assert paid(found) == min(paid(b) for b in np.arange(-6, 7, 0.25))


def test_the_dearest_mistake_of_each_class_counts() -> None:
    costs = np.array([[0, 1.0, 1], [2, 0, 9], [1, 6, 0]])  # predicted by true
    margins, labels = [3.0, 2.0, 1.0], [2, 1, 0]
    # called down to 3: 9 + 6; to 2: 9; to 1: 9 + 2; none: 6
    assert choose_offset(margins, labels, [1], costs=costs) == -4.0
