"""Signs that an attack failed for another reason than a robust network.

After Carlini et al. 2019 ("On evaluating adversarial robustness"), Pintor et al. 2022 ("Indicators
of attack failure") and AutoAttack's own flags. Each is a number that is held to a threshold. A
share counts as above its threshold where the lower end of its 95 % interval is: one odd image
condemns no network.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from csnb.attacks import ATTACKS, ThreatModel, perturb
from csnb.auditing.blind import miss
from csnb.auditing.plan import Attack, Budget
from csnb.auditing.work import Case, Findings, Store, adversarial, look, slope_of
from csnb.errors import InputError
from csnb.models import evaluating
from csnb.spec import Spec
from csnb.statistics import wilson

FLOAT32 = 16.6  # logits: with a larger lead 1 - softmax rounds to 0
SPACING = 1e-3  # of float32 at the largest logit, in leads
EQUAL = 1e-3  # of the logits' range: less is rounding
STEEP = 0.9  # cosine of gradients that point the same way
MOST = 0.5  # of images, so that a sign is one of the network
MORE = 5  # times as many steps
Kind = Literal["broken", "blind", "claim", "short", "note"]


@dataclass(frozen=True)
class Indicator:
    """One sign.

    ``value`` against ``threshold``: of a share, the lower end of its interval counts. ``kind``:
    what it says where it is ``flagged`` - "broken": no accuracy of this network means anything;
    "blind": attacks do not see it, so that what they leave is no robustness; "claim": the attack of
    the claim fails on it; "short": the audit itself was too short; "note": other attacks than the
    claim's would fail on it.
    """

    name: str
    kind: Kind
    value: float
    threshold: float
    flagged: bool
    text: str


def share(name: str, kind: Kind, count: int, n: int, threshold: float, text: str) -> Indicator:
    """Of ``count`` of ``n`` images."""
    low = float(wilson(count, n)[0]) if n else 0.0
    said = f"{count} of {n} {text}"
    return Indicator(name, kind, count / n if n else 0.0, threshold, low > threshold, said)


def measure(name: str, kind: Kind, value: float, threshold: float, text: str) -> Indicator:
    """Of a number."""
    return Indicator(name, kind, value, threshold, bool(value > threshold), text)


def indicate(
    case: Case, budget: Budget, found: Findings, store: Store, done: Callable[[str], None]
) -> list[Indicator]:
    """All of them. What attacks again is kept in ``store``."""
    right = (found.clean == case.y.cpu().numpy()).nonzero()[0]
    own = case.own[right]  # these first, then the others in turn
    chosen = np.r_[right[own][: budget.looks // 2], right[~own]][: budget.looks]
    place = torch.from_numpy(np.sort(chosen))
    x, labels = (t[place.to(t.device)] for t in (case.x, case.y))
    with evaluating(case.model):
        made = [constant(found.clean), *answers(case.model, x)]
        if len(place):
            made += [*gradients(case, x, labels), *sizes(case, x, labels)]
    made += [*beaten(found), unbounded(case, x, labels, store)]
    done("unbounded eps")
    made += [steps(case, budget, found, store) for steps in (steps_of_claim, steps_of_audit)]
    done("more steps")
    return made


def constant(clean: np.ndarray) -> Indicator:
    """Nothing to attack where every image gets the same answer."""
    kinds = len(np.unique(clean))
    text = f"{kinds} different answers to {len(clean)} clean images"
    return Indicator("one answer", "broken", kinds, 1, kinds < 2 <= len(clean), text)


@torch.no_grad()
def answers(model: nn.Module, x: Tensor) -> Iterable[Indicator]:
    """Do logits depend on the call or on the other images? Are they probabilities?"""
    first, again = model(x), model(x)
    n = len(x)
    text = "answered otherwise when asked again"
    yield share("changes", "broken", _differ(first, again), n, 0, text)
    half = torch.cat([model(part) for part in x.flip(0).split(7)]).flip(0) if n else first
    changed = _differ(first, half) if not _differ(first, again) else 0
    yield share("batch", "broken", changed, n, 0, "answered otherwise beside other images")
    sure = (first >= 0).all(1) & ((first.sum(1) - 1).abs() < 1e-4)
    text = "get probabilities instead of logits, whose softmax attacks take once more"
    yield share("probabilities", "blind", int(sure.sum()), n, MOST, text)


def _differ(first: Tensor, second: Tensor) -> int:
    """Of how many images logits differ by more than a rounding."""
    extent = (first.amax(1) - first.amin(1)).clamp_min(torch.finfo(first.dtype).tiny)
    return int(((first - second).abs().amax(1) > EQUAL * extent).sum())


def gradients(case: Case, x: Tensor, labels: Tensor) -> Iterable[Indicator]:
    """At the clean image and along an attack's path: is there a slope, and is it the right one?"""
    few = Attack("path", "PGD(steps=5, step_size=0)", "miss", "white")
    points, failed = [x], 0
    try:
        points.append(adversarial(case, few, x, labels))
    except InputError:
        failed = len(x)
    slopes = [slope_of(case.model, z, labels) for z in points]
    flat = [((s == 0).flatten(1).all(1) | ~s.isfinite().flatten(1).all(1)) for s in slopes]
    count = max([failed, *(int(f.sum()) for f in flat)])
    text = "have no gradient, or none that is finite, where they are or along an attack's path"
    yield share("gradient", "blind", count, len(x), 0.05, text)
    rounded = slope_of(case.model, x, labels, exact=False)
    near = cosine_similarity(_unit(rounded), _unit(slopes[0]), dim=1)
    wrong = int((~(near > STEEP) & ~flat[0]).sum())
    text = "have a gradient of cross-entropy that float32 turns away from the exact one"
    yield share("float32 gradient", float32_kind(case.claim), wrong, len(x), MOST, text)


