"""What a run leaves for those who have no csnb: files that answer as it does, and a card."""

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from making import QUICK, STRIPES, write_run
from pictures import photos
from safetensors.torch import load_file

import csnb
from csnb import Experiment, InputError, exporting, run
from csnb.card import model_card
from csnb.paths import RESULTS
from csnb.pretrained import pretrained
from csnb.runs.identity import NUMERICS


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a folder of pictures, with an offset and kept margins."""
    root = tmp_path_factory.mktemp("run")
    experiment = Experiment(
        dataset=str(photos(root / "photos", 30)), model="lenet", protected_class="top",
        offset=0.2, runs=str(root / "runs"), **QUICK,
    )  # fmt: skip
    made = run(experiment)
    csnb.read_margins(made.folder)
    return made.folder


@pytest.fixture(scope="module")
def exported(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return csnb.export(done, tmp_path_factory.mktemp("out") / "taken")


def test_both_files_answer_as_the_run_for_any_number_of_images(done: Path, exported: Path) -> None:
    model = csnb.load_model(done)
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    program = torch.export.load(exported / "model.pt2").module()
    for number in (1, 2, 33):
        x = torch.rand(number, 3, 12, 12)
        with torch.no_grad():
            expected = model(x)
        assert torch.allclose(program(x), expected, atol=1e-4)
        (found,) = session.run(["logits"], {"pixels": x.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    said = json.loads((exported / "config.json").read_text())
    assert said["checked"]["images"] == 1000 and said["checked"]["of the test set"] == 18
    assert said["id2label"] == {"0": "bottom", "1": "middle", "2": "top"}


@pytest.mark.slow
def test_the_program_needs_no_csnb(exported: Path) -> None:
    code = (
        "import sys, torch; m = torch.export.load('model.pt2').module();"
        "assert m(torch.rand(5, 3, 12, 12)).shape == (5, 3); assert 'csnb' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=exported, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()


def card(text: str) -> tuple[dict[str, Any], str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_card_says_what_the_run_says(done: Path, exported: Path) -> None:
    fields, body = card((exported / "README.md").read_text(encoding="utf-8"))
    result = csnb.read_run(done)
    assert fields["pipeline_tag"] == "image-classification" and fields["library_name"]
    (found,) = fields["model-index"][0]["results"]
    rows = {(r["attack"], r["measure"], r["class"]): r for r in result["scores"]}
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    for attack in ("clean", "FGSM"):
        row = rows[attack, "accuracy", "top"]
        assert values[f"recall of top, {attack}"] == round(row["value"], 4)
        ends = f"[{row['low']:.3f}, {row['high']:.3f}]"
        assert f"| {attack} | recall of top | {row['value']:.3f} | {ends} | 6 |" in body
    assert "linf ball of 0.3 in normalized units" in body and "Offset" in body
    margins, own = csnb.read_margins(done)
    reached = csnb.protection(margins, own, budgets=[0.05]).iloc[0]
    assert f"5% false alarms: recall {reached['value']:.3f}" in body
    assert "certified" not in body
    assert "Not audited" in body


def test_the_card_carries_an_audit_s_verdict_of_these_weights(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    result = csnb.read_run(folder)
    checked = {"images": 1, "of the test set": 0, "largest difference": {"onnxruntime": 0.0}}
    head = "part,name,class,value,low,high,count,n,threshold,flagged,seconds,text,claim"
    for weights, said in (("0" * 64, False), (result["sha256"]["model.safetensors"], True)):
        end = f"PGD,{weights},{NUMERICS}"
        rows = f'verdict,stands,dog,0.01,0,0.1,1,10,,,,"Stands: 9 of 10, 1 less.",{end}'
        file = folder / f"audit-p1-{weights[:10]}.csv"
        audited = f"accuracy,audited,dog,0.9,0.8,1,9,10,,,,,{end}"
        content = "\n".join([f"{head},weights,numerics", audited, rows, ""])
        digest = hashlib.sha256(content.encode()).hexdigest()
        file.write_text(f"{content}digest,{digest}\n")
        _, body = card(model_card(folder, result, (1, 2, 2), checked))
        assert ("### Audit\n\n- Stands: 9 of 10, 1 less.\n" in body) is said
        assert ("Not audited" in body) is not said


def test_the_card_carries_what_is_certified_where_margins_are_kept(
    done: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(done, tmp_path / done.name)
    result = csnb.read_run(folder)
    checked = {"images": 1, "of the test set": 0, "largest difference": {"onnxruntime": 0.0}}
    margins, own = csnb.read_margins(folder, attack="certified")
    least = csnb.protection(margins, own, budgets=[0.05]).iloc[0]["value"]
    _, body = card(model_card(folder, result, (3, 12, 12), checked))
    certified = body.split("whatever the attack, certified: at least")[1]
    assert f"5% false alarms: recall {least:.3f}" in certified.split("###")[0]


def test_nothing_is_overwritten_or_left_behind(done: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("mine")
    with pytest.raises(InputError, match="is there already; allowed: a new or empty one"):
        csnb.export(done, tmp_path / "mine")
    with pytest.raises(InputError, match=r"run .*: todo"):
        csnb.export(tmp_path / "no", tmp_path / "out")
    monkeypatch.setattr(exporting, "_write", lambda *given: None)
    monkeypatch.setattr(exporting, "_of_torch", lambda file: lambda x: torch.zeros(len(x), 3) + 9)
    with pytest.raises(InputError, match=r"export: a file's logits differ by"):
        csnb.export(done, tmp_path / "out")
    monkeypatch.setattr(exporting, "NEEDED", ("no_such_package",))
    with pytest.raises(InputError, match=r"no_such_package is not installed; allowed: after pip"):
        csnb.export(done, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


# --- networks that are trained already


def test_committed_networks_are_loaded_by_what_they_are_without_their_images(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("CSNB_DATA", str(tmp_path / "nothing"))
    model = csnb.load_pretrained("mnist", "CSA", protected_class=3, seed=0, epochs=20)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert model.mean.item() == pytest.approx(0.1307)
    assert csnb.load_pretrained("mnist", "ADV", seed=0, epochs=20).std.item() == pytest.approx(
        0.3081
    )
    with pytest.raises(InputError, match=r"0 networks for 'mnist', 'CSA\+L2', protected_class=7"):
        csnb.load_pretrained("mnist", "CSA+L2", protected_class=7)
    with pytest.raises(InputError, match=r"\d+ networks for 'mnist', 'CSA', protected_class=None"):
        csnb.load_pretrained("mnist", "CSA")


def test_each_line_of_the_list_is_a_call_that_works() -> None:
    calls = pretrained()
    assert len(calls) > 15
    for call, folder in calls["run"].items():
        network = eval(f"csnb.load_pretrained({call})", {"csnb": csnb})
        assert not network.training
        kept = load_file(RESULTS / folder / "model.safetensors")
        assert all(torch.equal(kept[name], value) for name, value in network.state_dict().items())
    seeds = [csnb.load_pretrained("digits", "REST", protected_class=8, seed=n) for n in (0, 1)]
    assert not torch.equal(*(next(network.parameters()) for network in seeds))
    with pytest.raises(InputError, match=r"3 networks for 'digits', 'REST', protected_class=8; al"):
        csnb.load_pretrained("digits", "REST", protected_class=8)
    for call in sorted(calls.index, key=len)[-5:]:  # as few as tell them apart
        given = ast.parse(f"f({call})", mode="eval").body
        names = [ast.literal_eval(argument) for argument in given.args]
        options = {option.arg: ast.literal_eval(option.value) for option in given.keywords}
        for left in options:
            fewer = {name: value for name, value in options.items() if name != left}
            with pytest.raises(InputError, match=r"\d+ networks for"):
                csnb.load_pretrained(*names, **fewer)


# --- torchvision's


@pytest.mark.slow
def test_mobilenet_is_trained_attacked_saved_loaded_and_exported(tmp_path: Path) -> None:
    experiment = Experiment(
        dataset=str(photos(tmp_path / "photos", 12)), image_size=32, model="mobilenet_v3_small",
        protected_class="top", runs=str(tmp_path / "runs"), batch_size=9, **QUICK,
    )  # fmt: skip
    made = run(experiment)
    assert set(made.scores["attack"]) == {"clean", "FGSM", "LinfBIA(steps=2)"}
    model = csnb.load_model(made.folder)
    assert torch.equal(model(made.data.x_test), made.model.eval()(made.data.x_test))
    assert (csnb.export(made.folder, tmp_path / "out") / "model.onnx").is_file()


def test_torchvision_s_networks_take_the_images_or_are_refused_at_once(tmp_path: Path) -> None:
    import torchvision

    place = {"dataset": str(photos(tmp_path / "p", 4, channels=1)), "image_size": 32}
    place |= {"protected_class": "top", "runs": str(tmp_path / "runs")}
    one = csnb.Run(Experiment(**place, model="squeezenet1_1", **QUICK))
    first = next(m for m in one.model.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.in_channels == 1 and len(STRIPES) == 3
    with pytest.raises(InputError, match=r"model: alexnet|does not take float32"):
        csnb.Run(Experiment(**place | {"image_size": 16}, model="alexnet", **QUICK))
    weights = torchvision.models.squeezenet1_1(num_classes=1000).state_dict()
    torch.save(weights, tmp_path / "squeezenet.pth")
    two = csnb.Run(Experiment(**place, model="squeezenet1_1", **QUICK,
                              init_from=str(tmp_path / "squeezenet.pth")))  # fmt: skip
    mine = two.model.body.state_dict()
    assert torch.equal(mine["features.3.squeeze.weight"], weights["features.3.squeeze.weight"])
    assert torch.allclose(mine["features.0.weight"], weights["features.0.weight"].sum(1, True))
    assert mine["classifier.1.weight"].shape[0] == 3
