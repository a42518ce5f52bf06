"""A run is complete, repeatable, and leaves nothing when it cannot be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from making import QUICK, STRIPES, costs_csv, stripes
from safetensors.torch import save_file

import csnb
from csnb import (
    METHODS,
    Experiment,
    InputError,
    Run,
    find_or_run,
    load_model,
    protect,
    read_run,
    run,
    worst_margins,
)
from csnb.evaluation import evaluate
from csnb.runs import inspect, read_weights
from csnb.runs.provenance import provenance


def quick(folder: Path, **changes: Any) -> Experiment:
    """A short run; its folder goes to ``folder``."""
    return Experiment(**{"runs": str(folder)} | QUICK | changes)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_leaves_a_complete_folder(
    method: str, data: str, tmp_path: Path
) -> None:
    parameters = {"dataset": data, "method": method, "protected_class": "middle", "epochs": 2}
    done = run(quick(tmp_path / "runs", **parameters))
    result = read_run(done.folder)
    expected = done.experiment.model_dump(exclude={"data_root", "runs", "device", "threads"})
    assert result["parameters"] == expected | {"dataset": "stripes.npz"}
    attacks = ["FGSM", "LinfBIA(steps=2)"]
    assert {row["attack"] for row in result["scores"]} == {"clean", *attacks}
    assert list(result["seconds"]) == ["train", "clean", *attacks]
    assert len(done.history) == 2 and result["provenance"]["versions"]["advertorch"] == "0.2.3"
    with np.load(done.folder / "predictions.npz") as kept:
        assert kept["FGSM"].dtype == np.uint8 and len(kept["FGSM"]) == len(kept["labels"]) == 30
        assert list(kept) == ["labels", "attacked", "clean", *attacks]
    lines = (done.folder / "progress.jsonl").read_text().splitlines()
    stages = [json.loads(line)["stage"] for line in lines]
    assert stages == ["train"] * 2 + ["evaluate"] * 3


def test_a_run_says_what_made_it(data: str, tmp_path: Path) -> None:
    made = read_run(run(quick(tmp_path, dataset=data)).folder)["provenance"]
    assert made["versions"]["numpy"] == np.__version__
    plain = torch.__version__.split("+")[0]  # "+cpu" is not always there
    assert made["versions"]["torch"].split("+")[0] == plain
    assert made["device"] == "cpu" and made["threads"] == torch.get_num_threads()
    assert isinstance(made["commit"], str) and "sources" not in made


def test_a_package_without_metadata_has_an_unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("numpy", "vendored-and-never-installed")
    monkeypatch.setitem(provenance.__globals__, "PACKAGES", packages)
    versions = provenance(torch.device("cpu"))["versions"]
    assert versions["numpy"] == np.__version__ and versions[packages[1]] == "unknown"


def test_same_parameters_give_bit_equal_weights_and_scores(data: str, tmp_path: Path) -> None:
    first, second = (run(quick(tmp_path / name, dataset=data)) for name in ("a", "b"))
    assert first.folder != second.folder and first.folder.name == second.folder.name
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    assert read_run(first.folder)["scores"] == read_run(second.folder)["scores"]
    histories = (made.history.drop(columns="seconds") for made in (first, second))
    assert next(histories).equals(next(histories))


def test_only_the_protected_class_is_attacked_where_asked(data: str, tmp_path: Path) -> None:
    asked = {"dataset": data, "attack_images": "protected", "protected_class": "bottom"}
    done = run(quick(tmp_path, **asked))
    scores = done.scores.query("attack == 'FGSM' and measure == 'accuracy'")
    assert scores["class"].tolist() == ["bottom"]
    assert scores["total"].item() == int((done.data.y_test == 2).sum())


def test_training_goes_on_from_another_runs_weights(data: str, tmp_path: Path) -> None:
    start = run(quick(tmp_path, dataset=data, method="STD", attacks="FGSM"))
    again = Run(quick(tmp_path, dataset=data, method="CSE", init_from=str(start.folder)))
    for name, value in start.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_costs_come_from_a_file_where_one_is_named(data: str, tmp_path: Path) -> None:
    file = costs_csv(tmp_path / "costs.csv")
    made = Run(quick(tmp_path / "runs", dataset=data, cost_matrix=file))
    np.testing.assert_array_equal(made.costs, 3 * (1 - np.eye(3)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"protected_class": 10},
            r"^protected_class: 10 is not a class of digits; allowed: 0 to 9",
        ),
        ({"protected_class": "cat"}, r"^protected_class: 'cat' is not a class of digits"),
        ({"protected_class": -1}, r"^protected_class: -1 is not a class of digits"),
        ({"dataset": "imagenet"}, r"^dataset: 'imagenet' is unknown"),
        ({"dataset": "nothing.npz"}, r"^dataset: no file nothing.npz"),
        (
            {"model": "resnet18"},
            r"^model: resnet18 needs images of 32 pixels a side or more; these have 1x28x28",
        ),
        ({"init_from": "nowhere"}, r"^init_from: .*nowhere/model.safetensors cannot be read"),
        ({"cost_matrix": "nowhere.csv"}, r"^cost_matrix: nowhere.csv is not a readable CSV"),
        ({"attacks": "mine.py:Attack"}, r"^attacks: mine.py: cannot be read"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_and_leaves_no_folder(
    parameters: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        Run(Experiment(**parameters, runs=str(tmp_path / "runs")))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_first_weights_that_are_not_finite_are_refused(
    value: float, data: str, tmp_path: Path
) -> None:
    weights = Run(quick(tmp_path / "runs", dataset=data)).model.state_dict()
    weights["body.fc3.bias"][1] = value
    (tmp_path / "first").mkdir()
    save_file(weights, tmp_path / "first" / "model.safetensors")
    begun = quick(tmp_path / "runs", dataset=data, init_from=str(tmp_path / "first"))
    with pytest.raises(InputError, match=r"^init_from: .*first holds weights that are not finite"):
        Run(begun)
    assert not (tmp_path / "runs").exists()


def test_weights_of_another_shape_are_refused(data: str, tmp_path: Path) -> None:
    other = run(quick(tmp_path, dataset=data, attacks="FGSM", model="lenet(kernels=5)"))
    with pytest.raises(InputError, match=r"^init_from: .*size mismatch") as caught:
        Run(quick(tmp_path / "runs", dataset=data, init_from=str(other.folder)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_while_training_has_no_result(data: str, tmp_path: Path) -> None:
    experiment = quick(tmp_path / "runs", dataset=data, lr=1e9, epochs=5)
    with pytest.raises(InputError, match=r"^training: loss "):
        run(experiment)
    assert not [p for p in (tmp_path / "runs").iterdir() if p.name != ".locks"]


def broken_off(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was trained and no more; from here on nothing can be trained."""
    made = Run(experiment)
    made.train()
    made._end()  # as when its process ends
    monkeypatch.setattr("csnb.runner.fit", lambda *_, **__: pytest.fail("trained again"))
    return made


