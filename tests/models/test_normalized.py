import pytest
import torch
from torch import nn

from csnb.data import Dataset
from csnb.errors import InputError
from csnb.models import Normalized, add_offset, build_model, conv_weights


def dataset(channels: int = 1, height: int = 28, width: int = 28, classes: int = 10) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, channels, height, width, generator=generator), torch.tensor([0, 1])
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.125)[:channels]
    return Dataset("made", tuple(map(str, range(classes))), x, y, x, y, mean, std)


def test_normalized_gives_its_body_the_pixels_in_units_of_table_i() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 5))
    model = Normalized(body, (0.5, 0.4, 0.3), (0.25, 0.2, 0.125))
    x = torch.rand(6, 3, 2, 2)
    by_channel = torch.stack(
        [(x[:, 0] - 0.5) / 0.25, (x[:, 1] - 0.4) / 0.2, (x[:, 2] - 0.3) / 0.125], 1
    )
    torch.testing.assert_close(model.normalize(x), by_channel)
    torch.testing.assert_close(model(x), body(by_channel))
    torch.testing.assert_close(model.denormalize(by_channel), x)


def test_mean_and_deviation_are_kept_with_the_weights_but_not_trained() -> None:
    model = Normalized(nn.Identity(), (0.5,), (0.25,))
    assert list(model.parameters()) == []
    assert {name: value.item() for name, value in model.state_dict().items()} == {
        "mean": 0.5,
        "std": 0.25,
    }


@pytest.mark.parametrize(
    ("name", "data"), [("lenet", dataset()), ("resnet18", dataset(3, 32, 32, 4))]
)
def test_the_same_seed_gives_the_same_network_and_leaves_the_global_generator_alone(
    name: str, data: Dataset
) -> None:
    state = torch.get_rng_state()
    one, same, other = (build_model(name, data, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [dict(model.named_parameters()) for model in (one, same, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not any(torch.equal(w, conv_weights(other)[key]) for key, w in conv_weights(one).items())


def test_build_model_takes_shape_classes_and_units_from_the_data() -> None:
    data = dataset(3, 32, 32, 7)
    model = build_model("lenet(kernels=5)", data)
    assert model(data.x_test).shape == (2, 7)
    assert model.body.conv1.weight.shape == (5, 3, 5, 5)
    torch.testing.assert_close(model.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))
    torch.testing.assert_close(model.std.flatten(), torch.tensor([0.25, 0.2, 0.125]))


@pytest.mark.parametrize(
    ("name", "height", "width", "says"),
    [
        ("lenet", 11, 28, "1x11x28"),
        ("lenet", 28, 11, "1x28x11"),
        ("resnet18", 31, 32, "1x31x32"),
        ("resnet18", 28, 28, "1x28x28"),
    ],
)
def test_images_too_small_for_a_network_are_refused(
    name: str, height: int, width: int, says: str
) -> None:
    with pytest.raises(InputError, match=name) as error:
        build_model(name, dataset(1, height, width))
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "side"), [("lenet", 12), ("resnet18", 32)])
def test_the_smallest_images_allowed_pass_through(name: str, side: int) -> None:
    data = dataset(1, side, side)
    with torch.no_grad():
        assert build_model(name, data).eval()(data.x_test).shape == (2, 10)


@pytest.mark.parametrize("name", ["vgg", "LeNet", ""])
def test_an_unknown_network_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="allowed: lenet, resnet18") as error:
        build_model(name, dataset())
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


def test_conv_weights_of_lenet_are_its_two_convolutions_themselves() -> None:
    model = build_model("lenet", dataset())
    weights = conv_weights(model)
    assert list(weights) == ["conv1", "conv2"]
    assert (
        weights["conv1"] is model.body.conv1.weight and weights["conv2"] is model.body.conv2.weight
    )
    assert list(conv_weights(model.body).values()) == list(weights.values())


# --- an offset


def ending(*last: nn.Module) -> Normalized:
    return Normalized(nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), *last), [0.5], [0.2])


@pytest.mark.parametrize("offset", [0.3, -40.0])
def test_an_offset_moves_the_classes_logits_and_nothing_else(offset: float) -> None:
    model, x = ending(nn.Linear(6, 3), nn.Dropout(0.5)).train(), torch.rand(5, 1, 2, 2)
    model.eval()
    before = model(x).detach()
    model.train()
    add_offset(model, x, [0, 2], offset)
    assert model.training
    expected = before + torch.tensor([offset, 0, offset])
    torch.testing.assert_close(model.eval()(x).detach(), expected)


@pytest.mark.parametrize(
    "last",
    [
        [nn.Linear(6, 3, bias=False)],
        [nn.Linear(6, 3), nn.Softmax(1)],
        [nn.Linear(6, 3), nn.Unflatten(1, (3, 1)), nn.Flatten(), nn.LayerNorm(3)],
        [nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 3, 1), nn.Flatten()],
    ],
    ids=["no bias", "softmax", "norm", "convolution"],
)
def test_a_network_that_cannot_take_an_offset_is_refused_unchanged(last: list[nn.Module]) -> None:
    model, x = ending(*last), torch.rand(2, 1, 2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"offset: .*allowed: "):
        add_offset(model, x, [1], 1.0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name])
