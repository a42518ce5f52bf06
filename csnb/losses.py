"""The paper's losses, by equation.

Logits (B, m) and labels (B,) in; means over the batch out, unless said.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid


def expected_cost(logits: Tensor, labels: Tensor, costs: Tensor) -> Tensor:
    """Second term of Eq. 4 for each image: sum_i softmax_i(x) C[i, y]. (B,).

    ``costs``: (m, m), predicted by true.
    """
    return (logits.softmax(1) * costs.T[labels]).sum(1)


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the batch: what the paper's attacks maximise."""
    return cross_entropy(logits, labels, reduction="sum")


def example_loss(
    logits: Tensor, labels: Tensor, costs: Tensor | None, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy (Eq. 1), plus the expected cost (Eq. 4) where ``costs`` is given.

    ``reduction``: mean or sum over the batch.
    """
    loss = cross_entropy(logits, labels, reduction=reduction)
    if costs is None:
        return loss
    cost = expected_cost(logits, labels, costs)
    return loss + (cost.mean() if reduction == "mean" else cost.sum())


def fuzziness(weights: Sequence[Tensor]) -> Tensor:
    """Eq. 8-9 exactly as printed, over all elements: rho = 1 / (1 + e^|w|). In [0, ln 2].

    The text says that w -> 0 gives rho -> 1. It gives rho = 1/2, where the fuzziness is largest:
    minimising this pushes every |w| up. `minmax_fuzziness` has the limits that the text asks for.
    """
    size = _flat(weights).abs()  # |w|; log rho = logsigmoid(-|w|), log(1 - rho) = logsigmoid(|w|)
    return -(
        torch.sigmoid(-size) * logsigmoid(-size) + torch.sigmoid(size) * logsigmoid(size)
    ).mean()


def minmax_fuzziness(weights: Sequence[Tensor]) -> Tensor:
    """Eq. 8 with rho = 2 / (1 + e^|w|). In [0, ln 2].

    No fuzziness at w = 0 (rho = 1) and at |w| -> infinity (rho = 0).
    """
    size = _flat(weights).abs()
    rho = 2 * torch.sigmoid(-size)
    # 1 - rho; no infinite slope at w = 0
    complement = torch.tanh(size / 2).clamp_min(torch.finfo(size.dtype).tiny)
    return -(rho * (logsigmoid(-size) + math.log(2)) + complement * complement.log()).mean()


def l1_minus_l2(weights: Sequence[Tensor]) -> Tensor:
    """Sum over the layers of ||W||_1 - ||W||_2: what the authors' early code optimised.

    Section III-D names it.
    """
    return torch.stack([w.abs().sum() - torch.linalg.vector_norm(w) for w in weights]).sum()


def l2_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Eq. 7's ||theta||_2 over all parameters together (the norm, not its square)."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p) for p in parameters]))


REGULARISERS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "fuzziness": fuzziness,
    "minmax": minmax_fuzziness,
    "l1_minus_l2": l1_minus_l2,
}


def _flat(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([w.flatten() for w in weights])
