"""What no attack can undo, beside what attacks left: sound bounds, where each layer has a rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from csnb.auditing.indicators import Indicator, share
from csnb.auditing.plan import Attack
from csnb.auditing.work import CLAIMED, USUAL, Case, Findings, Store
from csnb.certified import certified_margins, certified_pairs
from csnb.errors import InputError

NOTHING = np.array(np.nan)  # a margin that is not known


@dataclass(frozen=True)
class Certified:
    """``stands``: (N,) bool, images that no attack makes another class; ``margins``: (N,), of
    `csnb.certified_margins`.
    """

    stands: np.ndarray
    margins: np.ndarray

    def crossed(self, own: np.ndarray, margins: np.ndarray, fooled: np.ndarray) -> np.ndarray:
        """Which images an attack brought where none can, (N,) bool."""
        beyond = np.where(own, margins < self.margins, margins > self.margins)
        return beyond | (self.stands & fooled)


def certify(case: Case, store: Store) -> Certified | str:
    """Bounds of all images; or, in few words, why there are none."""
    if case.x.is_cuda and torch.backends.cudnn.allow_tf32:
        return "TensorFloat-32 is on, for which no bound holds"
    given = case.model, case.x, case.y, case.protected, case.threat
    try:
        margins = store.get("certified margins", lambda: certified_margins(*given))
        stands = store.get("certified", lambda: _stands(case, margins))
    except InputError as error:
        return str(error).removeprefix("bounds: ").partition("; allowed")[0]
    if not np.isfinite(margins).all():
        return "bounds that are not finite"
    return Certified(stands, margins)


def _stands(case: Case, margins: np.ndarray) -> np.ndarray:
    """Which images no attack makes another class, (N,) bool: only those that it cannot bring past
    the boundary of the protected ones; of a single such class, all of its own.
    """
    stands = np.where(case.own, margins > 0, margins < 0)
    open_still = stands & ~(case.own & (len(case.protected) == 1))
    place = torch.from_numpy(open_still.nonzero()[0])
    if len(place):
        x, y = (t[place.to(t.device)] for t in (case.x, case.y))
        stands[open_still] = (certified_pairs(case.model, x, y, case.threat) > 0).all(1)
    return stands


def contradicted(
    case: Case, certified: Certified, found: Findings, store: Store, attacks: Sequence[Attack]
) -> Indicator:
    """Whether an attack, the claim's or none reached what bounds rule out: one of them is wrong."""
    y, margins = case.y.cpu().numpy(), store.arrays[CLAIMED]
    reached = {"no attack": (NOTHING, found.clean != y), "the claim": (NOTHING, ~case.right)}
    reached |= {USUAL: (margins, np.where(case.own, margins < 0, margins > 0))}
    for attack in attacks:
        _, fell, margins, _ = store.arrays[attack.name].T
        reached[attack.name] = margins, fell > 0
    for name in ("steps of the claim", "more steps"):
        reached[name] = NOTHING, store.arrays.get(name, np.False_)
    crossed = {name: certified.crossed(case.own, *each) for name, each in reached.items()}
    count = int(np.any(list(crossed.values()), axis=0).sum())
    names = ", ".join(name for name, which in crossed.items() if which.any())
    text = "were moved across a bound that no attack can cross"
    text += f" (by {names}): the attack leaves the ball, or the bounds do not hold" * bool(names)
    return share("bounds", "broken", count, len(y), 0, text)
