"""The compiled layer equals torch's three operations, in every way a network meets it."""

import contextlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv2d, max_pool2d, relu

from csnb.models import native
from csnb.models.native import available, conv_pool_relu

INF, NAN = float("inf"), float("nan")
LENET = [((9, 1, 28, 28), 6, 2), ((9, 6, 14, 14), 16, 0), ((9, 3, 32, 32), 6, 0)]

compiled = pytest.mark.skipif("not available()", reason="no compiler")


def eager(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return relu(max_pool2d(conv2d(x, weight, bias, padding=padding), 2))


def operands(
    shape: tuple[int, ...], kernels: int, seed: int = 0, *, whole: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, bias.

    Whole numbers: every sum is exact in whatever order, many pixels are equal, many are zero.
    """
    random_numbers = torch.Generator().manual_seed(seed)
    shapes = (shape, (kernels, shape[1], 5, 5), (kernels,))
    if whole:
        return tuple(
            torch.randint(-3, 4, size, generator=random_numbers).float() for size in shapes
        )
    x, weight, bias = (torch.randn(size, generator=random_numbers) for size in shapes)
    return x, weight / (5 * shape[1] ** 0.5), bias / 10


def everything(
    layer: Callable[..., Tensor],
    inputs: tuple[Tensor | None, ...],
    padding: int,
    upstream: float = 1,
) -> list[Tensor]:
    """Output and all gradients, for a gradient of whole numbers times ``upstream``."""
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in inputs]
    y = layer(*leaves, padding)
    gradient = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(1)) * upstream
    return [
        y.detach(),
        *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], gradient),
    ]


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list that the names of the compiled functions will appear in as they are called."""
    names: list[str] = []
    call = native._call
    monkeypatch.setattr(
        native, "_call", lambda name, *rest: (names.append(name), call(name, *rest))[1]
    )
    return names


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """As a new process would find it, with an empty cache."""

    def forget() -> None:
        native._library.cache_clear()
        available.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield monkeypatch
    forget()


def test_a_compiler_is_found_where_there_is_one():
    assert available() or os.environ.get("CSNB_NATIVE") == "0" or os.environ.get("CXX")


@compiled
@pytest.mark.parametrize("seed", range(40))
def test_equals_eager_on_any_shape(seed: int, monkeypatch: pytest.MonkeyPatch):
    names = count_calls(monkeypatch)
    draw = random.Random(seed)
    padding = draw.choice([0, 1, 2, 3])
    side = [draw.randint(max(1, 6 - 2 * padding), 19) for _ in range(2)]
    shape = (
        draw.choice([0, 1, 2, 7, 8, 9, 15, 16, 17, 20, 33]),
        draw.choice([1, 2, 3, 5, 6]),
        *side,
    )
    inputs = operands(shape, draw.choice([1, 2, 3, 4, 5, 6, 7, 16]), seed)
    inputs = inputs if draw.random() < 0.8 else (*inputs[:2], None)
    assert all(
        map(
            torch.equal,
            everything(conv_pool_relu, inputs, padding),
            everything(eager, inputs, padding),
        )
    )
    assert names == ["csnb_forward", "csnb_backward"]


@compiled
@pytest.mark.parametrize(
    ("shape", "kernels", "padding"), [*LENET, ((3, 512, 6, 7), 3, 0), ((3, 1, 7, 6), 512, 0)]
)
def test_is_close_to_eager_on_real_numbers(shape: tuple[int, ...], kernels: int, padding: int):
    inputs = operands(shape, kernels, whole=False)
    for ours, theirs in zip(
        everything(conv_pool_relu, inputs, padding), everything(eager, inputs, padding), strict=True
    ):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@compiled
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads_or_repetition(threads: int):
    inputs = operands((70, 6, 14, 14), 16, whole=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        once = everything(conv_pool_relu, inputs, 0)
        torch.set_num_threads(threads)
        for _ in range(3):
            assert all(map(torch.equal, once, everything(conv_pool_relu, inputs, 0)))
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="registers of 8 lanes only"
)
def test_results_do_not_depend_on_the_lanes_of_a_register(fresh: pytest.MonkeyPatch):
    inputs = operands((37, 3, 15, 14), 7, whole=False)
    wide = everything(conv_pool_relu, inputs, 2)
    native._library.cache_clear()
    fresh.setenv("CXX", "c++ -mno-avx512f")
    assert available()
    assert all(map(torch.equal, wide, everything(conv_pool_relu, inputs, 2)))


@compiled
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0])
def test_the_first_of_equal_pixels_wins(value: float):
    x, weight, bias = operands((9, 2, 12, 12), 4)
    inputs = (torch.full_like(x, value), weight, torch.zeros_like(bias))
    assert all(
        map(torch.equal, everything(conv_pool_relu, inputs, 2), everything(eager, inputs, 2))
    )


