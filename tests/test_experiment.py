"""Parameters are refused before work with one line; equal ones are equal in any notation."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import STRIPES, costs_csv, stripes

from csnb import ATTACKS, METHODS, Experiment, InputError, ThreatModel
from csnb.experiment import PLACE, parse_adversary
from csnb.params import read_params


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("eps", value) for value in (-0.1, float("nan"), float("inf"), "large", "8/0", True)),
        *(("eps", value) for value in (None, [0.3])),
        *(("epochs", value) for value in (0, 2.5, "many", None, True)),
        ("batch_size", -1),
        ("lr", 0),
        ("momentum", 1.0),
        ("miss_cost", -1),
        ("method", "CSB"),
        ("method", "CSE(gamma=1e-3x)"),
        ("method", "CSE(gamma='1e-3x')"),
        ("model", "vgg"),
        ("model", "lenet(kernels=0)"),
        ("schedule", "thirds"),
        ("norm", "l1"),
        ("norm", "Linf"),
        ("space", "pixels"),
        ("bounded", "perhaps"),
        ("optimizer", "rmsprop"),
        ("attacks", "FGSM,DeepFool"),
        ("attacks", "FGSM,FGSM"),
        ("attacks", "PGD(steps=0)"),
        ("attacks", ["FGSM"]),
        ("adversary", "PGD(steps=-1)"),
        ("adversary", ""),
        ("monitor", "DeepFool"),
        ("attack_images", "some"),
        ("robust", "best"),
        ("protected_class", 1.5),
        ("protected_class", True),
        ("seed", -1),
        ("seed", 2**63),
        ("device", "tpu"),
        ("tf32", "perhaps"),
        ("threads", -1),
        ("dataset", 3),
        ("runs", 3),
    ],
)
def test_impossible_value_is_refused_in_one_line_with_name_value_and_what_is_allowed(
    parameter: str, value: object
) -> None:
    with pytest.raises(InputError) as caught:
        Experiment(**{parameter: value})
    message = str(caught.value)
    specs = ("attacks", "adversary", "method", "model", "monitor")
    shown = repr(value) if parameter not in specs else ""
    assert message.startswith(f"{parameter}: ") and shown in message and "allowed: " in message
    assert "\n" not in message and len(message) < 300


def test_unknown_parameter_is_refused_with_the_nearest_known_one() -> None:
    says = r"^protected_clas: no such parameter \(value 3\); .*; did you mean protected_class\?$"
    with pytest.raises(InputError, match=says):
        Experiment(protected_clas=3)
    with pytest.raises(InputError, match=r"^zzz: no such parameter .*allowed: dataset, "):
        Experiment(zzz=1)
    with pytest.raises(InputError, match=r"^pgd_steps: no such parameter"):  # of earlier days
        Experiment(pgd_steps=3)


NUMBERS = [("1e-3", 1e-3), ("8/255", 8 / 255), ("2", 2.0), (" 0.5 ", 0.5), ("1E2", 100.0)]


@pytest.mark.parametrize(("text", "number"), [*NUMBERS, ("1/3", 1 / 3), (np.float32(0.5), 0.5)])
def test_numbers_may_be_strings_as_yaml_and_the_shell_pass_them(text: str, number: float) -> None:
    assert Experiment(miss_cost=text).miss_cost == pytest.approx(number, rel=1e-15)


def test_counts_may_be_strings_and_numpys() -> None:
    assert Experiment(epochs="7").epochs == Experiment(epochs=np.int64(7)).epochs == 7
    assert Experiment(protected_class=np.int64(3)).protected_class == 3


@given(st.floats(0, 1e6, allow_nan=False))
def test_a_number_and_its_text_name_the_same_run(value: float) -> None:
    assert Experiment(eps=value) == Experiment(eps=repr(value))
    method = f"CSE(gamma={value!r})"
    assert Experiment(method=method) == Experiment(method=f"CSE(gamma='{value!r}')")


def test_specs_are_held_in_their_shortest_form() -> None:
    experiment = Experiment(
        method="CSE( regulariser='minmax', gamma = 1.0 )",
        model="lenet(kernels=6)",
        attacks=" MIA ,FGSM,PGD(steps=40, restarts=2)",
        adversary="PGD(step_size=0, steps=7)",
        monitor="  ",
    )
    assert experiment.method == "CSE(regulariser=minmax)" and experiment.model == "lenet"
    assert experiment.attacks == "MIA, FGSM, PGD(restarts=2)" and experiment.monitor == ""
    assert experiment.adversary == Experiment().adversary
    assert Experiment(**experiment.model_dump()) == experiment


def test_the_step_of_the_attack_inside_training_follows_eps_unless_it_is_given() -> None:
    assert parse_adversary("PGD").options["step_size"] == 0
    assert parse_adversary("PGD(step_size=0.01)").options["step_size"] == 0.01
    assert parse_adversary("FGSM").options == {"gradient": "exact"}
    assert ATTACKS.parse("PGD").options["step_size"] == 0.01  # of evaluation, as the paper's


@pytest.mark.parametrize(
    ("adversary", "steps", "step_size"),
    [
        ("PGD", 7, 0),
        ("PGD(steps=40)", 40, 0),  # what evaluation takes without being told
        ("PGD(step_size=0.01)", 7, 0.01),
        ("PGD(steps=40, step_size=0.01)", 40, 0.01),
        ("MIA(steps=3, step_size=0.01)", 3, 0.01),
    ],
)
def test_the_attack_inside_training_is_the_one_that_is_asked_for(
    adversary: str, steps: int, step_size: float
) -> None:
    asked = Experiment(adversary=adversary)
    texts = (adversary, asked.adversary, asked.recipe().adversary)
    specs = [*map(parse_adversary, texts), asked.specs()["adversary"][0]]
    specs.append(ATTACKS.parse(asked.recipe().adversary))  # as training reads it
    for spec in specs:
        assert (spec.options["steps"], spec.options["step_size"]) == (steps, step_size)
    assert Experiment(**asked.model_dump()) == asked


RUN_ID = {"method": "CSE+ADV", "protected_class": 3}


def test_run_id_depends_on_what_shapes_the_result_and_on_nothing_else(tmp_path: Path) -> None:
    def run_id(**changes: object) -> str:
        return Experiment(**RUN_ID | changes).identity().run_id

    first = run_id()
    assert first.startswith("digits-CSE+ADV-p3-s0-")
    place = {"runs": "elsewhere", "data_root": str(tmp_path), "device": "cpu", "threads": 2}
    assert run_id(protected_class="3", seed=0, eps="3/10", **place) == first
    changes = [{"seed": 1}, {"eps": 0.31}, {"attacks": "CW(steps=7)"}, {"bounded": True}]
    changes += [{"method": "CSE+ADV(gamma=2)"}, {"monitor": "PGD"}, {"protected_class": 4}]
    assert len({first, *(run_id(**change) for change in changes)}) == 8


def test_names_cannot_leave_the_runs_folder(tmp_path: Path) -> None:
    file = stripes(tmp_path / "a b.npz", classes=("../../x", "y"))
    run_id = Experiment(protected_class="../../x", dataset=file).identity().run_id
    assert "/" not in run_id and run_id.startswith("a_b-CSA-p0-")


def test_namespace_gives_parameters_and_refuses_what_is_none() -> None:
    namespace = {"__name__": "x", "_private": 1, "In": [], "Out": {}, "json": json, "epochs": 3}
    namespace |= {"Path": Path, "np": np, "function": lambda: 0}
    assert Experiment.from_namespace(namespace) == Experiment(epochs=3)
    with pytest.raises(InputError, match=r"^epoch: no such parameter"):
        Experiment.from_namespace(namespace | {"epoch": 3})


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), "3", 3])
def test_a_namespaces_value_of_any_type_counts(value: object) -> None:
    assert Experiment.from_namespace({"protected_class": value}).protected_class in (3, "3")
    assert Experiment.from_namespace({"epochs": value}).epochs == 3


@pytest.mark.parametrize("value", [np.arange(3), json, object(), {1, 2}, b"3", lambda: 0])
def test_a_namespaces_value_that_is_none_is_refused_and_not_dropped(value: object) -> None:
    with pytest.raises(InputError, match=r"^protected_class: "):
        Experiment.from_namespace({"protected_class": value})


def test_a_namespaces_recipe_holds_where_the_namespace_gives_nothing() -> None:
    namespace = {"params": "mnist", "epochs": 2, "__name__": "notebook", "In": []}
    assert Experiment.from_namespace(namespace) == Experiment(
        **read_params("mnist") | {"epochs": 2}
    )
    with pytest.raises(InputError, match=r"^epoch: no such parameter"):
        Experiment.from_namespace({"params": "mnist", "epoch": 2})


def test_there_are_at_most_34_parameters_each_with_words_and_a_default() -> None:
    assert len(Experiment.model_fields) <= 34
    for field in Experiment.model_fields.values():
        assert field.description and not field.is_required()


def test_the_papers_attacks_are_the_default_whatever_is_added_later() -> None:
    assert Experiment.model_fields["attacks"].default == "FGSM, PGD, CW, MIA, L2BIA, LinfBIA"
    assert Experiment().attacks == Experiment.model_fields["attacks"].default
    assert set(METHODS) >= {"STD", "ADV", "CSA", "CSA+L2", "CSE", "CSE+ADV"}


def test_threat_model_and_recipe_carry_the_parameters() -> None:
    experiment = Experiment(eps=0.1, norm="l2", space="pixel", bounded=True, lr=0.5)
    assert experiment.threat() == ThreatModel(0.1, "l2", "pixel", True)
    values = {
        "epochs": 3, "batch_size": 7, "optimizer": "adam", "lr": 0.5, "momentum": 0.3,
        "halve_every": 2, "schedule": "both", "adversary": "PGD(steps=5, step_size=0.1)",
    }  # fmt: skip
    assert vars(Experiment(**values).recipe()) == values


def test_an_experiment_does_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        Experiment().epochs = 3


def test_costs_come_from_eq_3_or_from_a_file_where_one_is_named(tmp_path: Path) -> None:
    found = Experiment(miss_cost=4, alarm_cost=4).cost_table(STRIPES, [1])
    np.testing.assert_array_equal(found, [[0, 4, 1], [4, 0, 4], [1, 4, 0]])
    file = costs_csv(tmp_path / "costs.csv")
    found = Experiment(cost_matrix=file, miss_cost=4).cost_table(STRIPES, [1])
    np.testing.assert_array_equal(found, 3 * (1 - np.eye(3)))


FILE = """
import csnb

