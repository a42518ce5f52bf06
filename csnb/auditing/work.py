"""One attack after another, each on what still stands; what is done is kept."""

import io
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csnb.attacks import ATTACKS, ThreatModel, perturb
from csnb.attacks.threat import batch_of
from csnb.auditing.autoattack import AUDITED
from csnb.auditing.blind import miss
from csnb.auditing.plan import Attack, Budget
from csnb.errors import InputError
from csnb.losses import log_odds
from csnb.margins import class_margin, worst_margins
from csnb.models import Normalized
from csnb.paths import read_file, write_atomically
from csnb.spec import Spec


@dataclass
class Case:
    """What is audited: a network, its images, the attacker, what is claimed.

    ``x``: pixels (N, C, H, W); ``y``: (N,); ``protected``: indices. ``claim``: the attack that the
    claim rests on; ``spoken``: (N,) bool, the images that it speaks of; ``right``: (N,) bool, those
    that are right under it, and all others.
    """

    model: Normalized
    x: Tensor
    y: Tensor
    threat: ThreatModel
    protected: tuple[int, ...]
    claim: Spec
    seed: int
    right: np.ndarray
    spoken: np.ndarray

    @property
    def own(self) -> np.ndarray:
        """Which images are of a protected class."""
        return np.isin(self.y.cpu().numpy(), self.protected)


