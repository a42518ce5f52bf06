"""The ranking of methods: its columns from runs that were made up, counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from csnb import InputError
from csnb.curves import gains, rank, ranking, recommendation
from csnb.margins import protection

LABELS = np.repeat([0, 1, 2], [20, 30, 50])  # class 1 is asked about
OWN = LABELS == 1


class Made:
    """Runs that answer what they are told to, by name."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.margins = place, dict[str, np.ndarray]()
        self.seconds, self.images = dict[str, float](), dict[str, str]()
        monkeypatch.setattr(ranking, "read_margins", self.read)
        monkeypatch.setattr(ranking, "read_run", self.result)

    def read(self, folder: Path, **kwargs: object) -> tuple[np.ndarray, np.ndarray]:
        assert kwargs == {"protected": [1], "attack": "PGD"}
        return self.margins[folder.name], OWN

    def result(self, folder: Path) -> dict[str, object]:
        seconds = {"train": self.seconds[folder.name], "clean": 99.0}
        digests = {"test": self.images.get(folder.name, "these")}
        return {"seconds": seconds, "digests": digests, "parameters": {"norm": "linf"}}

    def add(
        self, name: str, margins: np.ndarray, *, wrong: int = 0, lost: bool = False,
        robust: int = 0, seconds: float = 10.0, attacked: int = 100,
    ) -> Path:  # fmt: skip
        """``wrong``, ``robust``: so many images of class 2 are missed, clean and under attack."""
        folder = self.place / name
        folder.mkdir()
        clean, weak, strong = (LABELS.copy() for _ in range(3))
        clean[50 : 50 + wrong] = strong[50 : 50 + robust] = 0
        if lost:
            clean[OWN] = np.where(np.arange(30) < 14, 1, 2)  # 15 of 30 are half
        arrays = {"labels": LABELS, "clean": clean, "attacked": np.arange(attacked)}
        arrays |= {"WEAK": weak[:attacked], "STRONG": strong[:attacked]}
        arrays |= {"CW(steps=9)": 1 - LABELS[:attacked] % 2}  # has no ball: none is right
        np.savez(folder / "predictions.npz", **arrays)
        self.margins[name], self.seconds[name] = margins.astype(np.float32), seconds
        return folder


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(tmp_path, monkeypatch)


