"""The paper's methods, against their equations written out image by image."""

import inspect

import pytest
import torch
from making import images, lenet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csnb import METHODS, InputError, Method, protect
from csnb.losses import REGULARISERS
from csnb.methods import Batch, Task, on_examples

COSTS = torch.tensor(protect(4, 1, 10.0), dtype=torch.float32)
PAPER = ("STD", "ADV", "CSA", "CSA+L2", "CSE", "CSE+ADV")
ADVERSARIAL = ("ADV", "CSA", "CSA+L2", "CSE+ADV")


def made(spec: str, model: nn.Module | None = None) -> tuple[Method, nn.Module]:
    model = model or lenet()
    return METHODS.parse(spec)(Task(model, COSTS, (1,))), model


def expected_costs(logits: Tensor, y: Tensor) -> Tensor:
    """Second term of Eq. 4, image by image, summed."""
    return sum(logits[k].softmax(0) @ COSTS[:, y[k]] for k in range(len(y)))


@pytest.mark.parametrize("name", PAPER)
def test_the_loss_is_the_equations(name: str) -> None:
    method, model = made(name)
    x, y = images(5)
    loss, logits = method.loss(Batch(model, x, y))
    assert torch.equal(logits, model(x))
    expected = cross_entropy(logits, y)
    if name not in ("STD", "ADV"):
        expected = expected + expected_costs(logits, y) / 5
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", PAPER)
def test_an_adversarial_update_is_on_the_adversarial_images(name: str) -> None:
    method, model = made(name)
    x, y = images(5)
    other = torch.rand_like(x)
    loss, logits = method.loss(Batch(model, x, y, other))
    assert torch.equal(logits, model(other))
    torch.testing.assert_close(loss, method.loss(Batch(model, other, y))[0])


@pytest.mark.parametrize("name", PAPER)
def test_what_trains_on_adversarial_examples(name: str) -> None:
    method, _ = made(name)
    assert method.adversarial == (name in ADVERSARIAL)
    assert method.penalised == {"CSA+L2": "all", "CSE": "convs", "CSE+ADV": "convs"}.get(name, "")
    assert (method.penalty is None) == (method.penalised == "")


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_attack_inside_maximises_the_methods_own_objective(name: str) -> None:
    method, model = made(name)
    x, y = images(5)
    logits = model(x)
    climb = method.maximise(Batch(model, x, y))
    if name == "ADV":
        assert climb is None  # cross-entropy, as of any attack
        return
    costs = torch.stack(
        [expected_costs(z[None], label[None]) for z, label in zip(logits, y, strict=True)]
    )
    expected = cross_entropy(logits, y, reduction="none") + costs.view(-1)
    torch.testing.assert_close(climb(logits, y), expected.log().sum())


@pytest.mark.parametrize("name", ["CSA", "CSA+L2", "CSE+ADV"])
def test_or_cross_entropy_alone_where_asked(name: str) -> None:
    method, model = made(f"{name}(inner=cross_entropy)")
    x, y = images(5)
    assert method.maximise(Batch(model, x, y)) is None


def test_eq_7s_penalty_is_the_norm_of_all_parameters() -> None:
    method, model = made("CSA+L2")
    expected = sum((p**2).sum() for p in model.parameters()).sqrt()
    torch.testing.assert_close(method.penalty(), expected)


@pytest.mark.parametrize("name", ["CSE", "CSE+ADV"])
@pytest.mark.parametrize("regulariser", REGULARISERS)
@pytest.mark.parametrize("convs", [0, 1, 2])
def test_eq_10s_penalty_is_gamma_times_the_regulariser_of_the_first_convolutions(
    name: str, regulariser: str, convs: int
) -> None:
    method, model = made(f"{name}(gamma=2.5, regulariser={regulariser}, convs={convs})")
    weights = [model.body.conv1.weight, model.body.conv2.weight][: convs or 2]
    torch.testing.assert_close(method.penalty(), 2.5 * REGULARISERS[regulariser](weights))
    method.penalty().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {f"body.conv{i + 1}.weight" for i in range(convs or 2)}


def test_the_printed_fuzziness_of_all_convolutions_with_gamma_one_is_the_default() -> None:
    assert METHODS.parse("CSE").options == {"gamma": 1.0, "regulariser": "fuzziness", "convs": 0}
    method, model = made("CSE")
    rho = 1 / (1 + torch.cat([w.flatten() for w in _convs(model)]).abs().exp())
    expected = -(rho * rho.log() + (1 - rho) * (1 - rho).log()).mean()
    torch.testing.assert_close(method.penalty(), expected)


def _convs(model: nn.Module) -> list[Tensor]:
    return [model.body.conv1.weight, model.body.conv2.weight]


@pytest.mark.parametrize("name", PAPER)
def test_each_says_what_it_is_where_it_stands_and_of_which_terms_it_is_made(name: str) -> None:
    method, _ = made(name)
    entry = METHODS[name]
    assert entry.summary.count("+") + 1 == len(method.terms)
    assert entry.source.startswith("Eq. ") and not entry.file
    has_cost = any("expected cost" in term for term in method.terms)
    assert has_cost == (name not in ("STD", "ADV"))


def test_the_papers_methods_are_all_there() -> None:
    own = tuple(name for name, entry in METHODS.items() if not entry.file)
    assert own[: len(PAPER)] == PAPER


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "CSB",
            "'CSB' is unknown; allowed: STD, ADV, CSA, CSA+L2, CSE, CSE+ADV, ",
        ),
        ("CSE(gamma=-1)", "gamma: -1 is not allowed; allowed: greater than or equal to 0"),
        ("CSE(regulariser=l2)", "allowed: fuzziness, minmax, l1_minus_l2"),
        ("CSE(inner=objective)", "allowed: gamma, regulariser, convs"),
        ("CSA(inner=loss)", "allowed: objective, cross_entropy"),
        ("STD(gamma=1)", "no such option of method STD (value 1); allowed: none"),
    ],
)
def test_what_a_method_cannot_be_is_refused(spec: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        METHODS.parse(spec)
    assert says in str(error.value)


def test_a_method_knows_the_classes_to_protect_and_nothing_of_training() -> None:
    assert set(Task.__dataclass_fields__) == {"model", "costs", "protected", "threat"}
    assert set(inspect.signature(on_examples).parameters) == {"loss"}
