"""The loop, its schedules and its optimisers, against updates written out by hand."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from making import lenet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csnb import (
    METHODS,
    InputError,
    Method,
    Recipe,
    ThreatModel,
    build_model,
    conv_weights,
    fit,
    load_dataset,
    perturb,
    protect,
)
from csnb.losses import REGULARISERS, fuzziness
from csnb.methods import Batch, Task
from csnb.models import Normalized
from csnb.training import Trainer, Update

ADVERSARY = "PGD(steps=2, step_size=0.1)"
RECIPE = Recipe(epochs=1, batch_size=8, lr=0.05, momentum=0.0, adversary=ADVERSARY)
GAMMA = 2.0
THREAT = ThreatModel(0.2)
COSTS = protect(4, 1, 10.0)
COMMON = {"costs": COSTS, "threat": THREAT, "seed": 0}


def small_model(seed: int = 0) -> Normalized:
    torch.manual_seed(seed)
    return lenet()


def small_data(images: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(images, 1, 12, 12, generator=generator), torch.arange(images) % 4


def with_gamma(method: str) -> str:
    return f"{method}(gamma={GAMMA})" if method.startswith("CSE") else method


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
        convs = [model.body.conv1.weight.flatten(), model.body.conv2.weight.flatten()]
        rho = 1 / (1 + torch.cat(convs).abs().exp())
        loss = loss - GAMMA * (rho * rho.log() + (1 - rho) * (1 - rho).log()).mean()
    return loss


def step(method: str, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Plain gradient descent."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(objective(method, model, x, y), parameters)
    for p, g in zip(parameters, gradients, strict=True):
        p.data -= RECIPE.lr * g


@pytest.mark.parametrize("method", ["STD", "ADV", "CSA", "CSA+L2", "CSE", "CSE+ADV"])
def test_one_update_is_gradient_descent_on_the_methods_equation(method: str) -> None:
    x, y = small_data()
    model, by_hand = small_model(), small_model()
    # `halves` with two epochs: the first is clean for every method.
    recipe = replace(RECIPE, epochs=2)
    rows = []
    common = COMMON | {"method": with_gamma(method), "recipe": recipe}
    with contextlib.suppress(StopIteration):
        fit(model, x, y, on_epoch=lambda row: stop(rows, row), **common)
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
def test_both_updates_with_clean_images_then_with_those_adversarial_to_the_model_before(
    method: str,
) -> None:
    x, y = small_data()
    model, by_hand = small_model(), small_model()
    beyond = "PGD(steps=2, step_size=10)"  # steps beyond the ball: always a corner of the cube
    recipe = replace(RECIPE, schedule="both", adversary=beyond)
    fit(model, x, y, method=with_gamma(method), costs=COSTS, recipe=recipe, threat=THREAT, seed=3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    x, y = x[order], y[order]
    costs = torch.tensor(COSTS, dtype=torch.float32)
    own = method != "ADV"

    def inner(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels, reduction="none")
        return (loss + (logits.softmax(1) * costs[:, labels].T).sum(1) if own else loss).sum()

    adversarial = perturb(by_hand, x, y, beyond, THREAT, loss=inner, seed=3)
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
def test_schedules_of_five_epochs(
    schedule: str, epoch: int, batch: int, expected: tuple[str, ...]
) -> None:
    recipe = replace(RECIPE, epochs=5, schedule=schedule)
    assert recipe.stages(True, epoch, batch) == expected
    assert recipe.stages(False, epoch, batch) == ("clean",)


def test_learning_rate_halves() -> None:
    recipe = replace(RECIPE, epochs=5, halve_every=2, lr=0.04)
    history = fit(small_model(), *small_data(), method="STD", recipe=recipe, **COMMON)
    assert history["lr"].tolist() == [0.04, 0.04, 0.02, 0.02, 0.01]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["STD", "CSE+ADV"])
def test_same_seed_gives_the_same_bits_and_leaves_the_generator_alone(
    method: str, optimizer: str
) -> None:
    def weights(seed: int) -> Tensor:
        model = small_model()
        recipe = replace(RECIPE, epochs=2, batch_size=3, momentum=0.9, optimizer=optimizer)
        torch.manual_seed(99)
        state = torch.get_rng_state()
        common = COMMON | {"seed": seed}
        fit(model, *small_data(), method=method, recipe=recipe, **common)
        assert torch.equal(torch.get_rng_state(), state)
        return nn.utils.parameters_to_vector(model.parameters())

    first = weights(0)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)


def test_history_reports_the_fuzziness_of_each_convolution() -> None:
    model = small_model()
    history = fit(model, *small_data(), method="CSE", recipe=RECIPE, **COMMON)
    for name, weight in conv_weights(model).items():
        expected = pytest.approx(fuzziness([weight]).item(), rel=1e-6)
        assert history[f"fuzziness.{name}"].iloc[-1] == expected


@pytest.mark.parametrize("regulariser", ["fuzziness", "minmax", "l1_minus_l2"])
def test_regulariser_lowers_what_it_names_in_the_convolutions_it_sees(regulariser: str) -> None:
    def after(gamma: float) -> float:
        model = small_model()
        method = f"CSE(gamma={gamma}, regulariser={regulariser}, convs=1)"
        recipe, free = replace(RECIPE, epochs=5), COSTS * 0
        fit(model, *small_data(), method=method, costs=free, recipe=recipe, threat=THREAT, seed=0)
        return REGULARISERS[regulariser]([model.body.conv1.weight]).item()

    assert after(0.1 if regulariser == "l1_minus_l2" else 20.0) < after(0.0)


def test_diverging_training_is_refused_in_one_line() -> None:
    recipe = replace(RECIPE, epochs=8, lr=1e6)
    says = r"^training: loss (nan|inf|\S+) or weights not finite in epoch \d; allowed: finite first"
    with pytest.raises(InputError, match=says):
        fit(small_model(), *small_data(), method="STD", recipe=recipe, **COMMON)


def test_adversarial_training_protects_on_real_digits() -> None:
    data = load_dataset("digits")
    adversary = "PGD(steps=3, step_size=0)"
    recipe = Recipe(epochs=8, batch_size=32, lr=0.02, momentum=0.9, adversary=adversary)
    threat = ThreatModel(0.3)

    def accuracies(method: str) -> np.ndarray:
        model = build_model("lenet", data)
        common = {"costs": protect(10, 0), "recipe": recipe, "threat": threat, "seed": 0}
        fit(model, data.x_train, data.y_train, method=method, **common)
        spec = "PGD(steps=10, step_size=0.1)"
        attacked = perturb(model, data.x_test, data.y_test, spec, threat, seed=0)
        right = [model(x).argmax(1) == data.y_test for x in (data.x_test, attacked)]
        return np.array([float(found.float().mean()) for found in right])

    standard, adversarial = accuracies("STD"), accuracies("ADV")
    assert standard[0] > 0.85
    assert adversarial[1] > standard[1] + 0.1  # 599 images: five standard errors of the difference


# --- the loop followed by hand


def halved(lr: float, epoch: int) -> float:
    return lr / 2 if epoch else lr


@pytest.mark.parametrize("schedule", ["halves", "both", "alternate"])
def test_two_epochs_with_every_option_on_are_those_made_by_hand(schedule: str) -> None:
    x, y = small_data(6)
    adversary = "PGD(steps=3, step_size=0.05)"
    options = {"batch_size": 3, "momentum": 0.9, "halve_every": 1, "adversary": adversary}
    recipe = replace(RECIPE, epochs=2, schedule=schedule, **options)
    model, by_hand = small_model(), small_model()
    method = f"CSE+ADV(gamma={GAMMA}, inner=cross_entropy)"
    fit(model, x, y, method=method, recipe=recipe, **COMMON | {"seed": 5})
    order = torch.Generator().manual_seed(5)
    moved = [torch.zeros_like(p) for p in by_hand.parameters()]

    def update(images: Tensor, labels: Tensor, lr: float) -> None:
        parameters = list(by_hand.parameters())
        loss = objective("CSE+ADV", by_hand, images, labels)
        gradients = torch.autograd.grad(loss, parameters)
        for p, v, g in zip(parameters, moved, gradients, strict=True):
            v.mul_(0.9).add_(g)
            p.data -= lr * v

    torch.manual_seed(5)  # random starts go on in one stream
    for epoch in range(2):
        for batch, index in enumerate(torch.randperm(6, generator=order).split(3)):
            images, labels, lr = x[index], y[index], halved(0.05, epoch)
            attacked = {"halves": epoch == 1, "alternate": batch == 1, "both": True}[schedule]
            if attacked:
                found = perturb(by_hand, images, labels, adversary, THREAT)
            if not attacked or schedule == "both":
                update(images, labels, lr)
            if attacked:
                update(found, labels, lr)
    for found, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-4)


def test_adam_makes_adams_first_step() -> None:
    model, by_hand = small_model(), small_model()
    recipe = replace(RECIPE, optimizer="adam", lr=0.01)
    fit(model, *small_data(), method="STD", recipe=recipe, **COMMON)
    parameters = list(by_hand.parameters())
    gradients = torch.autograd.grad(objective("STD", by_hand, *small_data()), parameters)
    for found, p, g in zip(model.parameters(), parameters, gradients, strict=True):
        torch.testing.assert_close(found, p - 0.01 * g / (g.abs() + 1e-8), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("adversary", "size"), [("PGD(steps=1, step_size=0.03)", 0.03), ("FGSM", 0.2)]
)
def test_the_attack_inside_training_is_the_recipes(adversary: str, size: float) -> None:
    x, y = small_data()
    seen: list[Update] = []
    recipe = replace(RECIPE, schedule="both", adversary=adversary)
    threat = ThreatModel(0.2, space="pixel") if adversary == "FGSM" else THREAT
    common = COMMON | {"recipe": recipe, "threat": threat}
    fit(small_model(), x, y, method="ADV", on_update=seen.append, **common)
    clean, adversarial = seen
    assert (clean.epoch, clean.batch, clean.examples) == (1, 1, "clean")
    assert (adversarial.epoch, adversarial.batch, adversarial.examples) == (1, 1, "adversarial")
    moved = (adversarial.images - clean.images).abs()
    if adversary == "FGSM":
        assert float(moved.max()) == pytest.approx(size, rel=1e-4)
    else:  # from a random start within 0.2, so much further, in units of 0.25 of a pixel
        torch.random.manual_seed(0)
        order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
        start = 0.2 * torch.empty_like(x).uniform_(-1, 1)
        step = (adversarial.images - x[order]) / 0.25 - start
        inside = ((adversarial.images - x[order]) / 0.25).abs() < 0.199
        assert float(step[inside].abs().max()) == pytest.approx(size, rel=1e-3)


def test_a_step_size_of_the_recipe_of_0_follows_eps() -> None:
    def weights(adversary: str) -> Tensor:
        model = small_model()
        recipe = replace(RECIPE, schedule="both", adversary=adversary)
        fit(model, *small_data(), method="ADV", recipe=recipe, **COMMON)
        return nn.utils.parameters_to_vector(model.parameters())

    following = weights("PGD(steps=4, step_size=0)")
    assert torch.equal(following, weights("PGD(steps=4, step_size=0.125)"))  # 2.5 x 0.2 / 4
    assert not torch.equal(following, weights("PGD(steps=4, step_size=0.05)"))


class Modes(nn.Module):
    """Notes the mode in which the network is used, and has something that mode changes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.normal, self.body, self.seen = nn.BatchNorm2d(1), body, []

    def forward(self, z: Tensor) -> Tensor:
        self.seen.append(self.training)
        return self.body(self.normal(z))


