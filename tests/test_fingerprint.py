"""Who changes csnb's numbers must raise NUMERICS: a few steps of everything, compared with before.

``python tests/test_fingerprint.py`` renews ``fingerprint.json``, after NUMERICS was raised.

Training and attacks follow signs of gradients, so that in float32 another CPU's last bit grows to
some percent within a few updates. In float64, from images and weights that are the same to the
bit everywhere, it stays below a millionth, while any other rule moves more. What float32 itself
does is measured apart, where it matters: attacks on a network that is sure of itself.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import csnb
from csnb.evaluation import Outcome
from csnb.models import LeNet, Normalized
from csnb.runs.identity import NUMERICS

FILE = Path(__file__).with_name("fingerprint.json")
TOLERANCE = {"float64": 1e-6, "float32": 0.02}  # relative
THREAT = csnb.ThreatModel(0.3)
RECIPE = csnb.Recipe(epochs=4, batch_size=16, halve_every=2, lr=0.1)
COSTS = csnb.protect(4, 3, 10.0)
CONFIDENT = 30.0  # times the logits


def images() -> tuple[Tensor, Tensor]:
    """48 images of 12 x 12 pixels, brighter in a stripe for each of four classes."""
    random, y = np.random.default_rng(1), np.arange(48) % 4
    x = random.integers(0, 128, (48, 1, 12, 12))
    for image, label in zip(x, y, strict=True):
        image[0, 3 * label : 3 * label + 3] += 96
    return torch.from_numpy(x / 256), torch.from_numpy(y)  # exact in any precision


X, Y = images()


def network() -> Normalized:
    """A LeNet whose weights any machine draws alike."""
    model = Normalized(LeNet((1, 12, 12), 4), [0.375], [0.25]).double()
    random = np.random.default_rng(0)
    with torch.no_grad():
        for p in model.parameters():
            bound = 1 / max(1, p[0].numel()) ** 0.5
            p.copy_(torch.from_numpy(random.uniform(-bound, bound, p.shape)))
    return model


def trained(
    method: str, recipe: csnb.Recipe, threat: csnb.ThreatModel = THREAT
) -> dict[str, float]:
    """What a training came to: losses, penalties, the size of its weights."""
    model = network()
    settings = {"costs": COSTS, "protected": (3,), "threat": threat, "seed": 0}
    history = csnb.fit(model, X, Y, method=method, recipe=recipe, **settings)
    sizes = {f"|{n}|": float(p.detach().norm()) for n, p in model.named_parameters()}
    last = history.iloc[-1]
    return {"loss": float(last["loss"]), "penalty": float(last["penalty"])} | sizes


@cache
def victim(kind: str = "float64", times: float = 1.0) -> Normalized:
    """A network that has learned something, to be attacked; its logits so many times as large."""
    model = network()
    recipe = csnb.Recipe(epochs=6, batch_size=16, lr=0.05)
    settings = {"costs": COSTS, "threat": THREAT, "seed": 0}
    csnb.fit(model, X, Y, method="STD", recipe=recipe, **settings)
    for p in model.body.fc3.parameters():
        p.data *= times
    return model.to(getattr(torch, kind))


def attacked(
    attack: str, threat: csnb.ThreatModel = THREAT, kind: str = "float64", times: float = 1.0
) -> dict[str, float]:
    """How far an attack moves images, and what the network says of them."""
    model, x = victim(kind, times), X.to(getattr(torch, kind))
    images = csnb.perturb(model, x, Y, attack, threat, seed=0)
    delta = (images - x).flatten(1)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(images) / times, Y)
    return {
        "linf": float(delta.abs().amax(1).mean()),
        "l2": float(delta.norm(dim=1).mean()),
        "loss": float(loss),
    }


def scored() -> dict[str, float]:
    """The scores of predictions by a rule."""
    labels = np.arange(60) % 3
    predictions = {"clean": np.arange(60) // 7 % 3, "PGD": np.arange(60) // 5 % 3}
    outcome = Outcome(labels, np.arange(60), predictions, {"PGD": (0.1, 0.5)})
    costs = csnb.protect(3, 1, 5.0)
    frame = csnb.score(outcome, classes=("a", "b", "c"), protected=[1], costs=costs)
    cells = frame.melt(["attack", "measure", "class"], ["value", "low", "high"], "end", "number")
    names = cells["attack"] + " " + cells["measure"] + " " + cells["class"] + " " + cells["end"]
    return {n: float(v) for n, v in zip(names, cells["number"], strict=True) if np.isfinite(v)}


SCHEDULES = ("halves", "both", "alternate")
METHODS = [name for name, entry in csnb.METHODS.items() if not entry.file]
CASES = {f"train {m} {s}": (m, s) for m in METHODS for s in SCHEDULES}
RADII = {"linf": THREAT, "l2": csnb.ThreatModel(1.0, "l2", "pixel", True)}
OWN = [name for name, entry in csnb.ATTACKS.items() if not entry.file and name != "CW"]
ATTACKED = {f"attack {a} {n}": (a, t) for a in OWN for n, t in RADII.items()}  # at their defaults
ATTACKED |= {f"attack {a} float32": (a, THREAT, "float32", CONFIDENT) for a in OWN}
ROUNDED = [f"{a}(gradient=float32)" for a in OWN if "gradient" in csnb.ATTACKS[a].options]
ATTACKED |= {f"attack {a} float32": (a, THREAT, "float32", CONFIDENT) for a in ROUNDED}
CW = "CW(steps=20, searches=2, step_size=0.05, initial_const=1)"
ATTACKED["attack CW float32"] = (CW, THREAT, "float32")  # advertorch's knows no other


def measure(case: str) -> dict[str, float]:
    """The numbers of a case."""
    if case in CASES:
        method, schedule = CASES[case]
        return trained(method, replace(RECIPE, schedule=schedule))
    return attacked(*ATTACKED[case]) if case in ATTACKED else scored()


def differ(numbers: dict[str, float], known: dict[str, float], kind: str = "float64") -> list[str]:
    """The names whose numbers are not those of before."""
    near = {"rtol": TOLERANCE[kind], "atol": 1e-9}
    close = {n: np.isclose(v, known.get(n, np.nan), **near) for n, v in numbers.items()}
    return [n for n in {*numbers, *known} if not close.get(n, False)]


@pytest.mark.parametrize("case", [*CASES, *ATTACKED, "score"])
def test_numbers_are_those_of_this_numerics(case: str) -> None:
    known = json.loads(FILE.read_text(encoding="utf-8"))
    renew = f"python {Path(__file__).name} renews {FILE.name}"
    assert known["numerics"] == NUMERICS, f"NUMERICS was raised: {renew}"
    kind = "float32" if case.endswith("float32") else "float64"
    moved = differ(measure(case), known["numbers"].get(case, {}), kind)
    assert not moved, f"{case}: {moved} moved: raise NUMERICS in csnb/runs/identity.py; {renew}"


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.89},
        {"lr": 0.101},
        {"halve_every": 0},
        {"adversary": "PGD(steps=6, step_size=0)"},
        {"adversary": "PGD(steps=7, step_size=0.0428)"},
        {"batch_size": 25},
        {"optimizer": "adam"},
    ],
    ids=str,
)
def test_a_changed_rule_of_training_would_be_seen(change: dict[str, object]) -> None:
    known = json.loads(FILE.read_text(encoding="utf-8"))["numbers"]["train CSA both"]
    assert differ(trained("CSA", replace(RECIPE, schedule="both", **change)), known)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        ("PGD(step_size=0.009)", THREAT),
        ("PGD(steps=20)", THREAT),
        ("PGD", csnb.ThreatModel(0.29)),
        ("PGD", csnb.ThreatModel(0.3, bounded=True)),
    ],
)
def test_a_changed_rule_of_an_attack_would_be_seen(attack: str, threat: csnb.ThreatModel) -> None:
    known = json.loads(FILE.read_text(encoding="utf-8"))["numbers"]["attack PGD linf"]
    assert differ(attacked(attack, threat), known)


@pytest.mark.parametrize("name", ["example_loss", "l2_norm"])
def test_a_changed_loss_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = json.loads(FILE.read_text(encoding="utf-8"))["numbers"]["train CSA+L2 both"]
    own = getattr(csnb.methods.paper, name)
    monkeypatch.setattr(csnb.methods.paper, name, lambda *args: own(*args) * 1.0001)
    assert differ(trained("CSA+L2", replace(RECIPE, schedule="both")), known)


def test_a_change_of_float32_alone_would_be_seen() -> None:
    """Such as another way to the gradient of a network that is sure of itself."""
    rounded = "PGD(gradient=float32)"
    known = json.loads(FILE.read_text(encoding="utf-8"))["numbers"][f"attack {rounded} float32"]
    assert not differ(attacked(rounded, kind="float32", times=CONFIDENT), known, "float32")
    assert differ(attacked(rounded, kind="float64", times=CONFIDENT), known, "float32")
    assert differ(attacked("PGD", kind="float32", times=CONFIDENT), known, "float32")


def test_the_file_holds_each_case_and_no_other() -> None:
    known = json.loads(FILE.read_text(encoding="utf-8"))
    assert set(known["numbers"]) == {*CASES, *ATTACKED, "score"}


if __name__ == "__main__":
    made = {case: measure(case) for case in [*CASES, *ATTACKED, "score"]}
    rounded = {c: {n: float(f"{v:.10g}") for n, v in values.items()} for c, values in made.items()}
    lines = [f"  {json.dumps(case)}: {json.dumps(values)}" for case, values in rounded.items()]
    text = ",\n".join(lines)
    FILE.write_text(f'{{\n "numerics": {NUMERICS},\n "numbers": {{\n{text}\n }}\n}}\n')
