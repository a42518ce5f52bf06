from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

from csnb.attacks import ThreatModel, perturb
from csnb.errors import InputError
from csnb.evaluation import Outcome, confusion, evaluate, predict, presence, score
from csnb.models import Normalized

CLASSES = ("a", "b", "c")
COSTS = np.array(
    [[0, 2, 5], [3, 0, 7], [1, 4, 0]], dtype=float
)  # asymmetric: row predicted, column true
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
CLEAN = np.array([0, 0, 0, 1, 1, 0, 2, 1, 1, 0], dtype=np.uint8)
Z = 1.959964


def interval(correct: int, total: int) -> tuple[float, float]:
    found = binomtest(correct, total).proportion_ci(method="wilson")
    return found.low, found.high


# --- counting


@pytest.mark.parametrize("classes", [2, 5, 300])
def test_confusion_is_scikit_learns_with_rows_predicted(classes: int) -> None:
    random = np.random.default_rng(classes)
    labels, predictions = random.integers(0, classes, (2, 400))
    expected = confusion_matrix(labels, predictions, labels=range(classes)).T
    smallest = predictions.astype(np.min_scalar_type(classes - 1))
    found = confusion(smallest, labels, classes)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


# --- score


def scores(costs: np.ndarray = COSTS, **changes: Mapping[str, object]) -> pd.DataFrame:
    """Of ten test images, clean and, unless told otherwise, after an attack on both of class b."""
    outcome = {
        "attacked": np.array([4, 5]),
        "predictions": {"clean": CLEAN, "FGSM": np.array([2, 1], np.uint8)},
        "norms": {"FGSM": (0.1, 0.25)},
    }
    return score(
        Outcome(LABELS, **(outcome | changes)), classes=CLASSES, protected=[1], costs=costs
    )


def pick(frame: pd.DataFrame, attack: str, measure: str, label: str = "") -> pd.Series:
    """The one row of this attack, measure and class."""
    found = frame[
        (frame["attack"] == attack) & (frame["measure"] == measure) & (frame["class"] == label)
    ]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize(
    ("measure", "label", "correct", "total"),
    [
        ("accuracy", "a", 3, 4),
        ("accuracy", "b", 1, 2),
        ("accuracy", "c", 1, 4),
        ("worst", "c", 1, 4),
        ("false_alarms", "b", 3, 8),  # one a and two c, of four a and four c
    ],
)
def test_shares_are_counted_by_hand_with_wilson_intervals(
    measure: str, label: str, correct: int, total: int
) -> None:
    row = pick(scores(), "clean", measure, label)
    assert (row["correct"], row["total"], row["value"]) == (correct, total, correct / total)
    assert (row["low"], row["high"]) == pytest.approx(interval(correct, total), rel=1e-9)


def test_the_average_is_over_classes_with_wilsons_interval() -> None:
    row = pick(scores(), "clean", "average")
    assert (row["correct"], row["total"]) == (5, 10)
    # 3/4, 1/2 and 1/4 of 4, 2 and 4 images: a mean as of 3^2 / (1/4 + 1/2 + 1/4) = 9 images;
    # its ends solve |1/2 - q| = z sqrt(q (1 - q) / 9)
    ends = sorted(np.roots([1 + Z**2 / 9, -(1 + Z**2 / 9), 1 / 4]))
    assert (row["value"], row["low"], row["high"]) == pytest.approx((0.5, *ends), rel=1e-6)


def test_the_average_weighs_classes_and_not_images() -> None:
    row = pick(scores(predictions={"clean": np.zeros(10, np.uint8)}), "clean", "average")
    assert row["value"] == pytest.approx(1 / 3)  # 4 of 10 images
    assert (row["correct"], row["total"]) == (4, 10)


def test_the_mean_cost_by_hand() -> None:
    # (predicted, true): (1, 0) 3, (0, 1) 2, (1, 2) 7 twice, (0, 2) 5: 24 in all
    row = pick(scores(), "clean", "mean_cost")
    ends = {cost: interval(count, 10) for cost, count in {2: 1, 3: 1, 5: 1, 7: 2}.items()}
    shares = {2: 0.1, 3: 0.1, 5: 0.1, 7: 0.2}
    # of costs that nobody was charged (1, 4), none of ten: they may be, and count upwards
    ends |= {cost: interval(0, 10) for cost in (1, 4)}
    shares |= {1: 0, 4: 0}
    below = sum((c * (shares[c] - low)) ** 2 for c, (low, _) in ends.items()) ** 0.5
    above = sum((c * (high - shares[c])) ** 2 for c, (_, high) in ends.items()) ** 0.5
    assert row["total"] == 10
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (2.4, max(0, 2.4 - below), 2.4 + above), rel=1e-6
    )