@csnb.attack
def Shift(target, x, y, *, by: float = 0.1):
    return x + by

@csnb.dataset
def few(root, *, images: int = 4):
    import numpy as np
    y = np.arange(images) % 2
    x = (y[:, None, None] * np.ones((images, 12, 12)))
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    return csnb.Dataset.from_arrays("few", arrays, ["dark", "bright"])
"""


def test_an_experiment_comes_back_from_its_result(tmp_path: Path) -> None:
    folder = tmp_path / "a, b"
    folder.mkdir()
    for name in ("mine.py", "notmine.py"):
        (folder / name).write_text(FILE)
    made = Experiment(
        dataset=f"'{folder}/mine.py':few(images=6)",
        attacks=f"PGD(steps=3), '{folder}/mine.py':Shift(by=0.2), '{folder}/notmine.py':Shift",
        cost_matrix=costs_csv(tmp_path / "costs.csv", classes=("dark", "bright")),
        protected_class="bright",
        eps=0.1,
    )
    identity = made.identity()
    assert identity.parameters["dataset"] == "mine.py:few(images=6)"
    attacks = "PGD(steps=3), mine.py:Shift(by=0.2), notmine.py:Shift"
    assert identity.parameters["attacks"] == attacks
    again = Experiment.of_result(json.loads(json.dumps(identity.to_json())))
    assert again.identity() == identity
    assert again.model_dump(exclude=PLACE) == made.model_dump(exclude=PLACE)


@pytest.mark.parametrize(
    ("decay", "allowed"),
    [
        ("-1", "greater than or equal to 0"),
        ("1e39", "a number that float32 holds, up to 3.4e38"),
        ("'x'", "a number"),
        ("True", "a number"),
        ("inf", "a finite number"),
    ],
)
@pytest.mark.parametrize("parameter", ["attacks", "monitor", "adversary"])
def test_a_decay_of_mia_is_refused_by_name_value_range_and_meaning(
    parameter: str, decay: str, allowed: str
) -> None:
    with pytest.raises(InputError) as error:
        Experiment(**{parameter: f"MIA(steps=3, decay={decay})"})
    said = str(error.value)
    assert said.startswith(f"{parameter}: decay: ") and decay.strip("'")[:2] in said
    assert said.endswith(f" is not allowed; allowed: {allowed} - of the momentum")
    assert Experiment(**{parameter: "MIA(steps=3, decay=0)"})  # no momentum is one


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(FILE)
    attacks = f"{tmp_path}/a/mine.py:Shift, {tmp_path}/b/mine.py:Shift(by=3)"
    with pytest.raises(InputError, match=r"mine\.py: .* and .*; allowed: different names"):
        Experiment(attacks=attacks).identity()
