"""What is drawn of scores and costs is what the frames hold."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from csnb import figures
from csnb.figures import BLUE, ORANGE


def test_by_attack_draws_each_value_with_its_interval_and_none_where_there_is_none() -> None:
    rows = [
        ["A", "FGSM", 0.5, 0.4, 0.7],
        ["A", "PGD", 0.2, 0.1, 0.3],
        ["paper", "PGD", 0.9, np.nan, np.nan],
    ]
    ax = figures.by_attack(pd.DataFrame(rows, columns=["series", "attack", "value", "low", "high"]))
    ours, paper = ax.containers
    assert ours.lines[0].get_ydata().tolist() == [0.5, 0.2] and paper.lines[
        0
    ].get_ydata().tolist() == [0.9]
    np.testing.assert_allclose(
        [bar[:, 1] for bar in ours.lines[2][0].get_segments()], [[0.4, 0.7], [0.1, 0.3]]
    )
    assert not any(len(bar) for bar in paper.lines[2][0].get_segments())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["FGSM", "PGD"]
    assert paper.lines[0].get_xdata()[0] == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("end", ["", "\nfloat32", "(gradient=float32)", "(steps=5, momentum=0.5)"])
def test_names_of_many_attacks_do_not_touch(end: str) -> None:
    attacks = ("FGSM", "PGD", "MIA", "L2BIA", "LinfBIA")
    names = ["clean", *(attack + more for more in ("", end) for attack in attacks)]
    rows = pd.DataFrame({"series": "A", "attack": names, "value": 0.5, "low": 0.4, "high": 0.6})
    ax = figures.by_attack(rows)
    ax.figure.canvas.draw()
    texts = ax.get_xticklabels()
    if texts[0].get_rotation():  # parallel lines: the distance of two is more than a line is high
        places = [ax.transData.transform([x, 0])[0] for x in (0, 1)]
        apart = (places[1] - places[0]) * np.sin(np.radians(texts[0].get_rotation()))
        assert apart > 1.5 * texts[0].get_fontsize() * ax.figure.dpi / 72
    else:
        boxes = [text.get_window_extent() for text in texts]
        assert all(a.x1 + 3 < b.x0 for a, b in pairwise(boxes))


def comparison() -> pd.DataFrame:
    """Two attacks, two methods, two classes; one cell is not run, one agrees."""
    rows = [
        [attack, method, p, 0.5, ours, 900 + 100 * p, verdict]
        for attack in ("FGSM", "PGD")
        for method in ("STD", "CSE")
        for p, ours, verdict in ((0, 0.75, "higher"), (1, np.nan, "not run"))
    ]
    names = ["attack", "method", "protected_class", "published", "ours", "n", "verdict"]
    frame = pd.DataFrame(rows, columns=names)
    frame.loc[0, ["ours", "verdict"]] = [0.5, "agrees"]
    frame["method"] = pd.Categorical(frame["method"], ["STD", "CSE"])
    return frame.assign(difference=frame["ours"] - frame["published"])


def test_differences_write_each_gap_once_and_say_of_how_many_images() -> None:
    ax = figures.differences(comparison(), title=figures.caption("mnist", "4 runs"))
    assert [text.get_text() for text in ax.texts] == ["=", "+0.25", "+0.25", "+0.25"]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["FGSM  STD", "FGSM  CSE", "PGD  STD", "PGD  CSE"]
    assert ax.get_xlabel() == "protected class p, n = 900 to 1000 test images each"
    assert ax.get_title() == "mnist, 4 runs"
    assert [line.get_ydata()[0] for line in ax.lines] == [0, 2]


def test_colours_of_differences_end_at_the_largest_and_exist_without_any() -> None:
    made, none = comparison(), comparison().assign(difference=np.nan)
    made.loc[2, "difference"] = -0.4
    assert figures.differences(made).collections[0].get_clim() == (-0.4, 0.4)
    assert figures.differences(none).collections[0].get_clim() == (-0.05, 0.05)


def test_per_class_shows_each_accuracy_and_the_protected_class_in_its_own_colour() -> None:
    cells = [("clean", "a", 0.8), ("clean", "b$", 0.7), ("PGD", "a", 0.5), ("PGD", "b$", 0.4)]
    frame = pd.DataFrame(cells, columns=["attack", "class", "value"])
    frame = frame.assign(measure="accuracy", low=0.1, high=0.9)
    ax = figures.per_class(frame, ["b$"], attack="PGD", title="own, PGD, p = 1, n = 9")
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.4]
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [BLUE, ORANGE]
    ax.figure.canvas.draw()  # a dollar sign starts no formula


def test_the_two_sides_and_the_costs_and_the_heatmap_hold_the_numbers() -> None:
    sides = {"protected": [0.5], "low": [0.4], "high": [0.6], "others": [0.3]}
    ax = figures.protected_against_others(pd.DataFrame(sides, index=["CSA"]), title="t")
    assert [bar.get_height() for bar in ax.patches] == [0.5, 0.3] and ax.get_title() == "t"
    ax = figures.cost_matrix(np.array([[0, 10], [10, 0]]), ["cat", "dog"], title="t")
    assert [text.get_text() for text in ax.texts] == ["0", "10", "10", "0"]
    ax = figures.robustness_heatmap(pd.DataFrame({"PGD": [0.123]}, index=["CSA"]), title="t")
    assert [text.get_text() for text in ax.texts] == ["0.12"] and ax.get_title() == "t"