def test_no_mistake_may_still_cost_something() -> None:
    row = pick(scores(predictions={"clean": LABELS.astype(np.uint8)}), "clean", "mean_cost")
    assert (row["value"], row["low"]) == (0, 0) and row["high"] > 0.5


def test_where_every_mistake_is_free_nothing_is_charged() -> None:
    row = pick(scores(np.zeros((3, 3))), "clean", "mean_cost")
    assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_perturbations_are_reported_for_attacks_only() -> None:
    frame = scores()
    assert list(frame.columns) == list(scores(predictions={}).columns)  # also of no attack
    assert [pick(frame, "FGSM", measure)["value"] for measure in ("linf", "l2")] == [0.1, 0.25]
    assert [pick(frame, "FGSM", measure)["total"] for measure in ("linf", "l2")] == [2, 2]
    assert not frame[frame["attack"] == "clean"]["measure"].isin(["linf", "l2"]).any()


def test_an_attack_on_the_protected_class_alone_has_no_average_worst_or_false_alarms() -> None:
    frame = scores()
    attacked = frame[frame["attack"] == "FGSM"]
    assert sorted(attacked["measure"]) == ["accuracy", "l2", "linf", "mean_cost"]
    row = pick(frame, "FGSM", "accuracy", "b")
    assert (row["correct"], row["total"], row["value"]) == (1, 2, 0.5)
    assert pick(frame, "FGSM", "mean_cost")["value"] == 4 / 2  # predicted c, true b
    assert sorted(frame[frame["attack"] == "clean"]["measure"].unique()) == [
        *("accuracy", "average", "false_alarms", "mean_cost", "worst")
    ]


def test_false_alarms_are_counted_where_every_other_class_is_attacked() -> None:
    predictions = {"clean": CLEAN, "FGSM": np.array([1, 2, 2, 0], np.uint8)}
    frame = scores(attacked=np.array([6, 7, 8, 9]), predictions=predictions)  # of c, not of a
    measures = ["accuracy", "l2", "linf", "mean_cost"]
    assert sorted(frame[frame["attack"] == "FGSM"]["measure"]) == measures
    assert pick(frame, "FGSM", "mean_cost")["value"] == (7 + 5) / 4
    predictions["FGSM"] = np.array([0, 1, 1, 2, 2, 0], np.uint8)
    frame = scores(attacked=np.array([0, 1, 6, 7, 8, 9]), predictions=predictions)
    row = pick(frame, "FGSM", "false_alarms", "b")
    assert (row["correct"], row["total"]) == (2, 6)


def test_an_attack_on_all_images_has_every_measure() -> None:
    frame = scores(
        attacked=np.arange(10),
        predictions={"clean": CLEAN, "FGSM": (CLEAN + 1).astype(np.uint8) % 3},
    )
    rows = frame[frame["attack"] == "FGSM"]["measure"].value_counts().to_dict()
    expected = {
        "accuracy": 3,
        "average": 1,
        "worst": 1,
        "false_alarms": 1,
        "mean_cost": 1,
        "linf": 1,
        "l2": 1,
    }
    assert rows == expected
    # true a: now b, b, b, c; true b: c, b; true c: a, c, c, b
    assert [pick(frame, "FGSM", "accuracy", label)["correct"] for label in CLASSES] == [0, 1, 2]


# --- evaluate: a linear model, two pixels of deviation 1/2 and three classes


@pytest.fixture
def model() -> Normalized:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        body[1].weight.copy_(
            torch.tensor([[2.0, -1, 0.5, 1], [-1, 2, 1, -0.5], [-1, -1, -1.5, -0.5]])
        )
        body[1].bias.zero_()
    return Normalized(body, (0.5,), (0.5,))


def images(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, 2, 2, generator=generator), torch.randint(
        0, 3, (count,), generator=generator
    )


