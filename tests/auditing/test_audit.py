"""Failures that were planted are found by what is meant for them; honest networks are cleared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from auditing.conftest import SHORT, THREAT, Planted, audit
from torch import Tensor, nn

import csnb
from csnb import InputError
from csnb.auditing import BUDGETS, Indicator, work
from csnb.auditing.of_model import sample
from csnb.auditing.report import Audit, decide
from csnb.margins import class_margin
from csnb.models import Normalized

Trained = Callable[[str], Normalized]
FLOAT32 = "PGD(steps=10, step_size=0, gradient=float32)"


def flagged(found: Audit) -> set[str]:
    return set(found.indicators.index[found.indicators["flagged"].astype(bool)])


def noise(z: Tensor) -> Tensor:
    return z + 0.3 * torch.randn_like(z)


PLANTED = {  # what is done to images and logits, the claim's attack, the sign, the verdict
    "scaled": ({"after": lambda z: 300 * z}, FLOAT32, "float32 gradient", "masked"),
    "quantised": ({"before": lambda x: (4 * x).round() / 4}, SHORT, "gradient", "masked"),
    "no slope": ({"after": lambda z: z + 0 * (z - z).sqrt()}, SHORT, "gradient", "masked"),
    "random": ({"after": noise}, SHORT, "changes", "not auditable"),
    "softmax": ({"after": lambda z: (30 * z).softmax(1)}, SHORT, "probabilities", "masked"),
    "batch": ({"after": lambda z: z - 2 * z.mean(0)}, SHORT, "batch", "not auditable"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_failure_is_caught_by_the_sign_that_is_meant_for_it(
    name: str, trained: Trained, digits: csnb.Dataset
) -> None:
    change, claim, sign, verdict = PLANTED[name]
    inner = trained("STD")
    found = audit(Planted(inner, **change), digits, claim=claim)
    assert sign in flagged(found) and found.verdict == verdict
    assert sign in found._repr_markdown_()


def test_an_attack_of_too_few_steps_claims_too_much(trained: Trained, digits) -> None:
    found = audit(trained("STD"), digits, claim="PGD(steps=2, step_size=0.01)")
    assert "steps of the claim" in flagged(found) and found.verdict == "overstated"
    enough = audit(trained("STD"), digits)
    assert not flagged(enough) and enough.verdict == "stands"


@pytest.mark.parametrize("method", ["ADV", "CSA", "WEIGHT"])
def test_honest_networks_are_cleared(method: str, trained: Trained, digits) -> None:
    found = audit(trained(method), digits, transfer={"STD": trained("STD")})
    assert found.verdict == "stands" and not flagged(found), found._repr_markdown_()


def test_a_network_that_knows_one_answer_is_not_auditable(digits) -> None:
    constant = Planted(nn.Flatten(), after=lambda z: torch.eye(10)[3] + 0 * z[:, :10])
    found = audit(constant, digits, images=20)
    assert found.verdict == "not auditable" and "one answer" in flagged(found)


def test_what_is_audited_is_no_better_than_any_attack_of_ones_own(trained: Trained, digits) -> None:
    model = trained("CSA")
    found = audit(model, digits, images=100)
    chosen = sample(digits.y_test, (3,), 100, 0)
    x, y = digits.x_test[chosen], digits.y_test[chosen]
    assert found.own.sum() == 50 and (y.numpy()[found.own] == 3).all()
    images = csnb.perturb(model, x, y, "PGD(steps=10, step_size=0)", THREAT, seed=9)
    with torch.no_grad():
        right = (model(images).argmax(1) == y).numpy()
        margins = class_margin(model(images), [3]).numpy()
    rows = found.rows[found.rows["part"].isin(["accuracy", "average"])]
    rows = rows.set_index(["name", "class"])
    assert rows.loc[("audited", "3"), "value"] <= right[found.own].mean() + 0.02
    worst = np.where(found.own, found.margins["audited"], -found.margins["audited"])
    seen = np.where(found.own, margins, -margins)
    assert (worst <= seen + 0.02 * np.abs(seen)).mean() > 0.95
    share = digits.y_test.eq(3).float().mean().item()
    mean = share * rows.loc[("audited", "3"), "value"]
    mean += (1 - share) * rows.loc[("audited", "others"), "value"]
    assert rows.loc[("audited", "all"), "value"] == pytest.approx(mean)
    claimed, audited, _ = (c["recall"].to_numpy() for c in found.curves().values())
    assert np.isclose(claimed[-1], 1) and np.isclose(audited[-1], 1)


def test_an_interruption_loses_no_finished_attack(
    trained: Trained, digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, real, asked = trained("ADV"), work.adversarial, []

    def breaks(case: work.Case, attack: Any, *rest: Any) -> Tensor:
        asked.append(attack.name)
        if len(set(asked)) == 5:
            raise KeyboardInterrupt
        return real(case, attack, *rest)

    monkeypatch.setattr(work, "adversarial", breaks)
    with pytest.raises(KeyboardInterrupt):
        audit(model, digits, folder=tmp_path)
    done, fifth = set(asked[:-1]), asked[-1]
    assert len(done) == 4 and not list(tmp_path.glob("*.csv"))
    monkeypatch.setattr(work, "adversarial", lambda *a: asked.append(a[1].name) or real(*a))
    asked.clear()
    second = audit(model, digits, folder=tmp_path)
    assert fifth in asked and not done & set(asked)
    asked.clear()
    third = audit(model, digits, folder=tmp_path)
    assert not set(asked) - {"path"} and len(list(tmp_path.glob("audit-p3-*.csv"))) == 1
    frames = [a.rows.drop(columns="seconds") for a in (second, third, audit(model, digits))]
    assert frames[0].equals(frames[1]) and frames[0].equals(frames[2])


def sign(name: str, kind: str) -> Indicator:
    return Indicator(name, kind, 1.0, 0.0, True, "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overstated", "signs", "word"),
    [
        (False, [], "stands"),
        (True, [], "overstated"),
        (True, [sign("steps of the claim", "claim")], "overstated"),
        (True, [sign("lead", "claim")], "masked"),
        (False, [sign("lead", "claim")], "stands"),
        (False, [sign("gradient", "blind")], "masked"),
        (True, [sign("gradient", "blind"), sign("batch", "broken")], "not auditable"),
        (False, [sign("steps of the audit", "short")], "stands"),
    ],
)
def test_the_verdict_follows_from_signs(overstated: bool, signs: list, word: str) -> None:
    assert decide(overstated, signs) == word


def test_what_bounds_prove_stands_whatever_attacks_see() -> None:
    assert decide(False, [sign("gradient", "blind")], proved=True) == "stands"
    broken = [sign("gradient", "blind"), sign("bounds", "broken")]
    assert decide(False, broken, proved=True) == "not auditable"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"budget": "fast"}, r"^budget: 'fast' is not allowed; allowed: quick, full"),
        ({"images": 1}, r"^images: 1 is not allowed; allowed: 2 or more$"),
        ({"claim": "PDG"}, r"^attack: 'PDG' is unknown; allowed"),
        ({"protected": 12}, r"^protected_class: 12 is not a class of"),
        ({"threat": csnb.ThreatModel(0.3)}, r"^threat: space 'normalized' .*; allowed: space="),
        ({"model": "CSA"}, r"^model: 'CSA'; allowed: an nn.Module from pixels to logits$"),
        ({"data": 3}, r"^data: 3; allowed: a Dataset, or \(pixels, labels\)$"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(settings: dict, says: str, digits) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    given = {"model": flat, "data": digits, "threat": THREAT, "protected": 3} | settings
    with pytest.raises(InputError, match=says):
        csnb.audit(**given)


def test_full_is_autoattack_as_published() -> None:
    plan = {a.name: a.spec for a in BUDGETS["full"].attacks}
    assert [plan[n] for n in ("APGD-CE", "APGD-T", "FAB-T", "Square")] == [
        "APGD", "APGDT", "FAB", "SQUARE"
    ]  # fmt: skip
