"""Methods, schedules and the loop, against updates written out by hand."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csnb import METHODS, InputError, LeNet, Normalized, ThreatModel, fit, fuzziness, load_dataset, perturb, protect
from csnb.losses import REGULARISERS
from csnb.models import build_model, conv_weights
from csnb.training import Recipe, stages

RECIPE = Recipe(
    epochs=1, batch_size=8, optimizer="sgd", lr=0.05, momentum=0.0, halve_every=0, schedule="halves", gamma=2.0,
    regulariser="fuzziness", regularised_convs=0, train_steps=2, train_step_size=0.1, inner_loss="objective",
)  # fmt: skip
THREAT = ThreatModel(0.2)
COSTS = protect(4, 1, 10.0)


def small_model(seed: int = 0) -> Normalized:
    torch.manual_seed(seed)
    return Normalized(LeNet((1, 12, 12), 4), [0.4], [0.25])


def small_data(images: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(images, 1, 12, 12, generator=generator), torch.arange(images) % 4


def objective(method: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The equations, written out image by image."""
    logits = model(x)
    loss = cross_entropy(logits, y)
    if method not in ("STD", "ADV"):
        costs = torch.tensor(COSTS, dtype=torch.float32)
        loss = loss + sum(logits[k].softmax(0) @ costs[:, y[k]] for k in range(len(y))) / len(y)
    if method == "CSA+L2":
        loss = loss + sum((p**2).sum() for p in model.parameters()).sqrt()
    if method.startswith("CSE"):
        rho = 1 / (1 + torch.cat([model.body.conv1.weight.flatten(), model.body.conv2.weight.flatten()]).abs().exp())
        loss = loss - RECIPE.gamma * (rho * rho.log() + (1 - rho) * (1 - rho).log()).mean()
    return loss


