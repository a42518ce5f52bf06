"""A box of images on its way through a network."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from csnb.figures.style import BLUE, ORANGE, plain


def boxes(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """What is reached, and the intervals that hold it: a panel per layer, an array of Axes.

    ``panels``: by what stands above: points (N, 2), and the box's least and largest values (2,).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.7), squeeze=False)
    figure.set_layout_engine("constrained")
    for ax, (name, (points, low, high)) in zip(axes[0], panels.items(), strict=True):
        _panel(ax, points, low, high)
        ax.set_title(plain(name), fontsize=10)
    axes[0, 0].set_ylabel("second value")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    sns.despine(figure)
    return axes[0]


def _panel(ax: Axes, points: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    ax.scatter(*points.T, s=4, color=BLUE, label="reached")
    look = {"fill": False, "color": ORANGE, "lw": 1.5, "label": "interval"}
    ax.add_patch(Rectangle(tuple(low), *(high - low), **look))
    ax.margins(0.15)
    ax.autoscale_view()
    ax.set_xlabel("first value")
