"""The notebooks on the paper's equations, Theorem 1, Table I and Fig. 1 at other settings."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from in_kernels import NOTEBOOKS, execute, parameters_cell

import csnb
from csnb.paths import PARAMS, RESULTS

FILES = {
    "equation_checks_c1": "equation_checks",
    "fig1_framework_mnist": "fig1_framework",
    "table1": "table1_normalization",
    "theorem1_minmax_784": "theorem1_minmax",
}


def test_equations_hold_where_mistakes_cost_the_same(tmp_path: Path) -> None:
    given = {"cost": 1.0, "protected_class": 0, "label": 0, "eps": 0.5, "gamma": 0.5}
    said = execute("equation_checks", tmp_path, **given)
    assert "1 + f_y: 1.1250" in said  # f_0 = 1/8
    assert "cross-entropy 2.079442 2.079442" in said  # ln 8


def test_equation_checks_shows_the_source_of_the_equations(tmp_path: Path) -> None:
    said = execute("equation_checks", tmp_path)
    for name in ("def protect(", "def expected_cost(", "def fuzziness(", "def cse("):
        assert name in said
    assert "expected cost 2.625000 2.625000" in said  # 10 * 2/8 + 1 * 1/8


def test_theorem_1_with_few_classes_and_a_larger_p1(tmp_path: Path) -> None:
    few = {"classes": 3, "inputs": 4, "p1": 0.05, "draws": 1000, "repeats": 1, "seed": 1}
    said = execute("theorem1_minmax", tmp_path, **few)
    assert "3 classes, 4 inputs, p1 = 0.05, 1000 draws" in said
    assert "p1 (1 - p1) = 1/12 at p1 = 0.0918" in said and "No reading" in said


def test_table_1_measures_a_data_set_that_it_does_not_print(tmp_path: Path) -> None:
    given = {"datasets": "digits", "save": "digits.csv"}
    said = execute("table1_normalization", tmp_path, cwd=tmp_path, **given)
    assert "No reading" in said
    table = pd.read_csv(tmp_path / "digits.csv").query("images == 'training'")
    table = table.set_index("statistic")["value"]
    x = csnb.load_dataset("digits").x_train.double()
    assert table["mean"] == pytest.approx(x.mean().item())
    assert table["pixels"] == pytest.approx(x.std(correction=0).item())


def test_fig_1_of_another_method_and_schedule(tmp_path: Path) -> None:
    given = {"method": "CSA", "schedule": "alternate", "epochs": 3, "batches": 2}
    said = execute("fig1_framework", tmp_path, **given)
    assert "CSA, alternate: clean in 3 of 6 updates, adversarial in 3 of 6 updates" in said
    assert "def csa(" in said and "penalised: none" in said


def test_the_committed_table_1_is_what_the_notebook_says_of_it() -> None:
    table = pd.read_csv(RESULTS.parent / "table1.csv")
    training = table[(table["images"] == "training") & table["published"].notna()]
    matched = training[training["match"] != "no"]
    assert matched.groupby("dataset")["statistic"].unique().map(set).to_dict() == {
        "mnist": {"mean", "pixels"},
        "cifar10": {"mean", "within, n - 1"},
        "cifar100": {"mean", "pixels"},
    }
    assert (matched["value"] - matched["published"]).abs().max() < 1e-4
    assert table["commit"].str.fullmatch("[0-9a-f]{12}").all()


@pytest.mark.parametrize(("params", "notebook"), FILES.items())
def test_params_files_are_flat_and_name_only_parameters_of_their_notebook(
    params: str, notebook: str
) -> None:
    text = (PARAMS / "notebooks" / f"{params}.yaml").read_text()
    parameters = yaml.safe_load(text)
    assert text.startswith("# ")
    assert all(type(value) in (int, float, str, bool) for value in parameters.values())
    lines = parameters_cell(NOTEBOOKS / f"{notebook}.ipynb").splitlines()
    assert set(parameters) <= {line.split(":")[0] for line in lines}


def trained(method: str, schedule: str) -> list:
    """The updates of a training of 2 epochs of 3 batches."""
    data, updates = csnb.load_dataset("digits"), []
    given = {"epochs": 2, "batch_size": 4, "adversary": "PGD(steps=1)"}
    experiment = csnb.Experiment(method=method, schedule=schedule, **given)
    made = {"recipe": experiment.recipe(), "threat": experiment.threat(), "seed": 0}
    made |= {"protected": (0,)}
    model, costs = csnb.build_model("lenet", data), csnb.protect(10, 0)
    x, y = data.x_train[:12], data.y_train[:12]
    csnb.fit(model, x, y, method=method, costs=costs, on_update=updates.append, **made)
    return updates


@pytest.mark.parametrize("method", csnb.METHODS)
@pytest.mark.parametrize("schedule", ["halves", "both", "alternate"])
def test_the_loop_makes_the_updates_that_the_figure_draws(method: str, schedule: str) -> None:
    updates = trained(method, schedule)
    known = {image.numpy().tobytes() for image in csnb.load_dataset("digits").x_train[:12]}
    seen = [{image.numpy().tobytes() for image in update.images} for update in updates]
    kinds = ["clean" if images <= known else "adversarial" for images in seen]
    assert kinds == [update.examples for update in updates]
    recipe = csnb.Recipe(epochs=2, schedule=schedule)
    adversarial = method not in ("STD", "CSE", "IBP", "CROWN-IBP")
    places = [(epoch, batch) for epoch in (0, 1) for batch in (0, 1, 2)]
    told = [(e + 1, b + 1, k) for e, b in places for k in recipe.stages(adversarial, e, b)]
    assert [(u.epoch, u.batch, u.examples) for u in updates] == told


def test_adversarial_examples_are_made_before_the_clean_update_as_in_algorithm_1() -> None:
    clean, adversarial, *_ = trained("CSA", "both")
    assert (clean.examples, adversarial.examples) == ("clean", "adversarial")
    data = csnb.load_dataset("digits")
    labels = {
        image.numpy().tobytes(): y for image, y in zip(data.x_train, data.y_train, strict=True)
    }
    y = torch.stack([labels[image.numpy().tobytes()] for image in clean.images])
    untrained = csnb.build_model("lenet", data)
    costs = torch.as_tensor(csnb.protect(10, 0), dtype=torch.float32)
    method = csnb.METHODS.parse("CSA")(csnb.methods.Task(untrained, costs, (0,)))
    loss = method.maximise(csnb.methods.Batch(untrained, clean.images, y))
    attack = "PGD(steps=1, step_size=0)"
    made = csnb.perturb(
        untrained, clean.images, y, attack, csnb.ThreatModel(0.3), loss=loss, seed=0
    )
    assert torch.equal(made, adversarial.images)


def test_with_all_costs_one_eq_4_has_the_slope_of_cross_entropy_times_one_plus_f_y() -> None:
    given = [[0.3, -1.0, 2.0], [1.0, 1.5, -0.5]]
    logits = torch.tensor(given, dtype=torch.float64, requires_grad=True)
    labels, ones = torch.tensor([2, 0]), 1 - torch.eye(3, dtype=torch.float64)
    losses = [csnb.losses.example_loss(logits, labels, costs) for costs in (ones, None)]
    slope, plain = (torch.autograd.grad(loss, logits)[0] for loss in losses)
    f = logits.detach().softmax(1)[[0, 1], labels]
    torch.testing.assert_close(slope, (1 + f)[:, None] * plain)
