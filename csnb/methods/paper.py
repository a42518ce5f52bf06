"""The paper's six methods, section III."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from csnb.errors import InputError
from csnb.losses import REGULARISERS, example_loss, l2_norm, log_objective
from csnb.methods.method import Batch, Loss, Method, Task, on_examples
from csnb.models import conv_weights
from csnb.spec import Count, Real, method

Gamma = Annotated[
    Real, Field(ge=0, description="weight of the regulariser (Eq. 10; the paper gives none)")
]
Regulariser = Annotated[
    Literal["fuzziness", "minmax", "l1_minus_l2"],
    Field(description="Eq. 8-9 as printed, with the limits of the text, or of the early code"),
]
Convs = Annotated[
    Count, Field(ge=0, description="regularises the first so many convolutions; 0: all")
]
Inner = Annotated[
    Literal["objective", "cross_entropy"],
    Field(description="what the attack inside training maximises (Eq. 4: the objective)"),
]

CROSS_ENTROPY = "cross-entropy of f(x) and y"
COST = r"expected cost: $\sum_i f_i(x)\, C(i, y)$"
FUZZINESS = r"$\gamma$ Fuzziness($W_{conv}$)"
NORM = r"$\|\theta_f\|_2$"


@method("STD", source="Eq. 1")
def std(task: Task) -> Method:
    """cross-entropy"""
    return Method(on_examples(_objective(None)), (CROSS_ENTROPY,))


@method("ADV", source="Eq. 2; Madry et al. 2018")
def adv(task: Task) -> Method:
    """cross-entropy"""
    return Method(on_examples(_objective(None)), (CROSS_ENTROPY,), adversarial=True)


@method("CSA", source="Eq. 4")
def csa(task: Task, *, inner: Inner = "objective") -> Method:
    """cross-entropy + expected cost"""
    return Method(
        on_examples(_objective(task.costs)),
        (CROSS_ENTROPY, COST),
        adversarial=True,
        maximise=_maximise(task, inner),
    )


@method("CSA+L2", source="Eq. 7")
def csa_l2(task: Task, *, inner: Inner = "objective") -> Method:
    """cross-entropy + expected cost + ||theta||_2"""
    return Method(
        on_examples(_objective(task.costs)),
        (CROSS_ENTROPY, COST, NORM),
        adversarial=True,
        maximise=_maximise(task, inner),
        penalty=lambda: l2_norm(task.model.parameters()),
        penalised="all",
    )


@method("CSE", source="Eq. 10")
def cse(
    task: Task, *, gamma: Gamma = 1.0, regulariser: Regulariser = "fuzziness", convs: Convs = 0
) -> Method:
    """cross-entropy + expected cost + gamma fuzziness"""
    return Method(
        on_examples(_objective(task.costs)),
        (CROSS_ENTROPY, COST, FUZZINESS),
        penalty=_fuzziness(task, gamma, regulariser, convs),
        penalised="convs",
    )


@method("CSE+ADV", source="Eq. 10")
def cse_adv(
    task: Task,
    *,
    gamma: Gamma = 1.0,
    regulariser: Regulariser = "fuzziness",
    convs: Convs = 0,
    inner: Inner = "objective",
) -> Method:
    """cross-entropy + expected cost + gamma fuzziness"""
    return Method(
        on_examples(_objective(task.costs)),
        (CROSS_ENTROPY, COST, FUZZINESS),
        adversarial=True,
        maximise=_maximise(task, inner),
        penalty=_fuzziness(task, gamma, regulariser, convs),
        penalised="convs",
    )


def _objective(costs: Tensor | None) -> Loss:
    return lambda logits, labels: example_loss(logits, labels, costs)


def _maximise(task: Task, inner: str) -> Callable[[Batch], Loss | None]:
    """The max of Eq. 4: of the method's own objective, or of cross-entropy alone.

    Each image's logarithm of it has the same maxima, and gradients that do not underflow.
    """
    if inner == "cross_entropy":
        return lambda batch: None
    return lambda batch: lambda logits, labels: log_objective(logits, labels, task.costs).sum()


def _fuzziness(task: Task, gamma: float, regulariser: str, convs: int) -> Callable[[], Tensor]:
    """gamma times a fuzziness of the convolutions' weights (Eq. 10)."""
    weights = list(conv_weights(task.model).values())[: convs or None]
    if not weights:
        raise InputError(
            "method: fuzziness (Eq. 8) is of convolutions, and the model has none; "
            "allowed: a model with some, or a method without fuzziness, such as CSA"
        )
    return lambda: gamma * REGULARISERS[regulariser](weights)
