"""What is drawn is what the frames hold."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from csnb import figures

METHODS = ["STD", "CSE"]


@pytest.fixture(autouse=True)
def closed() -> None:
    yield
    plt.close("all")


def test_weights_draws_every_weight_in_each_panel() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(150, 2)), columns=["ADV", "CSA"])
    spread, place, ranked = figures.weights(frame).axes
    for name, outline, points, line in zip(frame, spread.patches, place.lines, ranked.lines, strict=True):
        assert outline.get_data().values.sum() == 150
        np.testing.assert_array_equal(points.get_ydata(), frame[name].abs())
        np.testing.assert_array_equal(line.get_ydata(), sorted(frame[name].abs(), reverse=True))
    assert spread.patches[0].get_data().edges.tolist() == spread.patches[1].get_data().edges.tolist()


def test_by_attack_draws_each_value_with_its_interval_and_none_where_there_is_none() -> None:
    rows = [["A", "FGSM", 0.5, 0.4, 0.7], ["A", "PGD", 0.2, 0.1, 0.3], ["paper", "PGD", 0.9, np.nan, np.nan]]
    ax = figures.by_attack(pd.DataFrame(rows, columns=["series", "attack", "value", "low", "high"]))
    ours, paper = ax.containers
    assert ours.lines[0].get_ydata().tolist() == [0.5, 0.2] and paper.lines[0].get_ydata().tolist() == [0.9]
    np.testing.assert_allclose([bar[:, 1] for bar in ours.lines[2][0].get_segments()], [[0.4, 0.7], [0.1, 0.3]])
    assert not any(len(bar) for bar in paper.lines[2][0].get_segments())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["FGSM", "PGD"]
    assert paper.lines[0].get_xdata()[0] == pytest.approx(1, abs=0.5)


def test_trends_has_a_row_per_data_set_a_column_per_measure_and_a_line_per_method() -> None:
    rows = [
        {"dataset": d, "method": m, "epoch": e, "loss": e + 10 * j, "fuzziness": 0.7}
        for d in ("mnist", "cifar10")
        for j, m in enumerate(METHODS)
        for e in (1, 2, 3)
    ]
    figure = figures.trends(
        pd.DataFrame(rows).assign(**{"fuzziness.low": 0.6, "fuzziness.high": 0.8}),
        {"loss": "loss", "fuzziness": "fuzziness of all"},
    )
    assert [(ax.get_title(), ax.get_ylabel()) for ax in figure.axes] == [
        (dataset, label) for dataset in ("mnist", "cifar10") for label in ("loss", "fuzziness of all")
    ]
    assert [line.get_ydata().tolist() for line in figure.axes[2].lines] == [[1, 2, 3], [11, 12, 13]]
    assert [len(ax.collections) for ax in figure.axes] == [0, 2, 0, 2]


def test_layer_fuzziness_keeps_the_network_s_order() -> None:
    rows = [[m, e, layer, e + i] for m in METHODS for e in (1, 2) for i, layer in enumerate(["conv1", "b", "a"])]
    over, last = figures.layer_fuzziness(pd.DataFrame(rows, columns=["method", "epoch", "layer", "fuzziness"])).axes
    assert len(over.lines) == 2 * 3 and last.lines[0].get_ydata().tolist() == [2, 3, 4]
    assert [text.get_text() for text in last.get_xticklabels()] == ["conv1", "b", "a"]


def test_series_are_told_apart_by_colour_line_and_marker() -> None:
    assert all(len({style[name] for style in figures.STYLES}) == len(figures.STYLES) for name in ("color", "ls", "marker"))