def step(method: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Plain gradient descent."""
    parameters = list(model.parameters())
    for p, g in zip(parameters, torch.autograd.grad(objective(method, model, x, y), parameters), strict=True):
        p.data -= RECIPE.lr * g


@pytest.mark.parametrize("method", METHODS)
def test_one_update_is_gradient_descent_on_the_methods_equation(method: str) -> None:
    x, y = small_data()
    model, by_hand = small_model(), small_model()
    # `halves` with two epochs: the first is clean for every method.
    recipe = replace(RECIPE, epochs=2)
    rows = []
    with contextlib.suppress(StopIteration):
        fit(model, x, y, method=method, costs=COSTS, recipe=recipe, threat=THREAT, seed=0, on_epoch=lambda row: stop(rows, row))
    expected_loss = objective(method, by_hand, x, y).item()
    step(method, by_hand, x, y)
    assert rows[0]["examples"] == "clean"
    assert rows[0]["loss"] == pytest.approx(expected_loss, rel=1e-5)
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def stop(rows: list[dict], row: dict) -> None:
    rows.append(row)
    raise StopIteration


@pytest.mark.parametrize("method", ["ADV", "CSA", "CSE+ADV"])
def test_both_updates_with_clean_images_then_with_those_adversarial_to_the_model_before(method: str) -> None:
    x, y = small_data()
    model, by_hand = small_model(), small_model()
    recipe = replace(RECIPE, schedule="both", train_step_size=10.0)  # steps beyond the ball: always a corner of the cube
    fit(model, x, y, method=method, costs=COSTS, recipe=recipe, threat=THREAT, seed=3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    x, y = x[order], y[order]
    costs = torch.tensor(COSTS, dtype=torch.float32)
    own = method != "ADV"

    def inner(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels, reduction="sum")
        return loss + (logits.softmax(1) * costs[:, labels].T).sum() if own else loss

    adversarial = perturb(by_hand, x, y, "PGD", THREAT, loss=inner, seed=3, steps=2, step_size=10.0)
    step(method, by_hand, x, y)
    step(method, by_hand, adversarial, y)
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "epoch", "batch", "expected"),
    [
        ("halves", 0, 0, ("clean",)),
        ("halves", 1, 5, ("clean",)),
        ("halves", 2, 0, ("adversarial",)),
        ("halves", 4, 9, ("adversarial",)),
        ("both", 0, 0, ("clean", "adversarial")),
        ("alternate", 3, 0, ("clean",)),
        ("alternate", 3, 1, ("adversarial",)),
    ],
)
def test_schedules_of_five_epochs(schedule: str, epoch: int, batch: int, expected: tuple[str, ...]) -> None:
    recipe = replace(RECIPE, epochs=5, schedule=schedule)
    assert stages(METHODS["CSA"], recipe, epoch, batch) == expected
    assert stages(METHODS["CSE"], recipe, epoch, batch) == ("clean",)


def test_learning_rate_halves() -> None:
    recipe = replace(RECIPE, epochs=5, halve_every=2, lr=0.04)
    history = fit(small_model(), *small_data(), method="STD", costs=COSTS, recipe=recipe, threat=THREAT, seed=0)
    assert history["lr"].tolist() == [0.04, 0.04, 0.02, 0.02, 0.01]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["STD", "CSE+ADV"])
def test_same_seed_gives_the_same_bits_and_leaves_the_generator_alone(method: str, optimizer: str) -> None:
    def weights(seed: int) -> Tensor:
        model = small_model()
        recipe = replace(RECIPE, epochs=2, batch_size=3, momentum=0.9, optimizer=optimizer)
        torch.manual_seed(99)
        state = torch.get_rng_state()
        fit(model, *small_data(), method=method, costs=COSTS, recipe=recipe, threat=THREAT, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return nn.utils.parameters_to_vector(model.parameters())

    first = weights(0)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_history_reports_the_fuzziness_of_each_convolution() -> None:
    model = small_model()
    history = fit(model, *small_data(), method="CSE", costs=COSTS, recipe=RECIPE, threat=THREAT, seed=0)
    for name, weight in conv_weights(model).items():
        assert history[f"fuzziness.{name}"].iloc[-1] == pytest.approx(fuzziness([weight]).item(), rel=1e-6)


@pytest.mark.parametrize("regulariser", ["fuzziness", "minmax", "l1_minus_l2"])
def test_regulariser_lowers_what_it_names_in_the_convolutions_it_sees(regulariser: str) -> None:
    def after(gamma: float) -> float:
        model = small_model()
        recipe = replace(RECIPE, epochs=5, regulariser=regulariser, gamma=gamma, regularised_convs=1)
        fit(model, *small_data(), method="CSE", costs=COSTS * 0, recipe=recipe, threat=THREAT, seed=0)
        return REGULARISERS[regulariser]([model.body.conv1.weight]).item()

    assert after(0.1 if regulariser == "l1_minus_l2" else 20.0) < after(0.0)


def test_diverging_training_is_refused_in_one_line() -> None:
    recipe = replace(RECIPE, epochs=8, lr=1e6)
    with pytest.raises(InputError, match=r"^lr: 1e\+06 makes the loss (nan|inf) in epoch \d; allowed: less$"):
        fit(small_model(), *small_data(), method="STD", costs=COSTS, recipe=recipe, threat=THREAT, seed=0)


def test_adversarial_training_protects_on_real_digits() -> None:
    data = load_dataset("digits")
    recipe = replace(RECIPE, epochs=8, batch_size=32, lr=0.02, momentum=0.9, train_steps=3, train_step_size=0.0)
    threat = ThreatModel(0.3)

    def accuracies(method: str) -> np.ndarray:
        model = build_model("lenet", data)
        fit(model, data.x_train, data.y_train, method=method, costs=protect(10, 0), recipe=recipe, threat=threat, seed=0)
        attacked = perturb(model, data.x_test, data.y_test, "PGD", threat, seed=0, steps=10, step_size=0.1)
        return np.array([float((model(x).argmax(1) == data.y_test).float().mean()) for x in (data.x_test, attacked)])

    standard, adversarial = accuracies("STD"), accuracies("ADV")
    assert standard[0] > 0.85
    assert adversarial[1] > standard[1] + 0.1  # 599 images: five standard errors of the difference
