"""Margins of finished runs: attacked once, kept, believed only where they are the run's."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from making import QUICK, stripes

import csnb
from csnb import Experiment, InputError, find_or_run, load_model, read_margins, read_run
from csnb.curves import as_they_stand, baseline, verdict
from csnb.margins import protection, worst_margins

WEAK = "PGD(steps=3, step_size=0)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and a run of it by CSA and one by ADV."""
    folder = tmp_path_factory.mktemp("curves")
    data = stripes(folder / "stripes.npz")
    asked = QUICK | {"dataset": data, "epochs": 4, "runs": str(folder / "runs"), "eps": 0.1}
    for method in ("CSA", "ADV"):
        find_or_run(Experiment(**asked | {"method": method, "protected_class": 1}))
    return folder


def made(place: Path, method: str) -> Path:
    return next((place / "runs").glob(f"stripes-{method}-p1-*"))


def test_margins_are_those_of_the_runs_network_and_threat_model(place: Path) -> None:
    folder = made(place, "CSA")
    margins, own = read_margins(folder, attack=WEAK)
    e = Experiment.of_result(read_run(folder))
    data = csnb.load_dataset(e.dataset)
    x, y = data.x_test, data.y_test
    expected = worst_margins(load_model(folder), x, y, [1], e.threat(), attack=WEAK, seed=0)
    np.testing.assert_array_equal(margins, expected)
    assert own.tolist() == (y == 1).tolist()
    other, of_two = read_margins(folder, protected=[2, 0], attack=WEAK)
    assert of_two.tolist() == (y != 1).tolist() and not np.array_equal(other, margins)


def test_they_are_attacked_once_and_the_run_stays_done(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(place, "CSA")
    before = read_margins(folder, attack=WEAK)[0]
    monkeypatch.setattr("csnb.curves.of_runs.worst_margins", lambda *args, **kwargs: 1 / 0)
    np.testing.assert_array_equal(read_margins(folder, attack=WEAK)[0], before)
    assert read_run(folder)
    with pytest.raises(ZeroDivisionError):
        read_margins(folder, attack="PGD(steps=4, step_size=0)")


def sealed(content: bytes) -> bytes:
    """As a kept file ends."""
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    "damage",
    [b"", b"\\x93NUMPY", sealed(b"\\x93NUMPY"), sealed(b""), None, "short", "nan", 40, -5, -33],
)
def test_margins_that_are_not_whole_are_made_again(place: Path, damage: object) -> None:
    folder = made(place, "ADV")
    before = read_margins(folder, attack=WEAK)[0]
    (file,) = folder.glob("margins-p1-*.npy")
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    elif isinstance(damage, int):  # a byte
        content = bytearray(file.read_bytes())
        content[damage] ^= 1
        file.write_bytes(content)
    else:
        wrong = {"short": before[1:], "nan": before * np.nan, None: before.astype(float)}
        np.save(file, wrong[damage])
        file.write_bytes(sealed(file.read_bytes()))
    np.testing.assert_array_equal(read_margins(folder, attack=WEAK)[0], before)
    np.testing.assert_array_equal(np.load(file), before)


def test_a_data_set_that_has_changed_is_no_ground_for_margins(place: Path, tmp_path: Path) -> None:
    folder = made(place, "CSA")
    content = (place / "stripes.npz").read_bytes()
    try:
        stripes(place / "stripes.npz", test=33)
        with pytest.raises(InputError, match=r"stale: stripes.npz has changed"):
            read_margins(folder, attack="PGD(steps=5, step_size=0)")
    finally:
        (place / "stripes.npz").write_bytes(content)


def test_the_verdict_says_what_the_curves_do(place: Path) -> None:
    runs = [made(place, "CSA"), made(place, "ADV")]
    text = verdict(*runs, budget=0.1, attack=WEAK)
    (own, mine), (_, rival) = (read_margins(f, protected=[1], attack=WEAK)[::-1] for f in runs)
    gain = protection(mine, own, against=rival, budgets=[0.1]).iloc[0]
    assert f"{gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}] against ADV" in text
    expected = (
        "protected more" if gain["low"] > 0 else
        "PROTECTED LESS" if gain["high"] < 0 else "not shown"
    )  # fmt: skip
    assert f"**Against ADV with an offset: {expected}.**" in text and "10 images" in text
    scores = csnb.runs.read_scores(runs[:1])
    clean = scores[(scores["attack"] == "clean") & (scores["measure"] == "accuracy")]
    others = clean[clean["class"] != "middle"]["value"].mean()
    assert f"{others:.3f} clean (" in text
    assert "the same network" in verdict(runs[0], runs[0], attack=WEAK)