class Store:
    """Arrays by name, on the disk after each: an interruption loses no finished attack."""

    def __init__(self, file: Path | None, images: int) -> None:
        self.file, self.arrays = file, {}
        if file is not None:
            with suppress(OSError, ValueError, EOFError, KeyError):
                held = np.load(io.BytesIO(read_file(file)), allow_pickle=False)
                self.arrays = {name: held[name] for name in held.files}
            if any(len(a) != images for n, a in self.arrays.items() if n[0] != "/"):
                self.arrays = {}

    def get(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of that name: as it is kept, else made now and kept."""
        if name not in self.arrays:
            start = time.perf_counter()
            made = make()
            self.arrays |= {name: made, f"/{name}": np.array(time.perf_counter() - start)}
            self._write()
        return self.arrays[name]

    def seconds(self, name: str) -> float:
        """How long it took to make."""
        return float(self.arrays[f"/{name}"])

    def _write(self) -> None:
        if self.file is not None:
            packed = io.BytesIO()
            np.savez_compressed(packed, **self.arrays)
            with suppress(OSError):  # somebody else's folder is audited all the same
                write_atomically(self.file, packed.getvalue())


@dataclass
class Findings:
    """What attacks have found so far.

    ``standing``: (N,) bool, right under all of them; ``margins``: (N,) worst ones of the protected
    classes; ``rows``: of each attack.
    """

    standing: np.ndarray
    margins: np.ndarray
    rows: list[dict[str, object]]

    def take(self, own: np.ndarray, margins: np.ndarray, fooled: np.ndarray) -> None:
        """Count what one more attack reached."""
        worse = np.where(own, margins < self.margins, margins > self.margins)
        self.margins = np.where(worse & np.isfinite(margins), margins, self.margins)
        self.standing = self.standing & ~fooled


def attack_all(
    case: Case,
    budget: Budget,
    others: Mapping[str, Normalized],
    store: Store,
    done: Callable[[str], None],
) -> Findings:
    """The attacks of the budget; after the white box those from other networks."""
    claimed = store.get("claimed margins", lambda: _claimed(case))
    done("claimed margins")
    found = Findings(
        case.right & (answers_and_margins(case, case.x)[0] == case.y.cpu().numpy()), claimed, []
    )
    for attack in steps(budget, others):
        arrays = store.get(attack.name, lambda a=attack: _one(case, budget, others, a, found))
        asked, margins = arrays[:, 0] > 0, arrays[:, 2]
        before = found.standing
        found.take(case.own, margins, arrays[:, 1] > 0)
        fell = before & ~found.standing
        row = {"attack": attack.name, "sort": attack.sort, "spec": attack.spec}
        row |= {
            "asked": int(asked.sum()),
            "fell": int(fell.sum()),
            "seconds": store.seconds(attack.name),
        }
        found.rows.append(row | {"failed": bool((arrays[asked, 1] < 0).any())})
        done(attack.name)
    return found


def steps(budget: Budget, others: Mapping[str, Normalized]) -> list[Attack]:
    """The attacks in their order: white box, transfer, black box."""
    moved = [Attack(f"from {name}", budget.transfer, "miss", "transfer") for name in others]
    black = [a for a in budget.attacks if a.sort == "black"]
    return [*(a for a in budget.attacks if a.sort != "black"), *moved, *black]


def _claimed(case: Case) -> np.ndarray:
    """The worst margins that csnb's usual attack reaches: the curve that is claimed."""
    if not is_smooth(case.model, case.x, case.y):
        return answers_and_margins(case, case.x)[1]
    settings = {"protected": case.protected, "threat": case.threat, "seed": case.seed}
    return worst_margins(case.model, case.x, case.y, **settings).astype(np.float32)


def _one(
    case: Case,
    budget: Budget,
    others: Mapping[str, Normalized],
    attack: Attack,
    found: Findings,
) -> np.ndarray:
    """For each image: whether it was attacked, fell (-1: the attack failed), its margin. (N, 3)."""
    if attack.aim == "class":
        return _of_class(case, attack)
    asked = found.standing.copy()
    if attack.hardest and asked.sum() > budget.hardest:
        near = np.where(asked, np.abs(found.margins), np.inf)
        asked[np.argsort(near, kind="stable")[budget.hardest :]] = False
    arrays = np.full((len(asked), 3), np.nan, dtype=np.float32)
    arrays[:, :2] = 0
    arrays[asked, 0] = 1
    place = torch.from_numpy(asked.nonzero()[0])
    source = others.get(attack.name.removeprefix("from ")) if attack.sort == "transfer" else None
    for part in place.split(batch_of(case.x)):
        x, y = (t[part.to(t.device)] for t in (case.x, case.y))
        try:
            images = adversarial(case, attack, x, y, source)
            answers, margins = answers_and_margins(case, images)
        except InputError:  # not finite, or images that the attack does not take
            arrays[part.numpy(), 1] = -1
            continue
        arrays[part.numpy(), 1] = answers != y.cpu().numpy()
        arrays[part.numpy(), 2] = margins
    return arrays


def _of_class(case: Case, attack: Attack) -> np.ndarray:
    """As `_one`, of all images: whoever moves the class's margin past 0 fools the network."""
    settings = {"protected": case.protected, "threat": case.threat}
    seed = case.seed + _salt(attack)
    try:
        margins = worst_margins(
            case.model, case.x, case.y, attack=attack.spec, seed=seed, **settings
        )
    except InputError:
        return np.tile(np.array([1, -1, np.nan], np.float32), (len(case.x), 1))
    fell = np.where(case.own, margins < 0, margins > 0)
    return np.stack([np.ones(len(fell)), fell, margins], 1).astype(np.float32)


def _salt(attack: Attack) -> int:
    """No attack starts where another did."""
    return sum(map(ord, attack.name))


def adversarial(
    case: Case, attack: Attack, x: Tensor, y: Tensor, source: Normalized | None = None
) -> Tensor:
    """What an attack makes of these images, on the network itself or on another."""
    name = attack.spec.partition("(")[0]
    spec = (AUDITED if name in AUDITED else ATTACKS).parse(attack.spec)
    loss = miss_sum if attack.aim == "miss" else None
    worst = "worst" if source is None else "last"
    settings = {"loss": loss, "robust": worst, "seed": case.seed + _salt(attack)}
    return perturb(source or case.model, x, y, spec, case.threat, **settings)


def miss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    return miss(logits, labels).sum()


@torch.enable_grad()
def slope_of(model: nn.Module, x: Tensor, labels: Tensor, *, exact: bool = True) -> Tensor:
    """Of the log-odds of being wrong, or of cross-entropy as torch computes it."""
    z = x.detach().clone().requires_grad_()
    logits = model(z)
    loss = log_odds(logits, labels) if exact else cross_entropy(logits, labels, reduction="none")
    if not logits.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(loss.sum(), z, allow_unused=True, materialize_grads=True)[0]


def is_smooth(model: nn.Module, x: Tensor, labels: Tensor) -> bool:
    """Whether gradients at these images are finite: else no attack that follows them moves."""
    size = batch_of(x)
    parts = zip(x.split(size), labels.split(size), strict=True)
    return all(bool(slope_of(model, *part).isfinite().all()) for part in parts)


@torch.no_grad()
def answers_and_margins(case: Case, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the network takes images for, and the class's margins. Raises InputError."""
    answers, margins = [], []
    for part in images.split(batch_of(images)):
        logits = case.model(part)
        if not logits.isfinite().all():
            raise InputError("model: gives logits that are not finite; allowed: finite ones")
        answers.append(logits.argmax(1))
        margins.append(class_margin(logits, case.protected))
    return torch.cat(answers).cpu().numpy(), torch.cat(margins).cpu().numpy()
