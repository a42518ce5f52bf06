import pytest
import torch
import torchvision
from torch import Tensor, nn

from csnb.models import conv_weights, resnet18


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 7)])
def test_resnet18_is_torchvisions_but_for_its_stem(channels: int, classes: int) -> None:
    model = resnet18((channels, 32, 32), classes)
    published = 11_689_512  # torchvision's, for 1000 classes and a 7x7 stem of 3 channels
    stem = 64 * channels * 3 * 3 - 64 * 3 * 7 * 7
    head = (512 + 1) * (classes - 1000)
    assert size(model) == published + stem + head
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == (
        (3, 3),
        (1, 1),
        (1, 1),
    )
    reference = torchvision.models.resnet18(weights=None, num_classes=classes).state_dict()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert list(shapes) == list(reference)
    assert [name for name in shapes if shapes[name] != reference[name].shape] == ["conv1.weight"]


@pytest.mark.parametrize("width", [1, 16, 100])
def test_a_width_scales_every_layer_but_not_what_it_takes_and_gives(width: int) -> None:
    torch.manual_seed(0)
    narrow, usual = resnet18((3, 32, 32), 10, width=width), resnet18((3, 32, 32), 10)
    assert narrow(noise(2, 3, 32, 32)).shape == (2, 10)
    for name, value in usual.state_dict().items():
        ends = [3] if name == "conv1.weight" else [10] if name.startswith("fc") else []
        whole = [n if n in (*ends, 1, 3) else n * width // 64 for n in value.shape]
        assert list(narrow.state_dict()[name].shape) == whole, name
    sizes = [(w, n) for w, n in conv_weights(narrow).items() if n.numel() > 9_000]
    for name, weight in sizes:  # He, fan-out
        fan = weight.shape[0] * weight[0, 0].numel()
        assert float(weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.05), name


def test_resnet18_keeps_4_by_4_positions_of_a_small_image() -> None:
    model = resnet18((3, 32, 32), 10).eval()
    seen = {}
    for name in ("layer1", "layer4"):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: tuple(out.shape)})
        )
    with torch.no_grad():
        assert model(noise(2, 3, 32, 32)).shape == (2, 10)
    assert seen == {
        "layer1": (2, 64, 32, 32),
        "layer4": (2, 512, 4, 4),
    }  # 224 pixels would give torchvision's 7 by 7


def test_resnet18s_stem_starts_like_torchvisions_convolutions() -> None:
    torch.manual_seed(0)
    weight = resnet18((3, 32, 32), 10).conv1.weight
    assert weight.std().item() == pytest.approx(
        (2 / (64 * 9)) ** 0.5, rel=0.08
    )  # He, fan-out; 1,728 values


def test_conv_weights_of_resnet18_are_in_the_order_of_definition() -> None:
    names = ["conv1"]
    for layer in (1, 2, 3, 4):
        names += [f"layer{layer}.0.conv1", f"layer{layer}.0.conv2"]
        names += [f"layer{layer}.0.downsample.0"] if layer > 1 else []
        names += [f"layer{layer}.1.conv1", f"layer{layer}.1.conv2"]
    weights = conv_weights(resnet18((3, 32, 32), 10))
    assert list(weights) == names
    assert len(names) == 20
    assert [tuple(weights[n].shape) for n in names[:2]] == [(64, 3, 3, 3), (64, 64, 3, 3)]
