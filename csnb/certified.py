"""What no attack can undo: margins, accuracies and costs by sound bounds.

An attacked margin is as bad as an attack found; a certified one is as bad as it can be. Between the
two lies what the strongest attacker really reaches. Bounds are those of `csnb.bounds`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from csnb.attacks import ATTACKS, ThreatModel
from csnb.bounds import Certifier
from csnb.costs import check_costs, check_protected
from csnb.errors import InputError
from csnb.models import Normalized, check_answers
from csnb.spec import Spec, checker
from csnb.statistics import average, weighted_sum, wilson

CERTIFIED = "certified"  # stands where an attack's name could
# pixels by rows that are bounded at once: more leave a processor's caches and take twice the time
AT_ONCE = defaultdict(lambda: 2**21, cpu=2**17)
_check = checker(threat=ThreatModel)


def certified_margins(
    model: Normalized,
    x: Tensor,
    y: Tensor,
    protected: int | Sequence[int],
    threat: ThreatModel,
) -> np.ndarray:
    """Bounds on `csnb.worst_margins`: no image of p's is below, no other above. (N,) float32.

    Whatever the attack, under ``threat``, for a float32 network in evaluation (see
    `csnb.bounds.certified`). ``x``: pixels (N, C, H, W) in [0, 1]; ``y``: labels (N,);
    ``protected``: some of the classes. Raises InputError, also for a layer without a rule.
    """
    _check(threat=threat)
    classes = check_answers(model, x, y)
    mine = list(check_protected(protected, classes, most=classes - 1))
    others = [i for i in range(classes) if i not in mine]
    eye = torch.eye(classes, dtype=torch.float64, device=x.device)
    rows = (eye[mine][:, None] - eye[others]).flatten(0, 1)  # z_p - z_i
    own = torch.isin(y, torch.tensor(mine, device=y.device))
    sign = torch.where(own, 1.0, -1.0).to(rows)

    def worst(least: Tensor, sign: Tensor) -> Tensor:
        pairs = least.unflatten(1, (len(mine), len(others)))
        held = pairs.amin(2).amax(1)  # some p above all others
        kept_out = pairs.amin(1).amax(1)  # some other above all p
        return torch.where(sign > 0, held, -kept_out)

    found = _bounded(model, x, threat, lambda part: sign[part][:, None, None] * rows)
    margins = torch.cat([worst(least, sign[part]) for part, least in found])
    return _outward(margins, sign)


def certified_pairs(model: Normalized, x: Tensor, y: Tensor, threat: ThreatModel) -> np.ndarray:
    """Lower bounds on z_y - z_j of each image against each class j, (N, m) float32; inf for j = y.

    Where one is above 0, no attack makes class j of the image. Arguments and errors as of
    `certified_margins`.
    """
    _check(threat=threat)
    classes = check_answers(model, x, y)
    eye = torch.eye(classes, dtype=torch.float64, device=x.device)
    found = _bounded(model, x, threat, lambda part: eye[y[part]][:, None] - eye)
    least = torch.cat([least for _, least in found]).scatter(1, y[:, None], torch.inf)
    return _outward(least, torch.ones_like(least))


def identity(attack: str | Spec) -> str:
    """By which the margins of an attack, or certified ones, are kept. Raises InputError."""
    return CERTIFIED if attack == CERTIFIED else ATTACKS.parse(attack).identity


def certified_score(
    safe: np.ndarray, y: np.ndarray, *, classes: Sequence[str], costs: np.ndarray
) -> pd.DataFrame:
    """Scores of what images are ``safe`` from, (N, m) bool, in the columns of `csnb.score`.

    ``safe``: where no attack makes class j of the image, as where `certified_pairs` are above 0.
    ``y``: labels (N,). ``attack``: "certified". ``measure``: ``accuracy`` of each class (share of
    its images that no attack makes another), their ``average``; ``robust_error`` and
    ``robust_cost`` as Zhang and Evans 2019 count them: of the images of classes that can be
    mistaken at a cost, the share that is not safe from such a mistake, and the mean sum of the
    costs of all mistakes that are not ruled out. ``costs``: any (m, m), predicted by true. Raises
    InputError.
    """
    y, costs = np.asarray(y), check_costs(costs, len(classes))
    safe = np.asarray(safe)
    if safe.shape != (len(y), len(classes)) or safe.dtype != bool or not len(y):
        raise InputError(
            f"safe: {safe.dtype} shaped {safe.shape}; "
            f"allowed: bool ({len(y)}, {len(classes)}), an image or more"
        )
    total, held = np.bincount(y, minlength=len(classes)), np.bincount(y[safe.all(1)])
    held = np.pad(held, (0, len(classes) - len(held)))
    seen = np.flatnonzero(total)
    rows = [_row("accuracy", held[i], total[i]) | {"class": classes[i]} for i in seen]
    if len(seen) == len(classes):
        low, high = average(held / total, total)
        ends = {"value": (held / total).mean(), "low": low, "high": high}
        rows.append(_row("average", held.sum(), total.sum()) | ends)
    charged = (~safe * costs.T[y]).sum(1)[costs.max(0)[y] > 0]
    if n := len(charged):
        rows.append(_row("robust_error", (charged > 0).sum(), n))
        levels, counts = np.unique(charged[charged > 0], return_counts=True)
        if (dearest := costs.sum(0).max()) not in levels:  # it could have been seen
            levels, counts = np.append(levels, dearest), np.append(counts, 0)
        low, high = weighted_sum(levels, counts, n)
        ends = {"total": n, "value": charged.mean(), "low": low, "high": high}
        rows.append({"measure": "robust_cost"} | ends)
    columns = ["attack", "measure", "class", "correct", "total", "value", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns).assign(attack=CERTIFIED)
    frame = frame.fillna({"class": ""})  # before it is text, which "nan" is with pandas 2
    return frame.astype({"class": "str", "correct": "Int64", "total": "Int64"})


def _row(measure: str, count: int, total: int) -> dict[str, object]:
    low, high = wilson(count, total)
    ends = {"value": count / total, "low": float(low), "high": float(high)}
    return {"measure": measure, "correct": int(count), "total": int(total)} | ends


def _bounded(
    model: Normalized, x: Tensor, threat: ThreatModel, rows: Callable[[slice], Tensor]
) -> list[tuple[slice, Tensor]]:
    """Bounds on the rows of each batch, (B, K), and where it lies."""
    certify, found = Certifier(model), []
    work = x[0].numel() * rows(slice(1)).shape[-2]
    size = max(1, AT_ONCE[x.device.type] // work)
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        found.append((part, certify(x[part], rows(part), threat)))
    return found


def _outward(bounds: Tensor, sign: Tensor) -> np.ndarray:
    """Float64 bounds as float32, rounded down where ``sign`` is positive, else up."""
    exact = bounds.cpu().numpy()
    near = exact.astype(np.float32)
    ends = np.where(sign.cpu().numpy() > 0, -np.inf, np.inf).astype(np.float32)
    beyond = np.where(ends < 0, near > exact, near < exact)
    return np.where(beyond, np.nextafter(near, ends), near)