@pytest.mark.parametrize("changes", [{}, {"offset": "cost", "monitor": "FGSM"}])
def test_a_training_outlives_its_run(
    changes: dict, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"dataset": data, "epochs": 2, **changes}
    whole = run(quick(tmp_path / "whole", **asked))
    first = broken_off(quick(tmp_path / "runs", **asked), monkeypatch)
    assert inspect(first.folder).state == "interrupted"
    again = run(quick(tmp_path / "runs", **asked))
    pd.testing.assert_frame_equal(again.history, first.history, check_exact=True)
    assert again.seconds["train"] == first.seconds["train"] and not again.model.training
    result, expected = (read_run(made.folder) for made in (again, whole))
    for part in ("scores", "offset", "digests"):
        assert result.get(part) == expected.get(part)
    weights = "model.safetensors"
    assert result["sha256"][weights] == expected["sha256"][weights]
    files = {file.name for file in whole.folder.iterdir()}
    assert {file.name for file in again.folder.iterdir()} == files
    assert not list((tmp_path / "runs").glob(".*.new"))


@pytest.mark.parametrize("file", ["model.safetensors", "training.json"])
@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_training_that_is_not_whole_is_made_again(
    file: str, damage: bytes | None, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = quick(tmp_path / "runs", dataset=data)
    with monkeypatch.context() as patch:
        made = broken_off(experiment, patch)
    left = made.folder.with_name(f".{made.folder.name}.new") / file
    left.unlink() if damage is None else left.write_bytes(damage)
    again = run(experiment)
    assert read_run(again.folder) and torch.equal(
        again.model(made.data.x_test), made.model(made.data.x_test)
    )


@pytest.mark.parametrize("part", ["commit", "machine", "threads", "versions"])
def test_a_training_by_other_code_or_another_machine_is_made_again(
    part: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = quick(tmp_path / "runs", dataset=data)
    broken_off(experiment, monkeypatch)
    others = csnb.runs.provenance(torch.device("cpu")) | {part: "another"}
    monkeypatch.setattr("csnb.runner.provenance", lambda device: dict(others))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run(experiment)


def test_a_second_training_of_a_run_is_one(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Run(quick(tmp_path / "runs", dataset=data))
    made.train()
    monkeypatch.setattr("csnb.runner.fit", lambda *_, **__: pytest.fail("trained again"))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        made.train()


def test_nothing_is_evaluated_or_written_before_it_is_trained(data: str, tmp_path: Path) -> None:
    made = Run(quick(tmp_path / "runs", dataset=data))
    with pytest.raises(InputError, match=r"^run: not trained; allowed: train\(\) before evaluate"):
        made.evaluate()
    with pytest.raises(InputError, match=r"^run: not evaluated; allowed: train\(\) and evaluate"):
        made.write()
    made.train()
    with pytest.raises(InputError, match=r"^run: not evaluated"):
        made.write()


def test_a_network_that_training_did_not_leave_is_not_written_as_the_runs(
    data: str, tmp_path: Path
) -> None:
    made = Run(quick(tmp_path / "runs", dataset=data))
    made.train()
    trained = made.model
    for step in (made.evaluate, made.write):
        made.model = csnb.build_model("lenet(kernels=7)", made.data)
        with pytest.raises(InputError, match=r"^(model: not the network that|run: not evaluated)"):
            step()
        made.model = trained
    made.evaluate()
    bias = made.model.body.fc3.bias.data
    bias += 1
    with pytest.raises(InputError, match=r"^model: not the network that train\(\) left; allowed: "):
        made.write()
    bias -= 1
    assert not made.folder.exists()


def test_a_runs_threads_are_not_those_of_later_runs(data: str, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen = []
    try:
        torch.set_num_threads(3)
        for threads in (1, 2, 0, 0):
            Run(quick(tmp_path, dataset=data, threads=threads))
            seen.append(torch.get_num_threads())
        torch.set_num_threads(2)
        Run(quick(tmp_path, dataset=data, threads=0))
        seen.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 3, 3, 2]


def test_watching_an_attack_records_each_epoch_and_changes_nothing_of_the_training(
    data: str, tmp_path: Path
) -> None:
    asked = {"dataset": data, "epochs": 2, "attacks": "LinfBIA"}
    alone = run(quick(tmp_path, **asked))
    watched = run(quick(tmp_path, **asked, monitor="LinfBIA", monitor_images=999))
    for name, value in read_weights(alone.folder).items():
        np.testing.assert_array_equal(value, read_weights(watched.folder)[name])
    average = watched.scores.query("measure == 'average'").set_index("attack")
    correct = average["correct"] / average["total"]  # all test images are fewer than 999
    last = watched.history.iloc[-1]
    assert last["test_accuracy"] == correct["clean"]
    assert last["robust_accuracy"] == correct["LinfBIA"]
    assert "robust_accuracy" not in alone.history and len(watched.history) == 2


def test_a_run_is_found_where_it_is_complete_and_made_where_it_is_not(
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment = quick(tmp_path / "runs", dataset=data)
    run_id = experiment.identity().run_id
    folder = find_or_run(experiment)
    assert folder == tmp_path / "runs" / run_id and capsys.readouterr().out == f"ran {run_id}\n"
    made = (folder / "result.json").stat().st_mtime_ns
    assert find_or_run(experiment) == folder
    assert (folder / "result.json").stat().st_mtime_ns == made
    assert capsys.readouterr().out.startswith(f"read {run_id} (commit ")

    monkeypatch.setattr("csnb.runner.RESULTS", tmp_path / "runs")  # committed with csnb
    elsewhere = quick(tmp_path / "elsewhere", dataset=data, threads=1)
    assert find_or_run(elsewhere) == folder and not (tmp_path / "elsewhere").exists()

    (folder / "history.csv").write_text("")
    assert find_or_run(elsewhere) == tmp_path / "elsewhere" / run_id


@pytest.mark.parametrize("model", ["lenet", "lenet(kernels=5)"])
def test_a_runs_model_loads_as_it_was(model: str, data: str, tmp_path: Path) -> None:
    done = run(quick(tmp_path, dataset=data, model=model))
    loaded = load_model(done.folder)
    assert not loaded.training
    assert torch.equal(loaded(done.data.x_test), done.model(done.data.x_test))


def test_a_model_of_no_finished_run_is_refused(data: str, tmp_path: Path) -> None:
    done = run(quick(tmp_path, dataset=data))
    (done.folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"broken: model\.safetensors has changed"):
        load_model(done.folder)
    with pytest.raises(InputError, match="todo"):
        load_model(tmp_path / "nowhere")


def test_the_scores_are_those_of_the_model_that_is_kept(data: str, tmp_path: Path) -> None:
    done = run(quick(tmp_path, dataset=data, seed=3))
    e, x, y = done.experiment, done.data.x_test, done.data.y_test
    again = evaluate(
        load_model(done.folder), x, y, attacks=e.attacks, threat=e.threat(), seed=e.seed
    )
    with np.load(done.folder / "predictions.npz") as kept:
        for name, predictions in again.predictions.items():
            np.testing.assert_array_equal(kept[name], predictions)


def test_a_run_shows_what_it_is(data: str, tmp_path: Path) -> None:
    shown = repr(Run(quick(tmp_path, dataset=data, protected_class="middle")))
    assert shown == (
        "CSA protecting 'middle' of stripes: 120 training and 30 test images of 1x12x12, 3 "
        "classes; lenet, 1 epochs of sgd"
    )


def test_a_gpu_that_is_not_there_is_refused(data: str, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=r"^device: 'cuda' but torch sees no GPU"):
        Run(quick(tmp_path / "runs", dataset=data, device="cuda"))


def test_weights_that_change_while_they_are_read_are_not_taken_for_others(
    data: str, tmp_path: Path
) -> None:
    start = run(quick(tmp_path / "a", dataset=data, method="STD"))
    made = Run(quick(tmp_path / "b", dataset=data, init_from=str(start.folder)))
    (start.folder / "model.safetensors").write_bytes(b"")
    made.train()
    with pytest.raises(InputError, match=r"^init_from: "):
        made.train()  # again, from weights that are gone


def test_stripes_can_be_learned(tmp_path: Path) -> None:
    done = run(quick(tmp_path, dataset=stripes(tmp_path / "s.npz"), epochs=15, method="STD"))
    row = done.scores.query("attack == 'clean' and measure == 'average'").iloc[0]
    assert row["value"] > 0.9


# --- an offset


def test_an_offset_is_chosen_on_images_held_out_and_folded_in(data: str, tmp_path: Path) -> None:
    asked = {"dataset": data, "protected_class": 1, "epochs": 3}
    made = Run(quick(tmp_path, **asked, offset=0.2, validation=0.25))
    held = made.held
    assert held.sum() == 30 and len(made.data.y_train) == 120
    made.train()
    value, bias = made.offset["value"], made.model.body.fc3.bias
    with torch.no_grad():
        bias[1] -= value
    x, y = made.data.x_train[held], made.data.y_train[held]
    margins = worst_margins(made.model, x, y, [1], made.experiment.threat())
    called, own = margins + value > 0, (y == 1).numpy()
    assert called[~own].mean() == pytest.approx(made.offset["false_alarms"])
    assert made.offset["false_alarms"] <= 0.2
    assert called[own].mean() == pytest.approx(made.offset["recall"])
    with torch.no_grad():
        bias[1] += value
    made.evaluate()
    result = read_run(made.write())
    assert result["offset"]["images"] == 30 and result["offset"]["value"] == value
    torch.testing.assert_close(load_model(made.folder).body.fc3.bias, bias.cpu())


def test_what_is_held_out_is_not_trained_on(data: str, tmp_path: Path) -> None:
    asked = {"method": "STD", "offset": "cost", "validation": 0.5}
    made = Run(quick(tmp_path, dataset=data, **asked))
    with np.load(data) as arrays:
        changed = dict(arrays)
    held = made.held[:, None, None]
    changed["x_train"] = np.where(held, 1 - changed["x_train"], changed["x_train"])
    np.savez(tmp_path / "other.npz", **changed)
    again = Run(quick(tmp_path, dataset=str(tmp_path / "other.npz"), **asked))
    assert (again.held == made.held).all()
    again.model.mean, again.model.std = made.model.mean, made.model.std  # those of all images
    for one in (made, again):
        one.train()
        one._end(remove=True)
    pairs = zip(made.model.parameters(), again.model.parameters(), strict=True)
    equal = [torch.equal(a, b) for a, b in pairs]
    assert all(equal[:-1]), "the last bias carries the offset"


def test_a_run_whose_offset_cannot_be_chosen_is_not_trained_and_not_held(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise InputError("no margins")

    made = Run(quick(tmp_path / "runs", dataset=data, offset="cost"))
    with monkeypatch.context() as patch:
        patch.setattr("csnb.runner.worst_margins", refuse)
        with pytest.raises(InputError, match="no margins"):
            made.train()
    assert not [f for f in (tmp_path / "runs").iterdir() if f.name != ".locks"]
    with pytest.raises(InputError, match="not trained"):
        made.evaluate()
    made.train()
    made._end(remove=True)


def test_a_run_without_an_offset_holds_nothing_out(data: str, tmp_path: Path) -> None:
    made = Run(quick(tmp_path, dataset=data))
    assert not made.held.any() and made.offset is None


def test_several_classes_are_protected_together(data: str, tmp_path: Path) -> None:
    asked = {"dataset": data, "attack_images": "protected", "offset": "cost"}
    made = run(quick(tmp_path, **asked, protected_class="bottom, 0"))
    assert made.identity.protected == (0, 2) and "-p0+2-s0-" in made.folder.name
    assert (made.data.y_test[made.outcome.attacked] != 1).all()
    alarms = made.scores[made.scores["measure"] == "false_alarms"]
    assert list(alarms["class"].unique()) == ["top", "bottom"]
    assert made.costs.tolist() == protect(3, [0, 2]).tolist()
    assert repr(made).startswith("CSA protecting 'top', 'bottom' of stripes: ")
    same = quick(tmp_path, **asked, protected_class=[2, "top"])
    assert same.identity().key == made.identity.key


@pytest.mark.parametrize("kind", ["array", "frame", "mapping", "text", "list"])
def test_costs_at_hand_are_those_of_a_file(kind: str, data: str, tmp_path: Path) -> None:
    matrix = np.array([[0, 2.5, 1], [4, 0, 1], [3, 1, 0]])
    frame = pd.DataFrame(matrix, STRIPES, STRIPES)
    given = {
        "array": matrix,
        "frame": frame.iloc[::-1, ::-1],
        "mapping": {row: dict(frame.loc[row]) for row in STRIPES},
        "text": "[[0, 2.5, 1], [4, 0, 1], [3, 1, 0]]",
        "list": matrix.tolist(),
    }[kind]
    made = quick(tmp_path, dataset=data, cost_matrix=given)
    file = csnb.costs.write_costs(tmp_path / "costs.csv", matrix, STRIPES)
    from_file = quick(tmp_path, dataset=data, cost_matrix=str(file))
    assert made.identity().key == from_file.identity().key
    assert np.array_equal(made.identity().costs, matrix)
    back = Experiment.of_result(made.identity().to_json())
    assert back.identity().key == made.identity().key


def test_not_every_class_can_be_protected(data: str) -> None:
    with pytest.raises(InputError, match=r"protected: 3 of 3 classes; allowed: 1 to 2"):
        Experiment(dataset=data, protected_class=[0, 1, 2]).identity()


def test_pairs_by_name_are_costs_as_well(data: str, tmp_path: Path) -> None:
    given = {"top": {"middle": 2.5}, "middle": {"top": 4}}
    costs = quick(tmp_path, dataset=data, cost_matrix=given).identity().costs
    assert np.array_equal(costs, [[0, 2.5, 1], [4, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize("given", ["[[0, 1], [1", "[[0, 1], [1, 0]]", "[1, 2, 3]", "{}", object()])
def test_costs_that_are_none_are_refused_in_one_line(given: object, data: str) -> None:
    with pytest.raises(InputError, match=r"cost.matrix.*allowed: ") as error:
        Experiment(dataset=data, cost_matrix=given).identity()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("offset", ["0", "1", "-0.1", "costs", 2, True, "nan", None])
def test_an_offset_that_is_none_is_refused(offset: object) -> None:
    with pytest.raises(InputError, match=r"offset: .*allowed: "):
        Experiment(offset=offset)
