"""Fig. 1 draws what the method is, and nothing lies upon anything else."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from csnb import METHODS, figures
from csnb.methods import Task
from csnb.models import LeNet

LAYERS = {"conv1": "6x1x5x5", "conv2": "16x6x5x5", "fc1": "120x400"}
COST_SENSITIVE = {
    "STD": False,
    "ADV": False,
    "CSA": True,
    "CSA+L2": True,
    "CSE": True,
    "CSE+ADV": True,
}


def draw(name: str, fed: dict[str, str] | None = None) -> tuple[object, Figure]:
    task = Task(LeNet((1, 28, 28), 3), torch.ones(3, 3), [0])
    method = METHODS.parse(name)(task)
    fed = fed or {"clean": "always"} | ({"adversarial": "too"} if method.adversarial else {})
    return method, figures.framework(method, fed, LAYERS, ["conv1", "conv2"], title=name)


@pytest.mark.parametrize("name", COST_SENSITIVE)
def test_framework_shows_the_terms_and_examples_of_the_method(name: str) -> None:
    method, figure = draw(name)
    ax = figure.axes[0]
    text = "\n".join(text.get_text() for text in ax.texts)
    assert all(term in text for term in method.terms)
    assert ("expected cost" in text) == COST_SENSITIVE[name]
    assert ("PGD" in text and "adversarial:\ntoo" in text) == method.adversarial
    assert ("Fuzziness" in text) == (name in ("CSE", "CSE+ADV"))
    assert (r"\theta_f" in text) == (name == "CSA+L2")
    edges = [p for p in ax.patches if p.get_edgecolor()[3]]
    green = sum(to_rgb(patch.get_edgecolor()) == to_rgb(figures.GREEN) for patch in edges)
    layers = {"": 0, "convs": 2 + 1, "all": 3 + 1}[method.penalised]  # and the term itself
    assert green - sum("FancyArrow" in type(patch).__name__ for patch in ax.patches) == layers


@pytest.mark.parametrize("name", COST_SENSITIVE)
def test_no_text_of_the_framework_lies_upon_another(name: str) -> None:
    _, figure = draw(name, {"clean": "12 of 24 updates", "adversarial": "12 of 24 updates"})
    figure.canvas.draw()
    places = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(places, 2))
    page = figure.bbox
    assert all(page.x0 <= p.x0 and p.x1 <= page.x1 for p in places)
    assert all(page.y0 <= p.y0 and p.y1 <= page.y1 for p in places)


def test_a_method_of_anyones_is_drawn_by_its_terms_and_a_deep_network_stays_readable() -> None:
    from csnb.methods import Method

    method = Method(loss=None, terms=("margin loss", r"$\beta$ Sparsity"), penalised="all")
    layers = {f"layer{i}.0.conv1": "128x128x3x3" for i in range(8)}
    figure = figures.framework(method, {"clean": "always"}, layers, [], title="MARGIN")
    figure.canvas.draw()
    places = [t.get_window_extent() for t in figure.axes[0].texts if t.get_text()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(places, 2))
    boxes = [p for p in figure.axes[0].patches if np.isclose(p.get_linewidth(), 1.6)]
    green = [b for b in boxes if to_rgb(b.get_edgecolor()) == to_rgb(figures.GREEN)]
    assert len([b for b in green if "Bbox" in type(b).__name__]) == 8 + 1