def test_a_look_at_the_model_after_an_epoch_leaves_the_training_as_it_is() -> None:
    def trained(watched: bool) -> tuple[Normalized, list[bool]]:
        model = small_model()
        model.body = modes = Modes(model.body)
        x, _ = small_data()

        def measure() -> dict[str, float]:
            model.eval()
            model(x)
            modes.seen.pop()
            return {"watched": 1.0}

        recipe = replace(RECIPE, epochs=3, batch_size=3)
        watch = measure if watched else dict
        fit(model, *small_data(), method="STD", measure=watch, recipe=recipe, **COMMON)
        return model, modes.seen

    (plain, modes), (watched, others) = trained(False), trained(True)
    assert modes == others == [True] * 9
    assert not watched.training and not plain.training  # ready for use
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_the_rate_is_halved_for_the_optimiser_too_and_not_in_the_history_alone() -> None:
    def moved(halve_every: int) -> Tensor:
        model, states = small_model(), []

        def keep(update: Update) -> None:
            states.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())

        recipe = replace(RECIPE, epochs=2, halve_every=halve_every)
        fit(model, *small_data(), method="STD", recipe=recipe, on_update=keep, **COMMON)
        return nn.utils.parameters_to_vector(model.parameters()) - states[1]

    torch.testing.assert_close(moved(1), moved(0) / 2, atol=1e-7, rtol=1e-3)


