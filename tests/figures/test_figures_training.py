"""What is drawn of trainings is what the frames hold."""

import numpy as np
import pandas as pd

from csnb import figures

METHODS = ["STD", "CSE"]


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
        (dataset, label)
        for dataset in ("mnist", "cifar10")
        for label in ("loss", "fuzziness of all")
    ]
    assert [line.get_ydata().tolist() for line in figure.axes[2].lines] == [[1, 2, 3], [11, 12, 13]]
    assert [len(ax.collections) for ax in figure.axes] == [0, 2, 0, 2]


def test_layer_fuzziness_keeps_the_network_s_order() -> None:
    rows = [
        [m, e, layer, e + i]
        for m in METHODS
        for e in (1, 2)
        for i, layer in enumerate(["conv1", "b", "a"])
    ]
    over, last = figures.layer_fuzziness(
        pd.DataFrame(rows, columns=["method", "epoch", "layer", "fuzziness"])
    ).axes
    assert len(over.lines) == 2 * 3 and last.lines[0].get_ydata().tolist() == [2, 3, 4]
    assert [text.get_text() for text in last.get_xticklabels()] == ["conv1", "b", "a"]


def test_updates_place_a_box_for_each_update() -> None:
    rows = [
        (1, 1, 1, "clean"),
        (1, 1, 2, "adversarial"),
        (2, 1, 1, "clean"),
        (2, 1, 2, "adversarial"),
    ]
    frame = pd.DataFrame(rows, columns=["epoch", "batch", "update", "examples"])
    figure = figures.updates(
        {"both": frame, "clean": frame[frame["examples"] == "clean"].assign(update=1)}
    )
    boxes = [
        (round(p.get_x(), 3), p.get_width(), p.get_y() + 0.4, p.get_hatch())
        for p in figure.axes[0].patches
    ]
    assert sorted(boxes, key=str) == sorted(
        [
            (1.0, 0.5, 1.0, "///"),
            (1.0, 0.5, 2.0, "///"),
            (0.5, 0.5, 1.0, None),
            (0.5, 0.5, 2.0, None),
        ],
        key=str,
    )
    assert [ax.get_title() for ax in figure.axes] == ["both", "clean"]


def test_training_draws_loss_and_accuracy_and_shades_adversarial_epochs() -> None:
    examples = ["clean", "clean+adversarial", "adversarial"]
    history = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3, 2, 1], "accuracy": [0.1, 0.2, 0.3]})
    ax = figures.training(history.assign(examples=examples), title="digits, CSA, p = 0")
    left, right = ax.figure.axes
    assert left.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert right.lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3]
    corners = [np.atleast_2d(patch.get_xy())[0].tolist() for patch in left.patches]
    assert [x for x, _ in corners] == [1.5, 2.5]
    (legend,) = ax.figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["loss", "accuracy", "adversarial examples"]
