"""A run of somebody's pictures with somebody's network: trained, read back, exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photos
from torch import nn
from torch.nn.functional import pad

import csnb
from csnb import Experiment, InputError, run
from csnb.augment import augmented
from csnb.data import folders

QUICK: dict[str, Any] = {
    "protected_class": "top", "epochs": 1, "batch_size": 16, "attacks": "FGSM",
    "adversary": "PGD(steps=2)", "space": "pixel", "eps": 0.05, "bounded": True,
}  # fmt: skip
NET = '''
from torch import nn


class Net(nn.Module):
    """Two layers."""

    def __init__(self, in_channels: int, num_classes: int, *, width: int = 4):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3)
        self.last = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.last(self.first(x).relu().mean((2, 3)))


class Flat(nn.Sequential):
    def __init__(self, image_shape, classes):
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        super().__init__(nn.Flatten(), nn.Linear(pixels, classes))


class Wrong(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(7, 3))
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(NET)
    photos(tmp_path / "photos", 40)
    return tmp_path


def made(root: Path, **changes: Any) -> Experiment:
    place = {"dataset": str(root / "photos"), "runs": str(root / "runs")}
    return Experiment(**place | QUICK | {"model": f"{root / 'mine.py'}:Net(width=5)"} | changes)


def test_a_run_of_a_folder_is_known_by_its_content_and_read_back(root: Path, monkeypatch) -> None:
    done = run(made(root, augment="flip, crop", image_size=13))
    assert done.folder.name.startswith("photos-CSA-p2-s0-")
    assert done.identity.parameters["model"] == "mine.py:Net(width=5)"
    assert done.identity.parameters["augment"] == "crop, flip"
    model = csnb.load_model(done.folder)
    assert model.body.first.out_channels == 5
    assert torch.equal(model(done.data.x_test), done.model.eval()(done.data.x_test))
    monkeypatch.setattr(folders, "room", lambda: 0)  # from files: the same to the bit
    again = csnb.Run(made(root, augment="crop, flip", image_size=13, runs=str(root / "r2")))
    again.train()
    again.evaluate()
    for name, value in done.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert again.scores.equals(done.scores)
    margins = csnb.worst_margins(
        again.model, again.data.x_test, again.data.y_test, [2],
        csnb.ThreatModel(0.05, space="pixel"), attack="PGD(steps=2)",
    )  # fmt: skip
    assert margins.shape == (24,)
    again.write()
    assert csnb.runs.inspect(done.folder).state == "done"
    (root / "photos" / "top" / "000.png").write_bytes(
        (root / "photos" / "top" / "001.png").read_bytes()
    )
    assert csnb.runs.inspect(done.folder).reason == "photos has changed"


def test_image_size_is_part_of_a_run(root: Path) -> None:
    first, second = made(root).identity(), made(root, image_size=20).identity()
    assert first.key != second.key and first.digests["train"] != second.digests["train"]
    assert first.parameters["dataset"] == second.parameters["dataset"] == "photos"


def test_images_from_python_make_a_run(root: Path) -> None:
    data = csnb.load_dataset(root / "photos", image_size=14)
    arrays = {n: getattr(data, n).numpy() for n in ("x_train", "y_train", "x_test", "y_test")}
    mine = csnb.Dataset.from_arrays("mine", arrays, data.classes)
    done = run(made(root), mine)
    assert done.folder.name.startswith("mine-CSA-p2")
    (root / "mine").mkdir()  # is no input of it
    assert csnb.runs.inspect(done.folder).state == "done" and not done.identity.files.get("dataset")
    assert torch.equal(csnb.load_model(done.folder)(mine.x_test), done.model.eval()(mine.x_test))


# --- networks


def test_what_does_not_fit_is_refused_before_any_work(root: Path) -> None:
    for name, said in (
        ("Wrong", "model: does not take float32 shaped"),
        ("Net(depth=3)", "depth: no such option of model Net"),
        ("Nets", "has no model 'Nets'; allowed: Flat, Net, Wrong"),
    ):
        with pytest.raises(InputError, match=said):
            csnb.Run(made(root, model=f"{root / 'mine.py'}:{name}"))
    with pytest.raises(InputError, match=r"model: 'mobilnet' is unknown; allowed: .* torchvision"):
        made(root, model="mobilnet")
    assert not (root / "runs").exists()


def test_a_network_without_convolutions_trains_and_fuzziness_says_so(root: Path) -> None:
    flat = f"{root / 'mine.py'}:Flat"
    done = run(made(root, model=flat))
    assert not [c for c in done.history if c.startswith("fuzziness")]
    assert csnb.runs.read_histories([done.folder])["fuzziness"].isna().all()
    with pytest.raises(InputError, match=r"method: fuzziness \(Eq\. 8\) is of convolutions"):
        csnb.Run(made(root, model=flat, method="CSE"))


def test_a_plain_network_is_trained_and_attacked(root: Path) -> None:
    data = csnb.load_dataset(root / "photos")
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 3))
    threat = csnb.ThreatModel(0.05, space="pixel", bounded=True)
    costs = csnb.protect(3, 2)
    csnb.fit(
        net, data.x_train, data.y_train, method="CSA", costs=costs, protected=[2],
        recipe=csnb.Recipe(epochs=2, adversary="PGD(steps=2)"), threat=threat,
    )  # fmt: skip
    x = csnb.perturb(net, data.x_test, data.y_test, "FGSM", threat)
    # of a linear network: eps by the sign of the gradient, cut to valid pixels
    z = data.x_test.clone().requires_grad_()
    nn.functional.cross_entropy(net(z), data.y_test).backward()
    expected = (data.x_test + 0.05 * z.grad.sign()).clamp(0, 1)
    assert torch.allclose(x, expected, atol=1e-6)
    with pytest.raises(InputError, match="space: normalized, but Sequential has no normalisation"):
        csnb.perturb(net, data.x_test, data.y_test, "FGSM", csnb.ThreatModel(0.05))


def other_classes(root: Path) -> nn.Module:
    """A network of Net's layers, of seven classes."""
    torch.manual_seed(3)
    kind = csnb.build_model(f"{root / 'mine.py'}:Net(width=5)", csnb.load_dataset(root / "photos"))
    kind.body.last = nn.Linear(5, 7)
    return kind.body


