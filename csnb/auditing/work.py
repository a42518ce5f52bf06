"""One attack after another, each on what still stands; what is done is kept."""

import io
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from csnb.attacks import ATTACKS, ThreatModel, perturb
from csnb.auditing.autoattack import AUDITED
from csnb.auditing.blind import miss
from csnb.auditing.plan import Attack, Budget
from csnb.errors import InputError
from csnb.images import batch_of
from csnb.losses import log_odds
from csnb.margins import ATTACK, class_margin, worst_margins
from csnb.models import Normalized
from csnb.paths import read_file, write_atomically
from csnb.spec import Spec

CLAIMED = "claimed margins"  # where the store has them
USUAL = "usual PGD on the class's margin"  # that the claimed curve rests on


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
            with suppress(OSError, ValueError, EOFError, KeyError, BadZipFile, zlib.error):
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


class Seen(NamedTuple):
    """What the network makes of images: ``answers``; the class's ``margins``; ``leads`` of the true
    class over the likeliest other. (N,) each.
    """

    answers: np.ndarray
    margins: np.ndarray
    leads: np.ndarray


@dataclass
class Findings:
    """What attacks have found so far.

    ``clean``: answers to the images as they are. ``standing``: (N,) bool, right under all attacks;
    ``margins``: (N,) worst ones of the protected classes; ``leads``: (N,) least ones of the true
    class; ``rows``: of each attack.
    """

    clean: np.ndarray
    standing: np.ndarray
    margins: np.ndarray
    leads: np.ndarray
    rows: list[dict[str, object]]

    def take(self, own: np.ndarray, reached: np.ndarray) -> None:
        """Count what one more attack reached, (N, 4) of `_one`."""
        _, fell, margins, leads = reached.T
        worse = np.where(own, margins < self.margins, margins > self.margins)
        self.margins = np.where(worse & np.isfinite(margins), margins, self.margins)
        self.leads = np.fmin(self.leads, leads)
        self.standing = self.standing & ~(fell > 0)


def attack_all(
    case: Case,
    budget: Budget,
    others: Mapping[str, Normalized],
    store: Store,
    certain: np.ndarray,
    done: Callable[[str], None],
) -> Findings:
    """The attacks of the budget; after the white box those from other networks.

    ``certain``: (N,) bool, images that no attack moves: the slow ones leave them aside.
    """
    seen = look(case, case.x, case.y)
    right = case.right & (seen.answers == case.y.cpu().numpy())
    found = Findings(seen.answers, right, seen.margins, seen.leads, [])
    usual = Attack(USUAL, str(ATTACKS.parse(ATTACK)), "class", "white")
    margins = store.get(CLAIMED, lambda: _claimed(case))
    _count(case, found, usual, _crossing(case.own, margins), store.seconds(CLAIMED))
    done(USUAL)
    for attack in steps(budget, others):
        asked = _asked(attack, budget, found, certain)
        reached = store.get(attack.name, lambda a=attack, of=asked: _one(case, others, a, of))
        _count(case, found, attack, reached, store.seconds(attack.name))
        done(attack.name)
    return found


def _count(
    case: Case, found: Findings, attack: Attack, reached: np.ndarray, seconds: float
) -> None:
    """Add what an attack reached, and its row."""
    asked, before = reached[:, 0] > 0, found.standing
    found.take(case.own, reached)
    row = {"attack": attack.name, "sort": attack.sort, "spec": attack.spec, "seconds": seconds}
    row |= {"asked": int(asked.sum()), "fell": int((before & ~found.standing).sum())}
    found.rows.append(row | {"failed": bool((reached[asked, 1] < 0).any())})


def steps(budget: Budget, others: Mapping[str, Normalized]) -> list[Attack]:
    """The attacks in their order: white box, transfer, black box."""
    moved = [Attack(f"from {name}", budget.transfer, "miss", "transfer") for name in others]
    black = [a for a in budget.attacks if a.sort == "black"]
    return [*(a for a in budget.attacks if a.sort != "black"), *moved, *black]


