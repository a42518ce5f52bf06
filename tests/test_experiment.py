"""Parameters are refused before work with one line; a run is complete, repeatable, and leaves nothing when it cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csnb import ATTACKS, METHODS, Experiment, InputError, Run, ThreatModel, find_or_run, read_run, run
from csnb.experiment import load_model
from csnb.runs import read_weights

QUICK = {"epochs": 1, "attack_images": "all", "attacks": "FGSM,LinfBIA", "linfbia_steps": 2, "train_steps": 2}


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("eps", -0.1),
        ("eps", float("nan")),
        ("eps", float("inf")),
        ("eps", "large"),
        ("eps", "8/0"),
        ("eps", True),
        ("eps", None),
        ("eps", [0.3]),
        ("epochs", 0),
        ("epochs", 2.5),
        ("batch_size", -1),
        ("lr", 0),
        ("momentum", 1.0),
        ("cost", -1),
        ("gamma", "1e-3x"),
        ("method", "CSB"),
        ("model", "vgg"),
        ("schedule", "thirds"),
        ("norm", "l1"),
        ("space", "pixels"),
        ("bounded", "perhaps"),
        ("optimizer", "rmsprop"),
        ("attacks", "FGSM,DeepFool"),
        ("attacks", "FGSM,FGSM"),
        ("attack_images", "some"),
        ("protected_class", 1.5),
        ("protected_class", True),
        ("seed", -1),
        ("device", "tpu"),
        ("dataset", 3),
        ("pgd_steps", 0),
    ],
)
def test_impossible_value_is_refused_in_one_line_with_name_value_and_what_is_allowed(parameter: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        Experiment(**{parameter: value})
    message = str(caught.value)
    assert message.startswith(f"{parameter}: ") and repr(value) in message and "allowed: " in message
    assert "\n" not in message


def test_unknown_parameter_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(InputError, match=r"^protected_clas: no such parameter \(value 3\); did you mean protected_class\?$"):
        Experiment(protected_clas=3)
    with pytest.raises(InputError, match=r"^zzz: no such parameter .*allowed: dataset, "):
        Experiment(zzz=1)


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 1e-3), ("8/255", 8 / 255), ("2", 2.0), (" 0.5 ", 0.5), ("1E2", 100.0), ("1/3", 1 / 3)]
)
def test_numbers_may_be_strings_as_yaml_and_the_shell_pass_them(text: str, number: float) -> None:
    assert Experiment(gamma=text).gamma == pytest.approx(number, rel=1e-15)


def test_counts_may_be_strings() -> None:
    assert Experiment(epochs="7").epochs == 7


@given(st.floats(0, 1e6, allow_nan=False))
def test_a_number_and_its_text_name_the_same_run(value: float) -> None:
    assert Experiment(gamma=value).run_id == Experiment(gamma=repr(value)).run_id


def test_run_id_depends_on_what_shapes_the_result_and_on_nothing_else() -> None:
    first = Experiment(method="CSE+ADV", protected_class=3)
    assert first.run_id == Experiment(method="CSE+ADV", protected_class="3", runs="elsewhere", data_root="there").run_id
    assert first.run_id.startswith("digits-CSE+ADV-p3-s0-")
    changes = [{"seed": 1}, {"eps": 0.31}, {"cw_steps": 7}, {"gamma": 2}, {"bounded": True}, {"init_from": "runs/x"}]
    assert len({Experiment(method="CSE+ADV", protected_class=3, **change).run_id for change in [{}, *changes]}) == 7


def test_names_cannot_leave_the_runs_folder() -> None:
    assert "/" not in Experiment(protected_class="../../x", dataset="a b/c.npz").run_id


def test_namespace_gives_parameters_and_refuses_what_is_none() -> None:
    namespace = {"__name__": "x", "_private": 1, "In": [], "Out": {}, "json": json, "epochs": 3, "Path": Path}
    assert Experiment.from_namespace(namespace).epochs == 3
    with pytest.raises(InputError, match=r"^epoch: no such parameter"):
        Experiment.from_namespace(namespace | {"epoch": 3})


def test_every_option_of_every_attack_is_a_parameter_with_its_default() -> None:
    assert Experiment().attack_options(",".join(ATTACKS)) == ATTACKS
    assert Experiment().attack_options(Experiment(attacks=" MIA , FGSM").attacks) == {"MIA": ATTACKS["MIA"], "FGSM": {}}
    assert Experiment(pgd_steps=7).attack_options("PGD")["PGD"]["steps"] == 7


def test_threat_model_and_recipe_carry_the_parameters() -> None:
    experiment = Experiment(eps=0.1, norm="l2", space="pixel", bounded=True, lr=0.5, schedule="both")
    assert experiment.threat() == ThreatModel(0.1, "l2", "pixel", True)
    assert (experiment.recipe().lr, experiment.recipe().schedule) == (0.5, "both")


def small_npz(folder: Path, size: int = 12, classes: int = 3) -> str:
    """Images whose class shows as the brightest of ``classes`` stripes."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 120), ("test", 30)):
        y = np.arange(count) % classes
        x = rng.uniform(0, 0.4, (count, size, size)).astype(np.float32)
        for i, label in enumerate(y):
            x[i, label * size // classes : (label + 1) * size // classes] += 0.5
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    np.savez(folder / "stripes.npz", **arrays, classes=np.array(["top", "middle", "bottom"]))
    return str(folder / "stripes.npz")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_leaves_a_complete_folder(method: str, tmp_path: Path) -> None:
    parameters = QUICK | {"dataset": small_npz(tmp_path), "method": method, "protected_class": "middle", "epochs": 2}
    done = run(Experiment(**parameters, runs=str(tmp_path / "runs")))
    result = read_run(done.folder)
    assert result["parameters"] == done.experiment.model_dump(exclude={"data_root", "runs", "device", "threads"})
    assert {row["attack"] for row in result["scores"]} == {"clean", "FGSM", "LinfBIA"}
    assert len(done.history) == 2 and result["provenance"]["versions"]["advertorch"] == "0.2.3"
    with np.load(done.folder / "predictions.npz") as kept:
        assert kept["FGSM"].dtype == np.uint8 and len(kept["FGSM"]) == len(kept["labels"]) == 30
    lines = [json.loads(line) for line in (done.folder / "progress.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["train"] * 2 + ["evaluate"] * 3


def test_same_parameters_give_bit_equal_weights_and_scores(tmp_path: Path) -> None:
    first, second = (run(Experiment(**QUICK, runs=str(tmp_path / name))) for name in ("a", "b"))
    assert first.folder != second.folder
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    assert read_run(first.folder)["scores"] == read_run(second.folder)["scores"]
    assert first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))


def test_only_the_protected_class_is_attacked_where_asked(tmp_path: Path) -> None:
    done = run(Experiment(**QUICK | {"attack_images": "protected", "protected_class": 4}, runs=str(tmp_path)))
    attacked = done.scores[(done.scores["attack"] == "FGSM") & (done.scores["measure"] == "accuracy")]
    assert attacked["class"].tolist() == ["4"]
    assert attacked["total"].item() == int((done.data.y_test == 4).sum())


def test_training_goes_on_from_another_runs_weights(tmp_path: Path) -> None:
    start = run(Experiment(**QUICK | {"method": "STD", "attacks": "FGSM"}, runs=str(tmp_path)))
    again = Run(Experiment(**QUICK | {"method": "CSE"}, init_from=str(start.folder), runs=str(tmp_path)))
    for name, value in start.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_costs_come_from_a_file_where_one_is_named(tmp_path: Path) -> None:
    names = [str(i) for i in range(10)]
    table = "\n".join(",".join([name, *("0" if name == other else "3" for other in names)]) for name in names)
    (tmp_path / "costs.csv").write_text(",".join(["", *names]) + "\n" + table)
    made = Run(Experiment(cost_matrix=str(tmp_path / "costs.csv"), runs=str(tmp_path / "runs")))
    np.testing.assert_array_equal(made.costs, 3 * (1 - np.eye(10)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"protected_class": 10}, r"^protected_class: 10 is not a class of digits; allowed: 0 to 9 or 0, 1"),
        ({"protected_class": "cat"}, r"^protected_class: 'cat' is not a class of digits"),
        ({"protected_class": -1}, r"^protected_class: -1 is not a class of digits"),
        ({"dataset": "imagenet"}, r"^dataset: 'imagenet' is unknown"),
        ({"dataset": "nothing.npz"}, r"^dataset: no file nothing.npz"),
        ({"model": "resnet18"}, r"^model: resnet18 needs images of 32 pixels a side or more; digits has 1x28x28"),
        ({"init_from": "nowhere"}, r"^init_from: nowhere/model.safetensors does not hold this model's weights"),
        ({"cost_matrix": "nowhere.csv"}, r"^cost_matrix: nowhere.csv is not a readable CSV"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_and_leaves_no_folder(
    parameters: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        Run(Experiment(**parameters, runs=str(tmp_path / "runs")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    other = run(Experiment(**QUICK | {"attacks": "FGSM", "lenet_kernels": 5}, runs=str(tmp_path)))
    with pytest.raises(InputError, match=r"^init_from: .*size mismatch") as caught:
        Run(Experiment(**QUICK, init_from=str(other.folder), runs=str(tmp_path / "runs")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_while_training_has_no_result(tmp_path: Path) -> None:
    experiment = Experiment(**QUICK | {"lr": 1e9, "epochs": 5}, runs=str(tmp_path))
    with pytest.raises(InputError, match=r"^lr: "):
        run(experiment)
    assert not (tmp_path / experiment.run_id / "result.json").exists()


def test_running_again_takes_the_old_result_away_first(tmp_path: Path) -> None:
    experiment = Experiment(**QUICK, runs=str(tmp_path))
    finished = run(experiment)
    Run(experiment)
    assert not (finished.folder / "result.json").exists()


def test_watching_an_attack_records_each_epoch_and_changes_nothing_of_the_training(tmp_path: Path) -> None:
    alone = run(Experiment(**QUICK | {"epochs": 2, "attacks": "LinfBIA"}, runs=str(tmp_path)))
    watched = run(
        Experiment(**QUICK | {"epochs": 2, "attacks": "LinfBIA"}, monitor="LinfBIA", monitor_images=999, runs=str(tmp_path))
    )
    for name, value in read_weights(alone.folder).items():
        np.testing.assert_array_equal(value, read_weights(watched.folder)[name])
    last, average = watched.history.iloc[-1], watched.scores[watched.scores["measure"] == "average"].set_index("attack")
    correct = average["correct"] / average["total"]  # all test images are fewer than 999
    assert last["test_accuracy"] == correct["clean"] and last["robust_accuracy"] == correct["LinfBIA"]
    assert "robust_accuracy" not in alone.history and len(watched.history) == 2


def test_a_run_is_found_where_it_is_complete_and_made_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment(**QUICK, runs=str(tmp_path / "runs"))
    folder = find_or_run(experiment)
    assert folder == tmp_path / "runs" / experiment.run_id and capsys.readouterr().out == f"ran {experiment.run_id}\n"
    made = (folder / "result.json").stat().st_mtime_ns
    assert find_or_run(experiment) == folder and (folder / "result.json").stat().st_mtime_ns == made
    assert capsys.readouterr().out.startswith(f"read {experiment.run_id} (commit ")

    monkeypatch.setattr("csnb.experiment.RESULTS", tmp_path / "runs")  # committed with csnb
    elsewhere = Experiment(**QUICK, runs=str(tmp_path / "elsewhere"), threads=1)
    assert find_or_run(elsewhere) == folder and not (tmp_path / "elsewhere").exists()

    (folder / "history.csv").write_text("")
    assert find_or_run(elsewhere) == tmp_path / "elsewhere" / experiment.run_id


def test_a_runs_folder_depends_on_what_shapes_the_result_alone() -> None:
    plain = Experiment()
    assert plain.run_id == Experiment(seed=0, eps="3/10", threads=2, runs="elsewhere", device="cpu").run_id
    assert len({plain.run_id, Experiment(seed=1).run_id, Experiment(eps=0.31).run_id, Experiment(monitor="PGD").run_id}) == 4


def test_a_run_s_model_loads_as_it_was(tmp_path: Path) -> None:
    done = run(Experiment(runs=str(tmp_path), **QUICK))
    model = load_model(done.folder, done.data)
    assert not model.training
    assert torch.equal(model(done.data.x_test), done.model(done.data.x_test))
