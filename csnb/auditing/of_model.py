"""Is the protection real? Stronger attacks, signs of attacks that fail, and a verdict."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import InstanceOf
from torch import Tensor, nn

from csnb.attacks import ATTACKS, ThreatModel, warn_short
from csnb.auditing.certify import Certified, certify, contradicted
from csnb.auditing.indicators import Indicator, indicate
from csnb.auditing.plan import BUDGETS, Budget
from csnb.auditing.report import Audit, Counts, Level, tidy
from csnb.auditing.work import CLAIMED, Case, Findings, Store, attack_all, is_smooth, steps
from csnb.data import Dataset
from csnb.data.dataset import class_indices
from csnb.errors import InputError, choices, shown
from csnb.evaluation import evaluate, predict
from csnb.images import at_once
from csnb.models import Normalized, check_answers, learned
from csnb.paths import expand
from csnb.progress import bar
from csnb.runs.audits import audit_file, keep_audit
from csnb.runs.identity import NUMERICS
from csnb.spec import Seed, Spec, checker

VERSION = 2  # of what an audit does

_check = checker(threat=ThreatModel, seed=Seed, transfer=Mapping[str, InstanceOf[nn.Module]] | None)


def audit(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    threat: ThreatModel,
    protected: int | str | Sequence[int | str],
    *,
    claim: str | Spec = "PGD",
    budget: str = "quick",
    images: int | None = None,
    transfer: Mapping[str, nn.Module] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
) -> Audit:
    """What a stronger attacker leaves of the classes that ``model`` protects.

    ``model``: pixels (B, C, H, W) in [0, 1] to logits (B, m); any one under threat models in
    pixels. ``data``: whose test images, or pixels and labels. ``protected``: the classes.
    ``claim``: the attack that the claim rests on, of `ATTACKS`. ``budget``: "quick" or "full";
    ``images``: at most so many instead of the budget's, half of them of the protected classes.
    ``transfer``: other networks by name, whose adversarial images are tried. ``folder``: where
    finished attacks are kept, and the tidy rows in the end; the same call goes on there. Raises
    InputError.

    The verdict is about the images of the protected classes: *stands*; *overstated*, by the share
    of them that the claim's attack left and others took; *masked*, where indicators say that
    attacks do not see the network, so that what is left is no robustness; *not auditable*, where
    its answers mean nothing. See `csnb.auditing.indicators`.
    """
    x, y, classes = _images(data)
    _check(threat=threat, seed=seed, transfer=transfer)
    folder = None if folder is None else expand(folder, "folder")
    network, spec = _network(model, threat), ATTACKS.parse(claim)
    m = check_answers(network, x, y)
    own = _protected(protected, classes or tuple(map(str, range(m))), m)
    chosen = sample(y, own, most_images(budget, images), seed)
    device = next((p.device for p in network.parameters()), x.device)
    x, y = at_once(x[chosen]).to(device), y[chosen].to(device)
    totals = Counts.of(np.isin(_labels(data), own))
    others = {name: _beside(other, network, threat) for name, other in (transfer or {}).items()}
    content = [spec.identity, budget, images, seed, repr(threat), _digest(x, y)]
    weights = learned(network)
    content += [weights, sorted((name, learned(other)) for name, other in others.items())]
    file = audit_file(folder, own, key(content)) if folder is not None else None
    store = Store(file, len(y))

    def claimed() -> np.ndarray:
        if not is_smooth(network, x, y):
            return predict(network, x) == y.cpu().numpy()
        outcome = evaluate(network, x, y, attacks=[spec], threat=threat, seed=seed)
        return outcome.predictions[spec.label] == outcome.labels

    warn_short([spec], threat)
    right = store.get("claim", claimed)
    case = Case(network, x, y, threat, own, spec, seed, right, np.ones_like(right))
    names = [classes[p] if classes else str(p) for p in own]
    return conduct(case, BUDGETS[budget], others, store, names, totals, weights)


def conduct(
    case: Case,
    budget: Budget,
    others: Mapping[str, Normalized],
    store: Store,
    names: Sequence[str],
    totals: Counts,
    weights: str,
) -> Audit:
    """Attacks, indicators, verdict, rows; these are written beside the store.

    ``weights``: their digest, by which readers see whether the rows are still the run's.
    """
    with bar(len(steps(budget, others)) + 4, "auditing") as shown_bar:
        found, made, certified = _attack_and_look(case, budget, others, store, shown_bar.step)
    everywhere = np.ones_like(case.right)
    levels = {
        "claimed": Level(case.right, case.spoken, store.arrays[CLAIMED]),
        "audited": Level(found.standing, everywhere, found.margins),
    }
    if isinstance(certified, Certified):
        levels["certified"] = Level(certified.stands, everywhere, certified.margins)
    rows = tidy(case, found, made, levels, names, totals)
    if isinstance(certified, str):
        said = {"part": "bounds", "name": "none", "text": f"Nothing is certified: {certified}."}
        rows = pd.concat([rows, pd.DataFrame([said])], ignore_index=True)
    rows = rows.assign(claim=case.claim.label, weights=weights, numerics=NUMERICS)
    if store.file is not None:
        try:
            keep_audit(store.file.with_suffix(".csv"), rows)
        except OSError as error:
            raise InputError(
                f"folder: {store.file.parent} cannot be written ({error.strerror}); "
                "allowed: a writable folder"
            ) from None
    return Audit(rows, {name: level.margins for name, level in levels.items()}, case.own)


def _attack_and_look(
    case: Case,
    budget: Budget,
    others: Mapping[str, Normalized],
    store: Store,
    done: Callable[[str], None],
) -> tuple[Findings, list[Indicator], Certified | str]:
    certified = certify(case, store)
    done("bounds")
    known = isinstance(certified, Certified)
    certain = certified.stands if known else np.zeros_like(case.right)
    found = attack_all(case, budget, others, store, certain, done)
    made = indicate(case, budget, found, store, done)
    if known:
        made.append(contradicted(case, certified, found, store, steps(budget, others)))
    return found, made, certified


def sample(y: Tensor, protected: Sequence[int], most: int, seed: int) -> np.ndarray:
    """Places of at most ``most`` images, half of them of the protected classes where there are so
    many; drawn by chance.
    """
    labels, random = y.cpu().numpy(), np.random.default_rng(seed)
    own = np.isin(labels, protected)
    kinds = [random.permutation(np.flatnonzero(kind)) for kind in (own, ~own)]
    if not len(kinds[0]) or not len(kinds[1]):
        raise InputError(
            f"data: {len(kinds[0])} images of the protected classes, {len(kinds[1])} of others; "
            "allowed: some of either"
        )
    half = max(most // 2, most - len(kinds[1]))
    mine = kinds[0][:half]
    return np.sort(np.r_[mine, kinds[1][: most - len(mine)]])


def key(content: object) -> str:
    """Of what makes an audit what it is."""
    text = json.dumps([VERSION, NUMERICS, content])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _images(data: Dataset | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    if isinstance(data, Dataset):
        return data.x_test, data.y_test, data.classes
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise InputError(f"data: {shown(data)}; allowed: a Dataset, or (pixels, labels)")
    return data[0], data[1], ()


def _labels(data: Dataset | tuple[Tensor, Tensor]) -> np.ndarray:
    return _images(data)[1].cpu().numpy()


def _protected(value: int | str | Sequence[int | str], classes: tuple[str, ...], m: int) -> tuple:
    own = class_indices(value, classes, "the data")
    if max(own) >= m or len(own) >= m:
        raise InputError(f"protected: {own} of {m} classes; allowed: some of them, not all")
    return own


def most_images(name: str, images: int | None) -> int:
    """So many images of a budget are audited at most; ``images``: instead. Raises InputError."""
    if not isinstance(name, str) or name not in BUDGETS:
        raise InputError(f"budget: {shown(name)} is not allowed; {choices(str(name), BUDGETS)}")
    if images is not None and (not isinstance(images, int) or images < 2):
        raise InputError(f"images: {shown(images)} is not allowed; allowed: 2 or more")
    return images or BUDGETS[name].images


def _network(model: nn.Module, threat: ThreatModel) -> Normalized:
    """With a first layer that normalises, be it by nothing."""
    if isinstance(model, Normalized):
        return model
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {shown(model)}; allowed: an nn.Module from pixels to logits")
    if threat.space != "pixel":
        raise InputError(
            "threat: space 'normalized' of a network whose normalisation is not known; "
            "allowed: space='pixel', or a csnb.models.Normalized"
        )
    return Normalized(model, (0.0,), (1.0,)).eval()


def _beside(other: nn.Module, network: Normalized, threat: ThreatModel) -> Normalized:
    """Another network, in the units of the one that is audited."""
    if threat.space == "pixel":
        return _network(other, threat).eval()
    mean, std = (t.flatten().tolist() for t in (network.mean, network.std))
    return Normalized(_FromUnits(other, network), mean, std).eval()


class _FromUnits(nn.Module):
    """A network of pixels, shown another's normalised images."""

    def __init__(self, other: nn.Module, network: Normalized) -> None:
        super().__init__()
        self.other = other
        self.denormalize = network.denormalize

    def forward(self, z: Tensor) -> Tensor:
        return self.other(self.denormalize(z))