def _claimed(case: Case) -> np.ndarray:
    """The worst margins that csnb's usual attack reaches: the curve that is claimed."""
    if not is_smooth(case.model, case.x, case.y):
        return look(case, case.x, case.y).margins
    given = case.model, case.x, case.y, case.protected, case.threat
    return worst_margins(*given, attack=ATTACK, seed=case.seed).astype(np.float32)


def _asked(attack: Attack, budget: Budget, found: Findings, certain: np.ndarray) -> np.ndarray:
    """Which images an attack meets, (N,) bool: of those that stand, where it is told to, the ones
    that are the nearest to falling.
    """
    if attack.aim == "class":
        near, possible = np.abs(found.margins), np.ones_like(found.standing)
    else:
        near, possible = found.leads, found.standing & ~(certain & (attack.crowd != "all"))
    most = {"all": len(near), "near": budget.near, "nearest": budget.nearest}[attack.crowd]
    asked = np.zeros_like(possible)
    asked[np.argsort(np.where(possible, near, np.inf), kind="stable")[:most]] = True
    return asked & possible


def _one(
    case: Case, others: Mapping[str, Normalized], attack: Attack, asked: np.ndarray
) -> np.ndarray:
    """For each image: whether it was attacked, fell (-1: the attack failed), its margin and the
    true class's lead, NaN where they are not known. (N, 4).
    """
    reached = np.full((len(asked), 4), np.nan, dtype=np.float32)
    reached[:, :2] = 0
    reached[asked, 0] = 1
    place = torch.from_numpy(asked.nonzero()[0])
    source = others.get(attack.name.removeprefix("from ")) if attack.sort == "transfer" else None
    if attack.aim == "class":
        return _of_class(case, attack, reached, place)
    for part in place.split(batch_of(case.x)):
        x, y = (t[part.to(t.device)] for t in (case.x, case.y))
        try:
            seen = look(case, adversarial(case, attack, x, y, source), y)
        except InputError:  # not finite, or images that the attack does not take
            reached[part.numpy(), 1] = -1
            continue
        fell = seen.answers != y.cpu().numpy()
        reached[part.numpy(), 1:] = np.stack([fell, seen.margins, seen.leads], 1)
    return reached


def _of_class(case: Case, attack: Attack, reached: np.ndarray, place: Tensor) -> np.ndarray:
    """As `_one`, of images that need not stand."""
    settings = {"protected": case.protected, "threat": case.threat, "attack": attack.spec}
    x, y = (t[place.to(t.device)] for t in (case.x, case.y))
    try:
        margins = worst_margins(case.model, x, y, seed=case.seed + _salt(attack), **settings)
    except InputError:
        reached[place.numpy(), 1] = -1
        return reached
    reached[place.numpy()] = _crossing(case.own[place.numpy()], margins)
    return reached


def _crossing(own: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """What worst margins (n,) of the classes say, (n, 4) as of `_one`.

    Past 0 the network is fooled; the true class's lead is no larger than the margin on its side.
    """
    leads = np.where(own, margins, -margins)
    return np.stack([np.ones(len(own)), leads < 0, margins, leads], 1).astype(np.float32)


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
def look(case: Case, images: Tensor, labels: Tensor) -> Seen:
    """What the network makes of images (n, C, H, W) of these labels (n,). Raises InputError."""
    seen = []
    size = batch_of(images)
    for part, y in zip(images.split(size), labels.split(size), strict=True):
        logits = case.model(part)
        if not logits.isfinite().all():
            raise InputError("model: gives logits that are not finite; allowed: finite ones")
        seen.append((logits.argmax(1), class_margin(logits, case.protected), -miss(logits, y)))
    return Seen(*(torch.cat(each).cpu().numpy() for each in zip(*seen, strict=True)))