def margins(gap: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(gap * OWN, 1.0)


def test_each_column_is_what_it_says(made: Made) -> None:
    runs = {
        "ADV": [made.add(f"a{s}", margins(1, s), robust=10, seconds=5.0) for s in (0, 1)],
        "GOOD": [
            made.add(f"g{s}", margins(1, s) + 4 * OWN, robust=10 + 5 * s, wrong=5, lost=s == 1)
            for s in (0, 1)
        ],
        "BAD": [made.add(f"b{s}", margins(-1, s), robust=0, seconds=20.0) for s in (0, 1)],
    }
    found = rank(runs, [1], budget=0.1, attack="PGD")
    assert found.index.tolist() == ["GOOD", "ADV", "BAD"]
    stacks = {name: np.stack([made.margins[f.name] for f in runs[name]]) for name in runs}
    for name, row in found.iterrows():
        alone = protection(stacks[name], OWN, budgets=[0.1])
        assert row[["recall", "low", "high"]].tolist() == alone.iloc[0, 2:5].tolist()
        assert row["area"] == alone["value"][1]
        gain = protection(
            stacks[name], OWN, against=stacks["ADV"], budgets=[0.1], level=0.975
        )  # two comparisons: 1 - .05 / 2
        assert row[["gain", "gain_low", "gain_high"]].tolist() == gain.iloc[0, 2:5].tolist()
        assert row["as_trained"] == pytest.approx((stacks[name][:, OWN] > 0).mean())
        assert row["alarms"] == pytest.approx((stacks[name][:, ~OWN] > 0).mean())
    good = found.loc["GOOD"]
    assert good["clean"] == pytest.approx(np.mean([(2 + 45 / 50) / 3, (1 + 14 / 30 + 0.9) / 3]))
    assert good["robust"] == pytest.approx(np.mean([(2 + 40 / 50) / 3, (2 + 35 / 50) / 3]))
    assert good["price"] == pytest.approx(-(0 + 0.1 / 3) / 2)
    assert found.loc["BAD", "price"] == pytest.approx(0.2 / 3)
    assert found["time"].tolist() == [2.0, 1.0, 4.0]
    assert found["lost"].tolist() == [1, 0, 0] and found["trainings"].tolist() == [2, 2, 2]
    assert (found.loc["ADV", ["gain", "gain_low", "gain_high", "price_low"]] == 0).all()


def test_the_price_of_one_training_has_the_normal_interval_of_a_stratified_mean(made: Made) -> None:
    runs = {"ADV": [made.add("a", margins(1, 0), robust=10)]}
    runs["NEW"] = [made.add("n", margins(1, 1), robust=20)]
    row = rank(runs, [1], attack="PGD").loc["NEW"]
    half = 1.959964 * np.sqrt(0.2 * 0.8 / 50) / 3  # a fifth of class 2 differs
    np.testing.assert_allclose(row["price"] - row["price_low"], half, rtol=1e-6)
    np.testing.assert_allclose(row["price_high"] - row["price"], half, rtol=1e-6)


def test_what_is_recommended_is_shown_and_kept_its_class(made: Made) -> None:
    def sentence(other: float | None = None, **also: object) -> str:
        number = len(made.margins)
        runs = {"ADV": [made.add(f"a{number}", margins(0, 0))]}
        runs["NEW"] = [made.add(f"n{number}", margins(0, 0) + 3 * OWN, **also)]
        if other is not None:
            runs["LESS"] = [made.add(f"l{number}", margins(0, 0) + other * OWN)]
        return recommendation(rank(runs, [1], attack="PGD"), "one")

    assert sentence().startswith("**Use NEW for 'one'**: against ADV with an offset, recall")
    assert "1 training of each of 2 methods" in sentence()
    lost = sentence(lost=True)
    start = "**Use ADV with an offset for 'one'**: no method that keeps the class is shown to "
    assert lost.startswith(start)
    assert "the nearest, NEW: recall at equal false alarms +" in lost
    assert ". NEW gains +" in lost and lost.endswith("it loses the class in 1 of 1.")
    assert sentence(2, lost=True).startswith("**Use LESS for 'one'**: against ADV")
    near = sentence(0, lost=True)
    assert near.startswith(start) and "the nearest, LESS: recall at equal false alarms +0.0" in near
    assert ". NEW gains +" in near and near.endswith("it loses the class in 1 of 1.")
    level = recommendation(
        rank({n: [made.add(n, margins(0, 0))] for n in ("ADV", "SAME")}, [1], attack="PGD"), "one"
    )
    assert level.startswith("**Use ADV with an offset for 'one'**: no method is shown to protect")
    assert "the nearest, SAME: recall" in level and level.endswith("each of 2 methods.")
    alone = rank({"ADV": [made.add("alone", margins(0, 0))]}, [1], attack="PGD")
    assert recommendation(alone, "one").endswith("nothing else was tried.")


def test_runs_that_cannot_be_ranked_are_refused_in_one_line(made: Made) -> None:
    adv = [made.add("a", margins(0, 0)), made.add("b", margins(0, 1))]
    with pytest.raises(InputError, match=r"^runs: 2 of ADV, 1 of CSA; allowed: as many of each"):
        rank({"ADV": adv, "CSA": adv[:1]}, [1], attack="PGD")
    with pytest.raises(InputError, match=r"^base: no run of 'ADV'; allowed: CSA$"):
        rank({"CSA": adv}, [1], attack="PGD")
    made.images["b"] = "others"
    for asked in (rank, gains):
        runs = {"ADV": adv, "CSA": adv[::-1]}
        runs = (
            runs if asked is rank else {name: dict(enumerate(each)) for name, each in runs.items()}
        )
        with pytest.raises(InputError, match=r"^runs: of different test images; allowed: runs of "):
            asked(runs, [1], attack="PGD")
    few = made.add("few", margins(0, 0), attacked=30)
    with pytest.raises(InputError, match=r"^few: 30 of 100 test images attacked; allowed: runs of"):
        rank({"ADV": [few]}, [1], attack="PGD")
    arrays = np.load(few / "predictions.npz")
    kept = {k: arrays[k] for k in ("labels", "clean")} | {"attacked": np.arange(100)}
    np.savez(few / "predictions.npz", **kept, CW=LABELS)
    with pytest.raises(
        InputError, match=r"^few: attacked by CW; allowed: runs with an attack that"
    ):
        rank({"ADV": [few]}, [1], attack="PGD")


def test_gains_need_no_attack_on_all_images_and_count_the_seeds_that_both_have(made: Made) -> None:
    def runs(name: str, gap: float, seeds: tuple[int, ...]) -> dict[int, Path]:
        return {s: made.add(f"{name}{s}", margins(gap, s) + s * OWN, attacked=30) for s in seeds}

    all_runs = {
        "ADV": runs("a", 1, (0, 2)),
        "NEW": runs("n", 3, (1, 2)),
        "OLD": runs("o", 0, (2, 0)),
    }
    found = gains(all_runs | {"LATE": runs("l", 9, (7,))}, [1], budget=0.1, attack="PGD")
    assert found.index.tolist() == ["NEW", "ADV", "OLD"]
    assert found["trainings"].tolist() == [1, 2, 2]
    for name, names in {"NEW": ["2"], "OLD": ["0", "2"], "ADV": ["0", "2"]}.items():
        ours, theirs = (
            np.stack([made.margins[first + s] for s in names]) for first in (name[0].lower(), "a")
        )
        alone = protection(ours, OWN, budgets=[0.1])
        gain = protection(ours, OWN, against=theirs, budgets=[0.1], level=0.975)
        row = found.loc[name]
        assert row[["recall", "low", "high"]].tolist() == alone.iloc[0, 2:5].tolist()
        assert row[["gain", "gain_low", "gain_high"]].tolist() == gain.iloc[0, 2:5].tolist()
        assert row["area"] == alone["value"][1]
    with pytest.raises(InputError, match=r"^base: no run of 'STD'; allowed: ADV, NEW, OLD$"):
        gains(all_runs, [1], base="STD", attack="PGD")