def test_protection_and_loss_are_told_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [made(place, "CSA"), made(place, "ADV")]
    own = read_margins(runs[0], attack=WEAK)[1]
    good, bad = np.where(own, 1.0, -1.0), np.where(own, -1.0, 1.0)
    margins = {runs[0]: good, runs[1]: bad}
    monkeypatch.setattr(
        "csnb.curves.of_runs.read_margins", lambda f, **kwargs: (margins[Path(f)], own)
    )
    lost = "THE CLASS IS LOST: few."
    monkeypatch.setattr("csnb.curves.of_runs.presence", lambda scores, name, than: lost)
    assert verdict(*runs).startswith(f"**{lost}** **Against ADV with an offset: protected more.**")
    assert "Against CSA with an offset: PROTECTED LESS." in verdict(*runs[::-1])


def test_the_baseline_is_one_for_all_classes_and_the_run_itself_where_it_is_that(
    place: Path, tmp_path: Path
) -> None:
    asked = QUICK | {"dataset": str(place / "stripes.npz"), "runs": str(tmp_path), "seed": 4}
    adv = csnb.Run(Experiment(**asked | {"method": "ADV", "attack_images": "all"}))
    assert baseline(adv) is adv
    adv.train()
    adv.evaluate()
    with pytest.raises(InputError, match="it is under way"):  # and no waiting for itself
        find_or_run(adv.experiment)
    folder = adv.write()
    for method, p in (("CSA", 1), ("ADV", 2)):
        other = Experiment(**asked | {"method": method, "protected_class": p, "alarm_cost": 3.0})
        assert baseline(csnb.Run(other)) == folder
    assert "the same network" in verdict(adv, adv, attack=WEAK)


def test_the_baseline_of_a_run_with_an_offset_sees_the_same_images_and_has_its_own(
    place: Path, tmp_path: Path
) -> None:
    asked = QUICK | {"dataset": str(place / "stripes.npz"), "runs": str(tmp_path)}
    asked |= {"protected_class": 1, "offset": 0.2, "validation": 0.3, "alarm_cost": 3.0}
    run = csnb.Run(Experiment(**asked | {"method": "CSA"}))
    adv = csnb.read_run(baseline(run))
    known = {name: adv["parameters"][name] for name in ("method", "offset", "validation")}
    assert known == {"method": "ADV", "offset": "0.2", "validation": 0.3}
    assert adv["protected"] == [1] and adv["digests"]["train"] == run.identity.digests["train"]
    assert adv["costs"] == [list(row) for row in run.identity.costs]


def test_a_run_as_it_stands_is_counted_from_its_margins(place: Path) -> None:
    runs = [made(place, "CSA"), made(place, "ADV")]
    found = as_they_stand(runs)
    assert list(found["method"]) == ["CSA", "ADV"] and set(found["class"]) == {"middle"}
    for run, row in zip(runs, found.itertuples(), strict=True):
        margins, own = read_margins(run)
        right = [m > 0 for m, mine in zip(margins.tolist(), own, strict=True) if mine]
        wrong = [m > 0 for m, mine in zip(margins.tolist(), own, strict=True) if not mine]
        assert (row.recall, row.n) == (pytest.approx(sum(right) / len(right)), len(right))
        assert (row.false_alarms, row.others) == (pytest.approx(sum(wrong) / 20), len(wrong))
    assert as_they_stand([]).empty


def test_runs_of_other_images_are_not_compared(place: Path, tmp_path: Path) -> None:
    other = stripes(tmp_path / "stripes.npz", test=33)
    asked = QUICK | {"dataset": other, "runs": str(tmp_path), "protected_class": 1}
    folder = find_or_run(Experiment(**asked))
    with pytest.raises(InputError, match=r"base: .* has other test images; allowed: the same"):
        verdict(made(place, "CSA"), folder)