def test_a_history_row_says_what_the_epoch_was() -> None:
    model = small_model()
    recipe = replace(RECIPE, epochs=2, schedule="alternate", batch_size=4)
    history = fit(model, *small_data(), method="CSA+L2", recipe=recipe, **COMMON)
    assert history["examples"].tolist() == ["clean+adversarial"] * 2
    assert ((history["penalty"] > 0) & (history["loss"] > history["penalty"])).all()
    assert history["accuracy"].between(0, 1).all() and history["seconds"].between(1e-9, 60).all()


def test_a_history_row_is_of_all_images_of_the_epoch_however_they_are_batched() -> None:
    x, y = small_data()
    model = small_model()
    logits = model(x)
    expected = cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
    assert 0 < expected[1] < 1
    norm = sum((p**2).sum() for p in model.parameters()).sqrt().item()
    recipe = replace(RECIPE, epochs=2, batch_size=3, lr=1e-9)  # batches of 3, 3 and 2
    history = fit(model, x, y, method="CSA+L2", recipe=recipe, **COMMON | {"costs": COSTS * 0})
    row = history.iloc[0]  # the clean one
    assert (row["loss"] - norm, row["accuracy"]) == pytest.approx(expected, rel=1e-4)
    assert row["penalty"] == pytest.approx(norm, rel=1e-5)


