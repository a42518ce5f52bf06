"""Certified margins, accuracies and costs: below what any attack finds, and kept with the run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from making import QUICK, images, lenet, linear, stripes

import csnb
from csnb import Experiment, InputError, ThreatModel, certified_margins, read_margins, read_run
from csnb.certified import _outward, certified_pairs, certified_score
from csnb.curves import read_certified, verdict
from csnb.margins import protection, worst_margins

WEAK = "PGD(steps=3, step_size=0)"


@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_on_a_linear_network_of_two_classes_margins_are_the_closed_form(kind: str) -> None:
    torch.manual_seed(0)
    weights, bias, x = torch.randn(2, 4), torch.randn(2), torch.rand(30, 1, 2, 2)
    y, slope = torch.arange(30) % 2, weights[1] - weights[0]
    clean = x.flatten(1) @ slope + bias[1] - bias[0]
    reach = 0.1 * float(slope.abs().sum() if kind == "linf" else slope.norm())
    exact = (clean + torch.where(y == 1, -reach, reach)).numpy()
    found = certified_margins(linear(weights, bias), x, y, [1], ThreatModel(0.1, kind, "pixel"))
    np.testing.assert_allclose(found, exact, atol=2e-5)
    assert (np.where(y == 1, found <= exact + 1e-7, found >= exact - 1e-7)).all()
    assert found.dtype == np.float32


@pytest.mark.parametrize("protected", [[1], [0, 3], [3, 0, 2]])
@pytest.mark.parametrize("threat", [ThreatModel(0.05), ThreatModel(0.3, "l2", "pixel", True)])
def test_no_attack_crosses_a_certified_margin(protected: list[int], threat: ThreatModel) -> None:
    model, (x, y) = lenet().eval(), images(24)
    own = np.isin(y, protected)
    bound = certified_margins(model, x, y, protected, threat)
    for attack in ("PGD(steps=20, step_size=0)", "FGSM", "MIA(steps=10)"):
        worst = worst_margins(model, x, y, protected, threat, attack=attack)
        assert np.where(own, worst >= bound, worst <= bound).all()
    still = certified_margins(model, x, y, protected, ThreatModel(0.0))
    clean = worst_margins(model, x, y, protected, ThreatModel(0.0))
    np.testing.assert_allclose(still, clean, atol=1e-4)


def test_pairs_are_the_margins_of_one_class_against_each() -> None:
    model, (x, y) = lenet().eval(), images(12)
    threat = ThreatModel(0.02)
    pairs = certified_pairs(model, x, y, threat)
    assert np.isinf(pairs[np.arange(12), y]).all() and np.isfinite(pairs).sum() == 36
    margins = certified_margins(model, x, y, [2], threat)
    np.testing.assert_allclose(pairs[y == 2].min(1), margins[y == 2], atol=1e-6)


def test_float32_is_rounded_outward() -> None:
    exact = torch.from_numpy(np.random.default_rng(0).normal(size=2000))
    for sign in (1.0, -1.0):
        found = _outward(exact, torch.full_like(exact, sign)).astype(np.float64)
        gap = sign * (exact.numpy() - found)
        assert (gap >= 0).all() and (gap <= 2e-7 * np.abs(exact.numpy())).all()


PAIRS = np.array(
    [[np.inf, 1, -1], [np.inf, 2, 3], [0.5, np.inf, -2], [-1, np.inf, -1], [1, 1, np.inf]]
)
LABELS = np.array([0, 0, 1, 1, 2])
COSTS = np.array([[0, 5.0, 0], [1, 0, 0], [3, 2, 0]])  # nothing that class 2 is taken for


def test_scores_by_hand() -> None:
    frame = certified_score(PAIRS > 0, LABELS, classes=["a", "b", "c"], costs=COSTS)
    assert set(frame["attack"]) == {"certified"}
    values = frame.set_index(["measure", "class"])["value"]
    assert [values["accuracy", c] for c in "abc"] == [0.5, 0, 1] and values["average", ""] == 0.5
    # of the four images of a and b: the first may become c (3), the third c (2), the fourth both
    assert values["robust_error", ""] == 3 / 4
    assert values["robust_cost", ""] == pytest.approx((3 + 2 + 5 + 2) / 4)
    counts = frame.set_index("measure").loc[["robust_error", "robust_cost"], "total"]
    assert counts.tolist() == [4, 4]
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).all()


def test_a_binary_task_of_one_pair_is_an_error_of_its_seed_class_alone() -> None:
    pair = np.zeros((3, 3))
    pair[2, 1] = 1.0  # Zhang and Evans' 1 -> 2: rows here are what is predicted
    frame = certified_score(PAIRS > 0, LABELS, classes=["a", "b", "c"], costs=pair)
    rows = frame.set_index("measure").loc[["robust_error", "robust_cost"]]
    assert rows["value"].tolist() == [1, 1] and rows["total"].tolist() == [2, 2]


@pytest.mark.parametrize("safe", [0, 7, 12])
def test_costs_lie_in_their_interval(safe: int) -> None:
    y, classes = np.arange(12) % 3, ["a", "b", "c"]
    pairs = np.where(np.eye(3, dtype=bool)[y], np.inf, -1.0)
    pairs[:safe] = np.inf
    frame = certified_score(pairs > 0, y, classes=classes, costs=csnb.protect(3, 1))
    row = frame.set_index("measure").loc["robust_cost"]
    assert row["low"] <= row["value"] <= row["high"] and (row["high"] > 0) and row["low"] >= 0


def test_the_interval_of_the_mean_cost_covers_a_dear_mistake_that_is_rare() -> None:
    costs = np.array([[0.0, 0], [1.0, 0], [1000.0, 0]])  # only class 0 can be mistaken
    costs = np.column_stack([costs, [0.0, 0, 0]])
    rng, held, true = np.random.default_rng(0), 0, 0.5 + 1000 * 0.002
    for _ in range(200):
        safe = np.column_stack([rng.random(500) > chance for chance in (0, 0.5, 0.002)])
        frame = certified_score(safe, np.zeros(500, int), classes=["a", "b", "c"], costs=costs)
        row = frame.set_index("measure").loc["robust_cost"]
        held += row["low"] <= true <= row["high"]
    # in two of five draws nothing dear is seen: levels of what was seen alone cover 0.57
    assert held >= 0.88 * 200, held


def test_without_a_dear_mistake_there_is_no_cost_to_speak_of() -> None:
    frame = certified_score(PAIRS > 0, LABELS, classes=["a", "b", "c"], costs=np.zeros((3, 3)))
    assert set(frame["measure"]) == {"accuracy", "average"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, x, y: certified_margins(m, x, y, [], ThreatModel(0.1)), "protected: "),
        (lambda m, x, y: certified_margins(m, x, y, [4], ThreatModel(0.1)), "protected class: 4"),
        (
            lambda m, x, y: certified_margins(m, x, y, [0, 1, 2, 3], ThreatModel(0.1)),
            "4 of 4",
        ),
        (lambda m, x, y: certified_margins(m, x + 1, y, [1], ThreatModel(0.1)), "x: pixels"),
        (lambda m, x, y: certified_pairs(m, x[:0], y[:0], ThreatModel(0.1)), "x: "),
    ],
)
def test_what_cannot_be_certified_is_refused_in_one_line(call, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(lenet(), *images())


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"safe: bool shaped \(5, 3\); allowed: bool \(4, 3\)"):
        certified_score(PAIRS > 0, LABELS[:4], classes=["a", "b", "c"], costs=COSTS)
    with pytest.raises(InputError, match=r"safe: float64 shaped"):
        certified_score(PAIRS, LABELS, classes=["a", "b", "c"], costs=COSTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose offset is chosen on certified margins."""
    place = tmp_path_factory.mktemp("certified")
    asked = QUICK | {"dataset": stripes(place / "stripes.npz"), "runs": str(place / "runs")}
    asked |= {"method": "IBP", "model": "small_cnn(kernels=2, hidden=8)", "eps": 0.05, "epochs": 6}
    asked |= {"optimizer": "adam", "validation": 0.3, "offset": "certified 0.2"}
    return csnb.find_or_run(Experiment(**asked | {"protected_class": 1}))


