"""The notebooks on the paper's equations, Theorem 1, Table I and Fig. 1, executed at settings other than the committed ones."""

from pathlib import Path
from unittest import mock

import pandas as pd
import papermill
import pytest
import torch
import yaml
from test_notebooks import ROOT, parameters_cell

import csnb
from csnb.training import METHODS, Trainer, stages

PARAMS = {
    "equation_checks_c1": "equation_checks",
    "fig1_framework_mnist": "fig1_framework",
    "table1": "table1_normalization",
    "theorem1_minmax_784": "theorem1_minmax",
}


def execute(name: str, tmp_path: Path, **parameters: object) -> str:
    """Everything that the notebook printed."""
    notebook = papermill.execute_notebook(
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        str(tmp_path / "out.ipynb"),
        parameters,
        progress_bar=False,
        cwd=str(tmp_path),
    )
    return "\n".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


def test_equations_hold_where_mistakes_cost_the_same(tmp_path: Path) -> None:
    printed = execute("equation_checks", tmp_path, cost=1.0, protected_class=0, label=0, eps=0.5, gamma=0.5)
    assert "1 + f_y: 1.1250" in printed  # f_0 = 1/8
    assert "cross-entropy  2.079442  2.079442" in printed  # ln 8


def test_theorem_1_with_few_classes_and_a_larger_p1(tmp_path: Path) -> None:
    printed = execute("theorem1_minmax", tmp_path, classes=3, inputs=4, p1=0.05, draws=1000, repeats=1, seed=1)
    assert "3 classes, 4 inputs, p1 = 0.05, 1000 draws" in printed
    assert "p1 (1 - p1) = 1/12 at p1 = 0.0918" in printed


def test_table_1_measures_a_data_set_that_it_does_not_print(tmp_path: Path) -> None:
    printed = execute("table1_normalization", tmp_path, datasets="digits", save="digits.csv")
    assert "no data set of Table I was measured" in printed
    table = pd.read_csv(tmp_path / "digits.csv").query("images == 'training'").set_index("statistic")["value"]
    x = csnb.load_dataset("digits").x_train.double()
    assert table["mean"] == pytest.approx(x.mean().item()) and table["pixels"] == pytest.approx(x.std(correction=0).item())


def test_fig_1_of_another_method_and_schedule(tmp_path: Path) -> None:
    printed = execute("fig1_framework", tmp_path, method="CSA", schedule="alternate", epochs=3, batches=2)
    assert "CSA under alternate: {'clean': '3 of 6 updates', 'adversarial': '3 of 6 updates'}" in printed


def test_the_committed_table_1_is_what_the_notebook_says_of_it() -> None:
    table = pd.read_csv(ROOT / "results" / "table1.csv")
    training = table[(table["images"] == "training") & table["published"].notna()]
    matched = training[training["match"] != "no"].groupby("dataset")["statistic"].unique().map(set).to_dict()
    assert matched == {
        "mnist": {"mean", "pixels"},
        "cifar10": {"mean", "within, n - 1"},
        "cifar100": {"mean", "pixels"},
    }
    assert (training["value"] - training["published"]).abs()[training["match"] != "no"].max() < 1e-4
    assert table["commit"].str.fullmatch("[0-9a-f]{12}").all()


@pytest.mark.parametrize(("params", "notebook"), PARAMS.items())
def test_params_files_are_flat_and_name_only_parameters_of_their_notebook(params: str, notebook: str) -> None:
    text = (ROOT / "params" / "notebooks" / f"{params}.yaml").read_text()
    parameters = yaml.safe_load(text)
    assert text.startswith("# ")
    assert all(type(value) in (int, float, str, bool) for value in parameters.values())
    lines = parameters_cell(ROOT / "notebooks" / f"{notebook}.ipynb").splitlines()
    assert set(parameters) <= {line.split(":")[0] for line in lines}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", ["halves", "both", "alternate"])
def test_the_loop_makes_the_updates_that_the_figure_draws(method: str, schedule: str) -> None:
    data = csnb.load_dataset("digits")
    x, y = data.x_train[:12], data.y_train[:12]
    experiment = csnb.Experiment(method=method, schedule=schedule, epochs=2, batch_size=4, train_steps=1)
    model, costs = csnb.build_model("lenet", data), csnb.protect(10, 0)
    known = {image.numpy().tobytes() for image in x}
    with mock.patch.object(Trainer, "update", autospec=True, side_effect=Trainer.update) as update:
        csnb.fit(model, x, y, method=method, costs=costs, recipe=experiment.recipe(), threat=experiment.threat(), seed=0)
    kinds = ["clean" if {i.numpy().tobytes() for i in call.args[1]} <= known else "adversarial" for call in update.mock_calls]
    recipe = experiment.recipe()
    assert kinds == [kind for epoch in (0, 1) for batch in (0, 1, 2) for kind in stages(METHODS[method], recipe, epoch, batch)]


def test_adversarial_examples_are_made_before_the_clean_update_as_in_algorithm_1() -> None:
    data, order = csnb.load_dataset("digits"), mock.Mock()
    experiment = csnb.Experiment(method="CSA", schedule="both", epochs=1, train_steps=1)
    model, recipe, threat = csnb.build_model("lenet", data), experiment.recipe(), experiment.threat()
    with (
        mock.patch.object(Trainer, "adversarial", autospec=True, side_effect=Trainer.adversarial) as attack,
        mock.patch.object(Trainer, "update", autospec=True, side_effect=Trainer.update) as update,
    ):
        order.attach_mock(attack, "attack")
        order.attach_mock(update, "update")
        csnb.fit(
            model,
            data.x_train[:4],
            data.y_train[:4],
            method="CSA",
            costs=csnb.protect(10, 0),
            recipe=recipe,
            threat=threat,
            seed=0,
        )
    assert [call[0] for call in order.mock_calls] == ["attack", "update", "update"]


def test_with_all_costs_one_eq_4_has_the_slope_of_cross_entropy_times_one_plus_f_y() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 1.5, -0.5]], dtype=torch.float64, requires_grad=True)
    labels, ones = torch.tensor([2, 0]), 1 - torch.eye(3, dtype=torch.float64)
    losses = [csnb.losses.example_loss(logits, labels, costs, "sum") for costs in (ones, None)]
    slope, plain = (torch.autograd.grad(loss, logits)[0] for loss in losses)
    f = logits.detach().softmax(1)[[0, 1], labels]
    torch.testing.assert_close(slope, (1 + f)[:, None] * plain)
