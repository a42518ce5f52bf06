"""The paper's losses, by equation.

Logits (B, m) and labels (B,) in; means over the batch out, unless said.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, softplus


def expected_cost(logits: Tensor, labels: Tensor, costs: Tensor) -> Tensor:
    """Second term of Eq. 4 for each image: sum_i softmax_i(x) C[i, y]. (B,).

    ``costs``: (m, m), predicted by true.
    """
    return (logits.softmax(1) * costs.T[labels]).sum(1)


def others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits, the true class's being -inf."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log((1 - p) / p) of the true class's probability p = softmax_y, without cancellation. (B,).

    Cross-entropy is softplus of it, so that both rise and fall together for every image. What
    differs is float32: cross-entropy's gradient is softmax - onehot, whose true class's part is
    exactly 0 once that class leads by about 17 logits; this one's is onehot's whole.
    """
    return _log_odds(others(logits, labels), logits, labels)


def _log_odds(rest: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    return rest.logsumexp(1) - logits.gather(1, labels[:, None]).squeeze(1)


def log_objective(logits: Tensor, labels: Tensor, costs: Tensor) -> Tensor:
    """log of Eq. 4 for each image, without cancellation or underflow. (B,).

    With the `log_odds` s and the others' shares q, softmax without the true class y, Eq. 4 is
    softplus(s) + sigmoid(s) sum_i q_i C[i, y]. For s << 0 both terms vanish like e^s; the logarithm
    does not.
    """
    rest = others(logits, labels)
    s = _log_odds(rest, logits, labels)
    cost = (rest.softmax(1) * costs.T[labels]).sum(1)
    near = s.clamp_min(-15)  # below, softplus / sigmoid is 1 in float32
    return logsigmoid(s) + (softplus(near) / near.sigmoid() + cost).log()


def soft_margin(logits: Tensor, protected: Sequence[int]) -> Tensor:
    """log(q / (1 - q)) of the probability q that softmax gives to the protected classes. (B,).

    Their logits' logsumexp less the others'. -log q is softplus(-margin), -log(1 - q) is
    softplus(margin).
    """
    mine, rest = sides(logits, protected)
    return mine.logsumexp(1) - rest.logsumexp(1)


def sides(logits: Tensor, protected: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The logits of the protected classes and those of the others, each (B, m), else -inf."""
    own = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    own[list(protected)] = True
    return logits.masked_fill(~own, -torch.inf), logits.masked_fill(own, -torch.inf)


def log_softplus(x: Tensor) -> Tensor:
    """log(softplus(x)) without underflow: x itself far below 0."""
    return torch.where(x < -15, x, softplus(x.clamp_min(-15)).log())  # e^-15 / 2 is its error


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed, as torch computes it: what the paper's attacks climbed."""
    return cross_entropy(logits, labels, reduction="sum")


def example_loss(logits: Tensor, labels: Tensor, costs: Tensor | None) -> Tensor:
    """Cross-entropy (Eq. 1), plus the expected cost (Eq. 4) where ``costs`` is given; the mean."""
    loss = cross_entropy(logits, labels)
    return loss if costs is None else loss + expected_cost(logits, labels, costs).mean()


def fuzziness(weights: Sequence[Tensor]) -> Tensor:
    """Eq. 8-9 exactly as printed, over all elements: rho = 1 / (1 + e^|w|). In [0, ln 2].

    The text says that w -> 0 gives rho -> 1. It gives rho = 1/2, where the fuzziness is largest:
    minimising this pushes every |w| > 0 up. `minmax_fuzziness` has the limits that the text asks
    for.
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
