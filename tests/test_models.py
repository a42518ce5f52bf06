from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from csnb.data import Dataset
from csnb.errors import InputError
from csnb.models import LeNet, Normalized, build_model, conv_weights, resnet18


def dataset(channels: int = 1, height: int = 28, width: int = 28, classes: int = 10) -> Dataset:
    x, y = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.25, 0.2, 0.125)[:channels]
    return Dataset("made", tuple(map(str, range(classes))), x, y, x, y, mean, std)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


DENSE = (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)


@pytest.mark.parametrize(
    ("shape", "kernels", "parameters"),
    [
        ((1, 28, 28), 6, (1 * 25 * 6 + 6) + (6 * 25 * 16 + 16) + DENSE),
        ((3, 32, 32), 6, (3 * 25 * 6 + 6) + (6 * 25 * 16 + 16) + DENSE),
        ((1, 28, 28), 5, (1 * 25 * 5 + 5) + (5 * 25 * 16 + 16) + DENSE),
    ],
)
def test_lenet_has_the_parameters_counted_by_hand(shape: tuple[int, int, int], kernels: int, parameters: int) -> None:
    model = LeNet(shape, 10, kernels=kernels)
    assert size(model) == parameters
    assert model(noise(2, *shape)).shape == (2, 10)


def test_lenet_has_six_kernels_unless_told() -> None:
    assert LeNet((1, 28, 28), 10).conv1.weight.shape == (6, 1, 5, 5)


@pytest.mark.parametrize(
    ("height", "width", "features"),
    [
        (28, 28, 16 * 5 * 5),  # padded: 28 -> 28 -> 14 -> 10 -> 5
        (32, 32, 16 * 5 * 5),  # not padded: 32 -> 28 -> 14 -> 10 -> 5
        (12, 12, 16 * 1 * 1),  # padded: 12 -> 12 -> 6 -> 2 -> 1
        (29, 31, 16 * 5 * 5),  # padded: 29 -> 29 -> 14 -> 10 -> 5; 31 -> 31 -> 15 -> 11 -> 5
        (33, 38, 16 * 5 * 6),  # not padded: 33 -> 29 -> 14 -> 10 -> 5; 38 -> 34 -> 17 -> 13 -> 6
        (20, 40, 16 * 3 * 8),  # padded: 20 -> 20 -> 10 -> 6 -> 3; 40 -> 40 -> 20 -> 16 -> 8
    ],
)
def test_lenet_fits_its_features_to_any_image(height: int, width: int, features: int) -> None:
    model = LeNet((1, height, width), 7)
    assert model.fc1.in_features == features
    assert model(noise(2, 1, height, width)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_lenet_is_convolve_relu_pool_twice_then_three_dense_layers(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(2)
    model = LeNet(shape, 10)
    z = noise(3, *shape)
    parameters = dict(model.named_parameters())

    def layer(function: Callable[..., Tensor], name: str, z: Tensor, **options: int) -> Tensor:
        return function(z, parameters[f"{name}.weight"], parameters[f"{name}.bias"], **options)

    padding = 2 if shape[1] == 28 else 0
    expected = functional.max_pool2d(functional.relu(layer(functional.conv2d, "conv1", z, padding=padding)), 2)
    expected = functional.max_pool2d(functional.relu(layer(functional.conv2d, "conv2", expected)), 2).flatten(1)
    for name in ("fc1", "fc2"):
        expected = functional.relu(layer(functional.linear, name, expected))
    expected = layer(functional.linear, "fc3", expected)
    torch.testing.assert_close(model(z), expected)


def test_normalized_gives_its_body_the_pixels_in_units_of_table_i() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 5))
    model = Normalized(body, (0.5, 0.4, 0.3), (0.25, 0.2, 0.125))
    x = torch.rand(6, 3, 2, 2)
    by_channel = torch.stack([(x[:, 0] - 0.5) / 0.25, (x[:, 1] - 0.4) / 0.2, (x[:, 2] - 0.3) / 0.125], 1)
    torch.testing.assert_close(model.normalize(x), by_channel)
    torch.testing.assert_close(model(x), body(by_channel))
    torch.testing.assert_close(model.denormalize(by_channel), x)


def test_mean_and_deviation_are_kept_with_the_weights_but_not_trained() -> None:
    model = Normalized(nn.Identity(), (0.5,), (0.25,))
    assert list(model.parameters()) == []
    assert {name: value.item() for name, value in model.state_dict().items()} == {"mean": 0.5, "std": 0.25}


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 7)])
def test_resnet18_is_torchvisions_but_for_its_stem(channels: int, classes: int) -> None:
    model = resnet18(channels, classes)
    published = 11_689_512  # torchvision's, for 1000 classes and a 7x7 stem of 3 channels
    stem = 64 * channels * 3 * 3 - 64 * 3 * 7 * 7
    head = (512 + 1) * (classes - 1000)
    assert size(model) == published + stem + head
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    reference = torchvision.models.resnet18(weights=None, num_classes=classes).state_dict()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert list(shapes) == list(reference)
    assert [name for name in shapes if shapes[name] != reference[name].shape] == ["conv1.weight"]


def test_resnet18_keeps_4_by_4_positions_of_a_small_image() -> None:
    model = resnet18(3, 10).eval()
    seen = {}
    for name in ("layer1", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: tuple(out.shape)}))
    with torch.no_grad():
        assert model(noise(2, 3, 32, 32)).shape == (2, 10)
    assert seen == {"layer1": (2, 64, 32, 32), "layer4": (2, 512, 4, 4)}  # 224 pixels would give torchvision's 7 by 7


def test_resnet18s_stem_starts_like_torchvisions_convolutions() -> None:
    torch.manual_seed(0)
    weight = resnet18(3, 10).conv1.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.08)  # He, fan-out; 1,728 values


@pytest.mark.parametrize(("name", "data"), [("lenet", dataset()), ("resnet18", dataset(3, 32, 32, 4))])
def test_the_same_seed_gives_the_same_network_and_leaves_the_global_generator_alone(name: str, data: Dataset) -> None:
    state = torch.get_rng_state()
    one, same, other = (build_model(name, data, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [dict(model.named_parameters()) for model in (one, same, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not any(torch.equal(w, conv_weights(other)[key]) for key, w in conv_weights(one).items())


def test_build_model_takes_shape_classes_and_units_from_the_data() -> None:
    data = dataset(3, 32, 32, 7)
    model = build_model("lenet", data, kernels=5)
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
def test_images_too_small_for_a_network_are_refused(name: str, height: int, width: int, says: str) -> None:
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
    assert weights["conv1"] is model.body.conv1.weight and weights["conv2"] is model.body.conv2.weight
    assert list(conv_weights(model.body).values()) == list(weights.values())


def test_conv_weights_of_resnet18_are_in_the_order_of_definition() -> None:
    names = ["conv1"]
    for layer in (1, 2, 3, 4):
        names += [f"layer{layer}.0.conv1", f"layer{layer}.0.conv2"]
        names += [f"layer{layer}.0.downsample.0"] if layer > 1 else []
        names += [f"layer{layer}.1.conv1", f"layer{layer}.1.conv2"]
    weights = conv_weights(resnet18(3, 10))
    assert list(weights) == names
    assert len(names) == 20
    assert [tuple(weights[n].shape) for n in names[:2]] == [(64, 3, 3, 3), (64, 64, 3, 3)]