@compiled
@pytest.mark.parametrize("where", ["x", "weight", "bias", "gradient"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("padding", [0, 2])
def test_nan_and_infinity_spread_as_in_eager(where: str, value: float, padding: int):
    x, weight, bias = operands((9, 2, 16, 16), 4)
    if where != "gradient":
        tensor = {"x": x, "weight": weight, "bias": bias}[where]
        tensor.view(-1)[[1, tensor.numel() // 2]] = value
    upstream = value if where == "gradient" else 1
    ours, theirs = (
        everything(layer, (x, weight, bias), padding, upstream) for layer in (conv_pool_relu, eager)
    )
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=0, atol=0, equal_nan=True)


@compiled
def test_nan_pixels_keep_the_compiled_input_gradient(monkeypatch: pytest.MonkeyPatch):
    x, weight, bias = operands((9, 1, 16, 16), 4)
    x[:, :, 3:9, 3:9] = NAN
    x.requires_grad_()
    expected = torch.autograd.grad(eager(x, weight, bias, 2).sum(), x)[0]
    names = count_calls(monkeypatch)
    assert torch.equal(
        torch.autograd.grad(conv_pool_relu(x, weight, bias, 2).sum(), x)[0], expected
    )
    assert names == ["csnb_forward", "csnb_backward"]


@compiled
@pytest.mark.parametrize("wants", list(itertools.product([False, True], repeat=3)))
def test_gradients_of_every_subset(wants: tuple[bool, ...]):
    inputs = operands((9, 3, 12, 12), 5)
    found = []
    for layer in (conv_pool_relu, eager):
        leaves = [
            tensor.clone().requires_grad_(want) for tensor, want in zip(inputs, wants, strict=True)
        ]
        y = layer(*leaves, 0)
        assert y.requires_grad == any(wants)
        if any(wants):
            y.sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for ours, theirs, want in zip(*found, wants, strict=True):
        assert torch.equal(ours, theirs) if want else ours is None


@compiled
def test_operands_of_any_layout(monkeypatch: pytest.MonkeyPatch):
    x, weight, bias = operands((9, 3, 12, 13), 6)
    expected = everything(eager, (x, weight, bias), 2)
    names = count_calls(monkeypatch)
    wide = torch.stack([bias, bias], 1)
    layouts = [
        (
            x.to(memory_format=torch.channels_last),
            weight.to(memory_format=torch.channels_last),
            wide[:, 0],
        ),
        (x.mT.contiguous().mT, weight.flip(0).contiguous().flip(0), bias),
        (x.repeat_interleave(2, 0)[::2], weight.mT.contiguous().mT, bias),
    ]
    for leaves in layouts:
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        y = conv_pool_relu(*leaves, 2)
        gradient = torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(1)).float()
        got = torch.autograd.grad(y, leaves, gradient.to(memory_format=torch.channels_last))
        assert all(map(torch.equal, [y, *got], expected))
    y = conv_pool_relu(*leaves, 2)
    y.sum().backward()  # a gradient with strides of zero
    assert torch.equal(
        leaves[0].grad, torch.autograd.grad(eager(x.requires_grad_(), weight, bias, 2).sum(), x)[0]
    )
    assert names == ["csnb_forward", "csnb_backward"] * 4


@compiled
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
def test_without_gradients(mode: type, monkeypatch: pytest.MonkeyPatch):
    names = count_calls(monkeypatch)
    inputs = operands((9, 1, 12, 12), 6)
    with mode():
        y = conv_pool_relu(*inputs, 2)
        assert torch.equal(y, eager(*inputs, 2))
        assert not y.requires_grad
    assert names == ["csnb_forward"]


def test_double_backward_equals_eager():
    found = []
    for layer in (conv_pool_relu, eager):
        leaves = [tensor.requires_grad_() for tensor in operands((3, 2, 8, 8), 3)]
        gradients = torch.autograd.grad(layer(*leaves, 1).square().sum(), leaves, create_graph=True)
        found.append(
            [
                *gradients,
                *torch.autograd.grad(
                    sum(gradient.square().sum() for gradient in gradients), leaves
                ),
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_operand_made_from_another():
    x, weight, bias = operands((3, 2, 8, 8), 3)
    weight[0, 0, 0, 0] = INF  # torch's own backward pass steps in
    found = []
    for layer in (conv_pool_relu, eager):
        scale = torch.ones((), requires_grad=True)
        z = x * scale
        found.append(
            torch.autograd.grad(
                layer(z, weight, bias + 0 * z.sum(), 1).nan_to_num(0, 0, 0).sum(), scale
            )[0]
        )
    torch.testing.assert_close(*found, equal_nan=True)


def test_double_precision_passes_gradcheck():
    x, weight, bias = (
        tensor.double().requires_grad_() for tensor in operands((2, 2, 7, 6), 2, whole=False)
    )
    assert torch.autograd.gradcheck(
        lambda *leaves: conv_pool_relu(*leaves, 1), (x, weight, bias), fast_mode=True
    )


@pytest.mark.parametrize(
    "kind", ["half", "3x3", "one image", "meta", "padding by pairs", "subclass", "lazily negated"]
)
def test_other_operands_are_left_to_torch(kind: str, monkeypatch: pytest.MonkeyPatch):
    names = count_calls(monkeypatch)
    x, weight, bias = operands((2, 2, 8, 8), 3)
    padding = 1
    if kind == "half":
        x, weight, bias = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    elif kind == "3x3":
        weight = weight[..., 1:4, 1:4]
    elif kind == "one image":
        x = x[0]
    elif kind == "meta":
        x, weight, bias = x.to("meta"), weight.to("meta"), bias.to("meta")
    elif kind == "padding by pairs":
        padding = (1, 1)
    elif kind == "lazily negated":
        x = torch.complex(x, x).conj().imag
    else:
        x = x.as_subclass(type("Named", (Tensor,), {}))
    ours, theirs = conv_pool_relu(x, weight, bias, padding), eager(x, weight, bias, padding)
    assert type(ours) is type(theirs)
    assert ours.shape == theirs.shape
    assert ours.is_meta or torch.equal(ours, theirs)
    assert not names


@pytest.mark.parametrize(
    "shapes",
    [((2, 2, 8, 8), (3, 1, 5, 5)), ((2, 2, 5, 5), (3, 2, 5, 5)), ((2, 2, 8), (3, 2, 5, 5))],
)
def test_raises_what_torch_raises(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    x, weight = map(torch.zeros, shapes)
    with pytest.raises(RuntimeError) as theirs:
        eager(x, weight, None, 0)
    with pytest.raises(RuntimeError) as ours:
        conv_pool_relu(x, weight, None, 0)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_transforms_and_tracers_see_the_operations_of_torch():
    x, weight, bias = operands((3, 1, 8, 8), 2)

    def loss(layer: Callable[..., Tensor], x: Tensor) -> Tensor:
        return layer(x, weight, bias, 1).square().sum()

    ours, theirs = (lambda x: loss(conv_pool_relu, x)), (lambda x: loss(eager, x))
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.vmap):
        batch = x.unsqueeze(1) if transform is torch.func.vmap else x
        assert torch.equal(transform(ours)(batch), transform(theirs)(batch))
    tangents = [
        torch.func.jvp(function, (x,), (torch.ones_like(x),))[1] for function in (ours, theirs)
    ]
    assert torch.equal(*tangents)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        assert torch.equal(forward_ad.unpack_dual(ours(dual)).tangent, tangents[0])
    leaf = x.clone().requires_grad_()
    jacobians = [
        torch.autograd.functional.jacobian(
            lambda x, f=f: f(x, weight, bias, 1), leaf, vectorize=True
        )
        for f in (conv_pool_relu, eager)
    ]
    assert torch.equal(*jacobians)
    nodes = {node.target for node in make_fx(ours)(x).graph.nodes}
    assert torch.ops.aten.convolution.default in nodes
    assert "convolution" in str(torch.jit.trace(ours, (x,)).inlined_graph)
    with FakeTensorMode() as mode:
        assert conv_pool_relu(*map(mode.from_tensor, (x, weight, bias)), 1).shape == (3, 2, 3, 3)


def test_autocast_computes_in_its_own_precision():
    inputs = [tensor.requires_grad_() for tensor in operands((3, 1, 8, 8), 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv_pool_relu(*inputs, 1).dtype == eager(*inputs, 1).dtype == torch.bfloat16
    y = conv_pool_relu(*inputs, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y.sum().backward()
    assert torch.equal(inputs[0].grad, torch.autograd.grad(eager(*inputs, 1).sum(), inputs[0])[0])
    found = []
    for layer in (conv_pool_relu, eager):
        y = layer(*(tensor / 7 for tensor in inputs), 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(torch.autograd.grad(y.square().sum(), inputs[0], create_graph=True)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "what",
    [
        "CSNB_NATIVE",
        "CXX fails",
        "CXX is missing",
        "CXX writes nonsense",
        "no compiler",
        "no source",
    ],
)
def test_does_without_compiled_code(what: str, fresh: pytest.MonkeyPatch, tmp_path: Path):
    if what == "CSNB_NATIVE":
        fresh.setenv("CSNB_NATIVE", "0")
    elif what == "no compiler":
        fresh.setenv("PATH", str(tmp_path))
        fresh.delenv("CXX", raising=False)
    elif what == "no source":
        fresh.setattr(native, "SOURCE", tmp_path / "none.cpp")
    else:
        script = tmp_path / "compiler"
        if what != "CXX is missing":
            log = f'echo once >> "{tmp_path}/log"; '
            script.write_text(
                '#!/bin/sh\n[ "$1" = --version ] && exit 0\n'
                + log
                + ("exit 1" if "fails" in what else 'echo x > "$9"')
            )
            script.chmod(0o755)
        fresh.setenv("CXX", str(script))
    inputs = operands((9, 1, 12, 12), 6)
    assert not available()
    for _ in range(2):
        assert all(
            map(torch.equal, everything(conv_pool_relu, inputs, 2), everything(eager, inputs, 2))
        )
    if what == "CXX fails":
        assert (tmp_path / "log").read_text() == "once\n"
    assert not list(tmp_path.glob("csnb/*.so")) or "nonsense" in what


@compiled
@pytest.mark.parametrize("home", ["under a file", "relative"])
def test_does_without_a_cache(home: str, fresh: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").touch()
    fresh.setenv("HOME", str(tmp_path / "file"))
    fresh.setenv(
        "XDG_CACHE_HOME", str(tmp_path / "file" / "cache") if home == "under a file" else "cache"
    )
    inputs = operands((9, 1, 12, 12), 6)
    assert available()
    assert torch.equal(conv_pool_relu(*inputs, 2), eager(*inputs, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


SCRIPT = """
import os, signal, torch
from csnb.models.native import available, conv_pool_relu

def use():
    torch.set_num_threads(2)
    x, weight = torch.ones(32, 1, 12, 12, requires_grad=True), torch.ones(2, 1, 5, 5)
    def gradient():
        return torch.autograd.grad(conv_pool_relu(x, weight, None, 2).sum(), x)[0]
    first = gradient()
    assert available()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if torch.equal(gradient(), first) else 1)
    assert os.waitpid(child, 0)[1] == 0

at_once = []
for _ in range(4):  # of one that imported torch, and has not looked for the native layer
    at_once.append(os.fork())
    if at_once[-1] == 0:
        use()
        os._exit(0)
assert [os.waitpid(child, 0)[1] for child in at_once] == [0] * 4
"""


@compiled
def test_processes_starting_at_once_share_one_cache_and_survive_a_fork(tmp_path: Path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    root = str(Path(native.__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=environment, cwd=root, stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("csnb/*.so"))) == 1
    kept = {path.suffix for path in tmp_path.glob("csnb/*")}
    assert kept - {".lock"} == {".so", ".sha256"}  # which older filelock removes