def test_weights_that_are_not_finite_are_refused_where_the_loss_does_not_notice() -> None:
    model = small_model()
    model.body.unused = nn.Parameter(torch.tensor([torch.inf]))
    with pytest.raises(InputError, match=r"^training: loss \d\S* or weights not finite in epoch 1"):
        fit(model, *small_data(), method="STD", recipe=RECIPE, **COMMON)


def test_what_an_attack_inside_maximises_may_depend_on_the_clean_batch() -> None:
    seen = []
    method = Method(lambda batch: batch, (), adversarial=True, maximise=seen.append)
    model, (x, y) = small_model(), small_data()
    Trainer(model, method, RECIPE, THREAT).adversarial(Batch(model, x, y))
    (batch,) = seen
    assert batch.model is model and batch.x is x and batch.y is y and batch.adversarial is None


def test_the_classes_to_protect_reach_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, seen = METHODS["STD"], []
    make = entry.make

    def noted(task: Task) -> Method:
        seen.append(task.protected)
        assert task.costs.dtype == torch.float32  # the logits'
        return make(task)

    monkeypatch.setitem(vars(entry), "make", noted)
    fit(small_model(), *small_data(), method="STD", protected=[2, 3], recipe=RECIPE, **COMMON)
    assert seen == [(2, 3)]


def test_training_attacks_each_image_as_far_as_the_method_says() -> None:
    model, (x, y) = small_model(), small_data()
    recipe = replace(RECIPE, adversary="PGD(steps=20, step_size=0)")
    method = METHODS.parse("RADIUS(factor=1.5)")(Task(model, torch.tensor(COSTS), (1,)))
    threat = ThreatModel(0.01, space="pixel")
    found = Trainer(model, method, recipe, threat).adversarial(Batch(model, x, y))
    moved = (found - x).flatten(1).abs().amax(1)
    expected = torch.where(y == 1, 0.015, 0.01)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


def test_augmentation_changes_what_is_trained_on_by_the_seed_and_only_where_asked() -> None:
    model, (x, _) = small_model(), small_data(40)
    method = METHODS.parse("STD")(Task(model, torch.tensor(COSTS), (1,)))

    def changed(seed: int, augment: str = "flip") -> list[Tensor]:
        trainer = Trainer(model, method, replace(RECIPE, augment=augment), THREAT, seed)
        return [trainer.changed(x) for _ in range(2)]

    first, second = changed(3)
    mirrored = [bool(torch.equal(a, b.flip(2))) for a, b in zip(first, x, strict=True)]
    assert 5 < sum(mirrored) < 35 and not torch.equal(first, second)
    expected = torch.where(torch.tensor(mirrored).view(-1, 1, 1, 1), x.flip(3), x)
    assert torch.equal(first, expected)
    again, other = changed(3), changed(4)
    assert torch.equal(again[0], first) and torch.equal(again[1], second)
    assert not torch.equal(other[0], first)
    assert changed(3, "")[0] is x


def test_the_seed_of_a_training_is_that_of_its_augmentation_too() -> None:
    """All images in one batch, so that their order makes no difference."""
    x, y = small_data(40)

    def trained(seed: int, augment: str) -> Tensor:
        model = small_model()
        recipe = replace(RECIPE, batch_size=40, augment=augment)
        fit(model, x, y, method="STD", recipe=recipe, **COMMON | {"seed": seed})
        return model.body.conv1.weight.detach()

    torch.testing.assert_close(trained(3, ""), trained(4, ""), rtol=1e-4, atol=1e-6)
    assert torch.equal(trained(3, "flip"), trained(3, "flip"))
    assert (trained(3, "flip") - trained(4, "flip")).abs().max() > 1e-5