@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped"])
def test_training_starts_from_a_file_of_weights(root: Path, form: str, capsys) -> None:
    from safetensors.torch import save_file

    weights = other_classes(root).state_dict()
    file = root / f"w.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(weights, file)
    elif form == "pth":
        torch.save(weights, file)
    else:
        named = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"epoch": 3, "state_dict": named}, file)
    one = csnb.Run(made(root, init_from=str(file)))
    assert torch.equal(one.model.body.first.weight, weights["first.weight"])
    assert one.model.body.last.weight.shape == (3, 5)
    assert "last is new: w." in capsys.readouterr().out
    assert one.identity.digests["init_from"] and one.identity.parameters["init_from"] == file.name


def test_weights_that_would_run_code_or_do_not_fit_are_refused(root: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (root / "trapped",)

    for content in ({"a": Trap()}, {"other.weight": torch.ones(2)}, {}, torch.ones(2), {"a": 1}):
        torch.save(content, root / "w.pth")
        with pytest.raises(InputError, match=r"init_from: .*hold"):
            csnb.Run(made(root, init_from=str(root / "w.pth")))
    assert not (root / "trapped").exists()


def test_grey_pictures_take_weights_of_colour(root: Path) -> None:
    """What answers alike to a grey picture in three equal channels."""
    photos(root / "grey", 4, channels=1)
    data = csnb.load_dataset(root / "grey")
    colour = csnb.models.make_model(f"{root / 'mine.py'}:Net", (3, 12, 12), 3, [0.0] * 3, [1.0] * 3)
    torch.save(colour.body.state_dict(), root / "w.pth")
    one = csnb.Run(made(root, dataset=str(root / "grey"), model=f"{root / 'mine.py'}:Net",
                        init_from=str(root / "w.pth")))  # fmt: skip
    x = data.x_test
    assert torch.allclose(one.model.body(x), colour.body(x.expand(-1, 3, -1, -1)), atol=1e-5)


# --- augmentation


def test_crop_and_flip_are_one_of_all_moves_and_mirrors() -> None:
    x = torch.rand(64, 1, 8, 8)
    random = torch.Generator().manual_seed(0)
    found = augmented(x, "crop, flip", random)
    wide, seen = pad(x, (1, 1, 1, 1)), set()
    for image, around in zip(found, wide, strict=True):
        moves = {
            (top, left, flip)
            for top in range(3) for left in range(3) for flip in (False, True)
            for part in [around[:, top : top + 8, left : left + 8]]
            if torch.equal(image, part.flip(2) if flip else part)
        }  # fmt: skip
        assert len(moves) == 1
        seen |= moves
    assert len(seen) > 12, "of 18"
    assert torch.equal(augmented(x, "flip", random).sort(3)[0], x.sort(3)[0])
    np.testing.assert_array_equal(augmented(x, "", random), x)


def test_only_crop_and_flip_are_taken() -> None:
    assert csnb.Recipe(augment="flip,crop").augment == "crop, flip"
    for wrong in ("turn", "flip, flip", "crop flip"):
        with pytest.raises(InputError, match=r"augment: .* allowed: empty, crop, flip"):
            csnb.Recipe(augment=wrong)