def test_the_operating_point_is_chosen_on_certified_margins(folder: Path) -> None:
    result = read_run(folder)
    e = Experiment.of_result(result)
    assert e.offset == "certified 0.2" and result["offset"]["attack"] == "certified"
    data = csnb.load_dataset(e.dataset)
    held = data.held_out(e.validation, e.seed)
    x, y = data.x_train[held], data.y_train[held]
    margins = certified_margins(csnb.load_model(folder), x, y, [1], e.threat())
    called, own = margins > 0, (y == 1).numpy()
    assert result["offset"]["false_alarms"] == pytest.approx(called[~own].mean())
    assert result["offset"]["recall"] == pytest.approx(called[own].mean())
    assert called[~own].mean() <= 0.2


def test_they_are_kept_beside_the_attacked_ones_and_the_run_stays_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound, own = read_margins(folder, attack="certified")
    scores = read_certified(folder)
    attacked, _ = read_margins(folder, attack=WEAK)
    assert np.where(own, attacked >= bound, attacked <= bound).all()
    held = scores.set_index(["measure", "class"])["value"]
    assert 0 < held["average", ""] < 1
    for p, name in enumerate(read_run(folder)["classes"]):
        floor, of_class = read_margins(folder, protected=[p], attack="certified")
        assert held["accuracy", name] == (floor[of_class] > 0).mean()
        dear = np.zeros((3, 3))
        dear[:, p], dear[p, p] = 1.0, 0.0  # p taken for any
        missed, alarm = (read_certified(folder, costs=c).set_index("measure")["value"]
                         for c in (dear, dear.T))  # fmt: skip
        assert missed["robust_error"] == pytest.approx(1 - held["accuracy", name])
        assert (floor[~of_class] >= 0).mean() <= alarm["robust_error"] < 1
    assert len(list(folder.glob("margins-p1-*.npy"))) == 2 and list(folder.glob("safe-*.npy"))
    for name in ("certified_margins", "certified_pairs"):
        monkeypatch.setattr(f"csnb.curves.of_runs.{name}", lambda *args: 1 / 0)
    np.testing.assert_array_equal(read_margins(folder, attack="certified")[0], bound)
    pd.testing.assert_frame_equal(read_certified(folder), scores)
    assert read_run(folder)
    both = [protection(m, own, budgets=[0.1]) for m in (bound, attacked)]
    assert (both[0]["value"] <= both[1]["value"]).all()
    assert "the same network" in verdict(folder, folder, attack="certified")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("certified  0.010", "certified 0.01"), ("certified cost", "certified cost")],
)
def test_an_offset_may_be_certified(given: str, kept: str) -> None:
    assert Experiment(offset=given).offset == kept


@pytest.mark.parametrize(
    "given", ["certified", "certified 2", "0.1 certified", "certified certified 0.1"]
)
def test_other_offsets_are_refused(given: str) -> None:
    with pytest.raises(InputError, match=r"offset: .* or certified and these"):
        Experiment(offset=given)


def test_a_network_without_bounds_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    lines = ["import csnb, torch.nn as nn", "@csnb.model", "def Mine(shape, classes):", ""]
    lines[3] = "    return nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(144, classes))"
    (tmp_path / "mine.py").write_text("\n".join(lines))
    asked = QUICK | {"dataset": stripes(tmp_path / "stripes.npz"), "runs": str(tmp_path / "runs")}
    asked |= {"model": f"{tmp_path / 'mine.py'}:Mine", "method": "STD"}
    with pytest.raises(InputError, match=r"bounds: no rule for layer 1 \(Tanh\)"):
        csnb.Run(Experiment(**asked, offset="certified 0.1"))
    with pytest.raises(InputError, match="Tanh"):
        csnb.run(Experiment(**asked | {"method": "IBP"}))
    assert not [*(tmp_path / "runs").glob("*stripes*")]