def float32_kind(claim: Spec) -> Kind:
    """Whether the claim's attack climbs cross-entropy as float32 has it; who knows of others'."""
    return "note" if claim.options.get("gradient") == "exact" else "claim"


def _unit(slope: Tensor) -> Tensor:
    """Flat, its largest part 1: squares of 1e-30 are 0."""
    flat = slope.flatten(1).nan_to_num()
    return flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-38)


@torch.no_grad()
def sizes(case: Case, x: Tensor, labels: Tensor) -> Iterable[Indicator]:
    """Of logits, against what float32 can tell apart."""
    logits = case.model(x)
    lead = -miss(logits, labels)
    median = float(lead.median())
    text = (
        f"the true class leads by {median:.1f} logits (median): from {FLOAT32} on, float32 takes "
        "its softmax for 1"
    )
    yield measure("lead", float32_kind(case.claim), median, FLOAT32, text)
    largest = logits.abs().amax(1)
    spacing = float((largest * torch.finfo(torch.float32).eps / lead.clamp_min(1e-30)).median())
    text = f"float32 resolves the largest logits to {spacing:.1e} of the true class's lead (median)"
    yield measure("saturation", "blind", spacing, SPACING, text)


def beaten(found: Findings) -> Iterable[Indicator]:
    """What the white box left, and weaker attackers took."""
    n = len(found.standing)
    kinds = {
        "one step": "fell to one step of FGSM, which many steps had left",
        "transfer": "fell to images made for another network, which its own gradients had left",
        "black": "fell to attacks without gradients, which those with gradients had left",
    }
    for sort, text in kinds.items():
        fell = sum(int(row["fell"]) for row in found.rows if row["sort"] == sort)
        yield share(sort, "blind", fell, n, 0.005, text)


def unbounded(case: Case, x: Tensor, labels: Tensor, store: Store) -> Indicator:
    """Whoever may paint any image must win: what is left was not found."""
    wide = replace(case, threat=ThreatModel(1.0, "linf", "pixel", True))
    kept = store.get("unbounded eps", lambda: _left(wide, x, labels, len(case.x)))
    left, n = int(kept[: len(x)].sum()), len(x)
    text = "stand where any image may be shown instead"
    return share("unbounded", "blind", left, n, 0.1, text)


