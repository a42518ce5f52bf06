"""What the drawings of the theory notebooks show: numbers plotted, words written, no computing."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from csnb import figures
from csnb.training import METHODS

LAYERS = {"conv1": "6x1x5x5", "conv2": "16x6x5x5", "fc1": "120x400"}


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_lines_differ_in_colour_stroke_and_marker_and_shade_intervals() -> None:
    table = pd.DataFrame({name: [1.0, 2.0, k] for k, name in enumerate("abcdef")}, index=[1, 10, 100])
    ax = figures.lines(table, xlabel="x", ylabel="y", scales=("log", "linear"), low=table - 1, high=table + 1)
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines]
    assert len({colour for colour, _, _ in looks}) == len({marker for _, _, marker in looks}) == 6
    assert ax.lines[2].get_xydata().tolist() == [[1, 1], [10, 2], [100, 2]]
    assert ax.get_xscale() == "log" and len(ax.collections) == 6
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list("abcdef")


def test_annotated_map_writes_each_text_in_its_cell() -> None:
    values, texts = pd.DataFrame([[0.1, 0.9]]), pd.DataFrame([["a", "b"]])
    ax = figures.annotated_map(values, texts, label="v", limits=(0, 1))
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert ax.collections[0].get_clim() == (0, 1)


def test_updates_place_a_box_for_each_update() -> None:
    rows = [(1, 1, 1, "clean"), (1, 1, 2, "adversarial"), (2, 1, 1, "clean"), (2, 1, 2, "adversarial")]
    frame = pd.DataFrame(rows, columns=["epoch", "batch", "update", "examples"])
    figure = figures.updates({"both": frame, "clean": frame[frame["examples"] == "clean"].assign(update=1)})
    boxes = [(round(p.get_x(), 3), p.get_width(), p.get_y() + 0.4, p.get_hatch()) for p in figure.axes[0].patches]
    assert sorted(boxes, key=str) == sorted(
        [(1.0, 0.5, 1.0, "///"), (1.0, 0.5, 2.0, "///"), (0.5, 0.5, 1.0, None), (0.5, 0.5, 2.0, None)], key=str
    )
    assert [ax.get_title() for ax in figure.axes] == ["both", "clean"]


@pytest.mark.parametrize("name", METHODS)
def test_framework_shows_the_terms_and_examples_of_the_method(name: str) -> None:
    method = METHODS[name]
    fed = {"clean": "always"} | ({"adversarial": "too"} if method.adversarial else {})
    ax = figures.framework(name, method, fed, LAYERS, ["conv1", "conv2"]).axes[0]
    text = "\n".join(text.get_text() for text in ax.texts)
    assert ("expected cost" in text) == method.cost_sensitive
    assert ("PGD" in text and "adversarial:\ntoo" in text) == method.adversarial
    assert ("Fuzziness" in text, r"\theta_f" in text) == (method.penalty == "fuzziness", method.penalty == "l2")
    green = sum(to_rgb(patch.get_edgecolor()) == to_rgb(figures.GREEN) for patch in ax.patches if patch.get_edgecolor()[3])
    layers = {"none": 0, "fuzziness": 2 + 1, "l2": 3 + 1}[method.penalty]  # and the term itself
    assert green - sum("FancyArrow" in type(patch).__name__ for patch in ax.patches) == layers