PIXEL = ThreatModel(0.1, space="pixel")
SHORT = "PGD(steps=3, step_size=0.05)"


def test_clean_predictions_are_the_largest_logits_across_batches(model: Normalized) -> None:
    x, y = images(600)
    outcome = evaluate(model, x, y, attacks="", threat=PIXEL)
    z = (x.flatten(1) - 0.5) / 0.5
    expected = (z @ model.body[1].weight.detach().T).argmax(1)
    np.testing.assert_array_equal(outcome.predictions["clean"], expected)
    np.testing.assert_array_equal(predict(model, x), expected)
    np.testing.assert_array_equal(outcome.labels, y)
    assert list(outcome.predictions) == ["clean"] and outcome.norms == {}


class Brittle(nn.Module):
    """Logits of grey images, finite at grey alone but for whoever asks for a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1)  # (B, 4)
        logits = torch.stack([grey.mean(1), 1 - grey.mean(1)], 1)
        far = (grey - 0.5).abs().amax(1, keepdim=True) > 1e-6
        return logits if x.requires_grad else torch.where(far, torch.nan, logits)


def test_logits_that_an_attack_makes_not_finite_are_refused_by_its_name() -> None:
    model = Normalized(Brittle(), [0.0], [1.0])
    x, y = torch.full((4, 1, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    clean = evaluate(model, x, y, attacks="", threat=PIXEL)
    assert clean.predictions["clean"].tolist() == [0] * 4
    with pytest.raises(
        InputError, match=r"^FGSM at eps 0\.25: gives logits that are not finite; allowed: finite"
    ):
        evaluate(model, x, y, attacks="FGSM", threat=ThreatModel(0.25, space="pixel"))
    with pytest.raises(InputError, match=r"^model: gives logits that are not finite"):
        predict(model, x + 0.25)


@pytest.mark.parametrize(("classes", "dtype"), [(3, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_predictions_are_kept_in_the_smallest_integers_that_hold_the_classes(
    classes: int, dtype: type
) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, classes))
    with torch.no_grad():
        body[1].bias[-1] = 100
    x, _ = images(4)
    y = torch.zeros(4, dtype=torch.int64)
    outcome = evaluate(Normalized(body, (0.5,), (0.5,)), x, y, attacks="FGSM", threat=PIXEL)
    for predictions in outcome.predictions.values():
        assert predictions.dtype == dtype
        assert predictions.tolist() == [classes - 1] * 4


@pytest.mark.parametrize(
    ("threat", "linf", "l2"),
    [
        (ThreatModel(0.1, space="pixel"), 0.1, 0.2),  # four pixels moved by 0.1 each
        (ThreatModel(0.1, space="normalized"), 0.05, 0.1),  # 0.1 deviations of 1/2
        (ThreatModel(0.0), 0, 0),
    ],
)
def test_norms_of_an_unbounded_fgsm_are_known_in_advance(
    model: Normalized, threat: ThreatModel, linf: float, l2: float
) -> None:
    outcome = evaluate(model, *images(300), attacks="FGSM", threat=threat)
    assert outcome.norms["FGSM"] == pytest.approx((linf, l2), rel=1e-5)


@pytest.mark.parametrize("bounded", [False, True])
def test_norms_and_predictions_are_those_of_the_images_that_perturb_makes(
    model: Normalized, bounded: bool
) -> None:
    x, y = images(40)
    threat = ThreatModel(0.3, space="pixel", bounded=bounded)
    outcome = evaluate(model, x, y, attacks=SHORT, threat=threat, seed=7)
    adversarial = perturb(model, x, y, SHORT, threat, seed=7)
    delta = (adversarial - x).numpy().reshape(40, 4)
    assert outcome.norms[SHORT] == pytest.approx(
        (abs(delta).max(1).mean(), np.sqrt((delta**2).sum(1)).mean()), rel=1e-5
    )
    np.testing.assert_array_equal(outcome.predictions[SHORT], model(adversarial).argmax(1))
    assert (
        len(set(abs(delta).max(1).round(4))) > 1
    )  # images differ, so that a mean is not any one's norm


def test_an_attack_does_harm(model: Normalized) -> None:
    x, _ = images(300)
    y = torch.from_numpy(predict(model, x))
    outcome = evaluate(
        model, x, y, attacks=f"FGSM, {SHORT}", threat=ThreatModel(0.3, space="pixel")
    )
    assert (outcome.predictions["clean"] == y.numpy()).all()
    for attack in ("FGSM", SHORT):
        assert (outcome.predictions[attack] == y.numpy()).mean() < 0.6


ATTACKS = [SHORT, "FGSM", "CW(steps=5, searches=2)", "LinfBIA(steps=3)"]


def test_no_attacks_result_depends_on_which_others_run(model: Normalized) -> None:
    x, y = images(300)
    together = evaluate(model, x, y, attacks=", ".join(ATTACKS), threat=PIXEL, seed=3)
    for name in ATTACKS:
        alone = evaluate(model, x, y, attacks=name, threat=PIXEL, seed=3)
        np.testing.assert_array_equal(alone.predictions[name], together.predictions[name])
        assert alone.norms[name] == together.norms[name]
    reverse = evaluate(model, x, y, attacks=", ".join(reversed(ATTACKS)), threat=PIXEL, seed=3)
    assert reverse.norms == together.norms


def test_the_seed_alone_decides_and_the_global_generator_does_not_notice(model: Normalized) -> None:
    x, y = images(40)

    def norms(seed: int) -> tuple[float, float]:
        spec = "PGD(steps=1)"
        return evaluate(model, x, y, attacks=spec, threat=PIXEL, seed=seed).norms[spec]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = norms(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert norms(3) == first
    assert norms(4) != first


def test_only_the_chosen_images_are_attacked(model: Normalized) -> None:
    x, y = images(40)
    chosen = torch.tensor([30, 2, 7, 8])
    outcome = evaluate(model, x, y, attacks="FGSM", threat=PIXEL, attacked=chosen)
    everywhere = evaluate(model, x, y, attacks="FGSM", threat=PIXEL)
    np.testing.assert_array_equal(outcome.attacked, chosen)
    np.testing.assert_array_equal(everywhere.attacked, np.arange(40))
    np.testing.assert_array_equal(
        outcome.predictions["FGSM"], everywhere.predictions["FGSM"][chosen]
    )
    np.testing.assert_array_equal(outcome.predictions["clean"], everywhere.predictions["clean"])
    np.testing.assert_array_equal(outcome.labels_of("FGSM"), y[chosen])
    np.testing.assert_array_equal(outcome.labels_of("clean"), y)


@pytest.mark.parametrize(
    ("attacked", "what"),
    [
        (torch.tensor([0, 12]), "2 indices"),
        (torch.tensor([-1, 3]), "2 indices"),
        (torch.tensor([], dtype=torch.int64), "0 indices"),
        (torch.tensor([0.0]), r"tensor\(\[0.\]\)"),
        (torch.tensor([[0, 1]]), r"tensor\(\[\[0, 1\]\]\)"),
        ([0, 1], r"\[0, 1\]"),
    ],
)
def test_what_is_no_place_of_an_image_is_refused(
    model: Normalized, attacked: object, what: str
) -> None:
    x, y = images(12)
    with pytest.raises(
        InputError, match=rf"^attacked: {what}; allowed: a tensor of indices, 0 to 11$"
    ):
        evaluate(model, x, y, attacks="FGSM", threat=PIXEL, attacked=attacked)
    evaluate(model, x, y, attacks="FGSM", threat=PIXEL, attacked=torch.tensor([0, 11]))


def test_progress_is_told_in_order(model: Normalized) -> None:
    told = []
    attacks = "FGSM, L2BIA( step_size = 5e-2, steps=3)"
    evaluate(model, *images(4), attacks=attacks, threat=PIXEL, on_attack=told.append)
    assert told == ["clean", "FGSM", "L2BIA(steps=3)"]


def test_dropout_is_off_while_evaluating() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(4, 3))
    model = Normalized(body, (0.5,), (0.5,)).train()
    x, y = images(40)
    outcome = evaluate(model, x, y, attacks="", threat=PIXEL)
    z = (x.flatten(1) - 0.5) / 0.5
    expected = (z @ body[2].weight.detach().T + body[2].bias.detach()).argmax(1)
    np.testing.assert_array_equal(outcome.predictions["clean"], expected)


def test_the_worst_image_counts_where_asked(model: Normalized) -> None:
    x, _ = images(300)
    y = torch.from_numpy(predict(model, x))
    spec = "MIA(steps=8, step_size=0.15)"  # long steps that go past what would fool
    found = {
        robust: evaluate(model, x, y, attacks=spec, threat=ThreatModel(0.3), robust=robust)
        for robust in ("last", "worst")
    }
    fooled = {k: o.predictions[spec] != y.numpy() for k, o in found.items()}
    assert (fooled["worst"] | ~fooled["last"]).all()
    assert found["worst"].norms[spec][0] < found["last"].norms[spec][0]  # it stops at the first


def test_batches_make_no_difference_but_to_random_starts(model: Normalized) -> None:
    x, y = images(600)
    threat = ThreatModel(0.1)
    whole = evaluate(model, x, y, attacks="LinfBIA(steps=3)", threat=threat)
    parts = [
        evaluate(model, x[i : i + 100], y[i : i + 100], attacks="LinfBIA(steps=3)", threat=threat)
        for i in range(0, 600, 100)
    ]
    for name, predictions in whole.predictions.items():
        np.testing.assert_array_equal(
            predictions, np.concatenate([part.predictions[name] for part in parts])
        )


def test_an_unknown_attack_is_refused_before_any_other(model: Normalized) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match="'DeepFool' is unknown"):
        attacks = "FGSM, DeepFool"
        evaluate(model, *images(4), attacks=attacks, threat=PIXEL, on_attack=told.append)
    assert told == []


# --- is the class there at all?


@pytest.mark.parametrize(
    ("called", "says"),
    [
        ([0, 0, 0, 0, 1, 1, 2, 2, 2, 2], "2 of 2 clean images of class 'b' are recognised, of the"),
        ([0, 0, 0, 0, 0, 2, 2, 2, 2, 2], "THE CLASS IS LOST: 0 of 2 clean images of class 'b'"),
        ([1, 1, 1, 1, 1, 1, 1, 1, 2, 2], "THE CLASS IS EVERYWHERE: 2 of 2 clean images of"),
    ],
)
def test_a_class_that_is_lost_or_everywhere_is_said_to_be(called: list[int], says: str) -> None:
    found = scores(predictions={"clean": np.array(called, np.uint8)})
    assert presence(found, "b").startswith(says)


def test_what_is_taken_for_a_class_is_counted() -> None:
    assert "of the other classes 50% are recognised; 3 of 8 others" in presence(scores(), "b")


@pytest.mark.parametrize(
    ("right", "says"),
    [
        (5, "5 of 10 clean images of class 'b' are recognised, of"),  # half is not less
        (4, "THE CLASS IS LOST: 4 of 10 clean images of class 'b'"),
    ],
)
def test_a_class_is_lost_below_half_of_what_is_recognised_of_the_others(
    right: int, says: str
) -> None:
    labels = np.repeat([0, 1, 2], [4, 10, 4])
    called = labels.copy()
    called[4 + right : 14] = 2
    outcome = Outcome(labels, np.arange(0), {"clean": called})
    found = score(outcome, classes=CLASSES, protected=[1], costs=COSTS)
    assert presence(found, "b").startswith(says)


def test_a_class_that_half_of_the_others_are_taken_for_is_not_everywhere_yet() -> None:
    found = scores(predictions={"clean": np.array([1, 1, 1, 1, 1, 1, 2, 2, 2, 2], np.uint8)})
    said = presence(found, "b")
    assert said.startswith("2 of 2 clean images of class 'b' are recognised, ") and "; 4 of" in said


@pytest.mark.parametrize(("theirs", "lost"), [(8, False), (9, True)])
def test_a_class_is_lost_below_half_of_what_another_network_recognises_of_it(
    theirs: int, lost: bool
) -> None:
    """Of 10 images 4; of the other classes' all, which does not count then."""
    labels, found = np.repeat([0, 1, 2], [4, 10, 4]), {}
    for right in (4, theirs):
        called = np.where((np.arange(18) >= 4 + right) & (labels == 1), 2, labels)
        outcome = Outcome(labels, np.arange(0), {"clean": called})
        found[right] = score(outcome, classes=CLASSES, protected=[1], costs=COSTS)
    said = presence(found[4], "b", ("ADV", found[theirs]))
    assert said.startswith("THE CLASS IS LOST: ") == lost
    assert f"4 of 10 clean images of class 'b' are recognised, by ADV {theirs}0% of them" in said