def _left(case: Case, x: Tensor, labels: Tensor, n: int) -> np.ndarray:
    """Which of these images stand; in the first places of (n,) bool."""
    standing = np.zeros(n, dtype=bool)
    if not len(x):
        return standing
    try:
        for spec in ("PGD(steps=40, step_size=0.05, restarts=2)", "MIA(steps=40, step_size=0.05)"):
            attack = Attack("unbounded", spec, "miss", "white")
            images = adversarial(case, attack, x, labels)
            fell = look(case, images, labels).answers != labels.cpu().numpy()
            standing[: len(x)] = (standing[: len(x)] | (spec[0] == "P")) & ~fell
    except InputError:
        standing[: len(x)] = True
    return standing


def steps_of_claim(case: Case, budget: Budget, found: Findings, store: Store) -> Indicator:
    """Does the attack of the claim take more when it has more steps?

    Of the images looked at, those that fell to any attack meet it again, or the nearest to it.
    """
    chosen = _first(case.right & case.own, case.right & case.spoken, budget.looks)
    name = "steps of the claim"
    if "steps" not in case.claim.options:
        return Indicator(name, "claim", 0.0, 0.02, False, f"{case.claim}: no steps")
    most = max(budget.looks // 4, int((found.leads[chosen] < 0).sum()))
    near = chosen[np.argsort(found.leads[chosen], kind="stable")[:most]]
    spec = _longer(case.claim, MORE)
    kept = store.get(name, lambda: _fall(case, spec, near))
    text = (
        f"that stood under {case.claim.label} fall to the same attack with {MORE} times the steps, "
        f"of which the {len(near)} nearest to falling were tried"
    )
    return share(name, "claim", int(kept.sum()), len(chosen), 0.02, text)


def steps_of_audit(case: Case, budget: Budget, found: Findings, store: Store) -> Indicator:
    """Does the audit's own attack still find more with more steps?"""
    near = np.where(found.standing, found.leads, np.inf)
    most = min(budget.looks // 2, int(found.standing.sum()))
    chosen = np.argsort(near, kind="stable")[:most]
    spec = ATTACKS.parse(next(a.spec for a in budget.attacks if a.aim == "miss"))
    attack = Attack("more steps", str(_longer(spec, 2)), "miss", "white")
    kept = store.get("more steps", lambda: _fall(case, attack, chosen))
    text = "images still fall when the audit's PGD starts again with twice the steps"
    return share("steps of the audit", "short", int(kept.sum()), len(kept), 0.005, text)


def _longer(spec: Spec, times: int) -> Spec:
    """With so many times the steps."""
    return Spec(spec.entry, spec.options | {"steps": times * int(spec.options["steps"])})


def _fall(case: Case, attack: Attack | Spec, chosen: np.ndarray) -> np.ndarray:
    """Which images fall, of those chosen. (N,) bool."""
    fell = np.zeros(len(case.y), dtype=bool)
    place = torch.from_numpy(chosen)
    if not len(chosen):
        return fell
    x, y = (t[place.to(t.device)] for t in (case.x, case.y))
    with suppress(InputError):  # not finite: nothing falls
        if isinstance(attack, Spec):
            images = perturb(case.model, x, y, attack, case.threat, seed=case.seed, robust="worst")
        else:
            images = adversarial(case, attack, x, y)
        fell[chosen] = look(case, images, y).answers != y.cpu().numpy()
    return fell


def _first(preferred: np.ndarray, possible: np.ndarray, most: int) -> np.ndarray:
    """The places of at most so many images: preferred ones first."""
    places = np.r_[preferred.nonzero()[0], (possible & ~preferred).nonzero()[0]]
    return np.sort(places[:most])
