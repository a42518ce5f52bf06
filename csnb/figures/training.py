"""What happens over the epochs of trainings."""

import itertools
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from csnb.figures.style import BLUE, GREY, ORANGE, label_panels, new_axes, plain, styled


def training(history: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Training loss and accuracy per epoch; epochs that see adversarial examples are shaded."""
    ax = new_axes(ax, 5.5, 3, title)
    ax.plot(history["epoch"], history["loss"], color=BLUE, marker="o", ms=3, label="loss")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = ax.twinx()
    looks = {"color": ORANGE, "ls": "--", "marker": "s", "ms": 3, "label": "accuracy"}
    right.plot(history["epoch"], history["accuracy"], **looks)
    right.set(ylabel="accuracy on the examples seen", ylim=(0, 1.05))
    shaded = history.loc[history["examples"].str.contains("adversarial"), "epoch"]
    for epoch in shaded:
        ax.axvspan(epoch - 0.5, epoch + 0.5, color=GREY, alpha=0.25, lw=0)
    handles = [*ax.lines, *right.lines]
    if len(shaded):
        handles.append(Patch(color=GREY, alpha=0.25, lw=0, label="adversarial examples"))
    ax.figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return ax


def trends(frame: pd.DataFrame, measures: Mapping[str, str], *, title: str = "") -> Figure:
    """Measures per epoch as Fig. 5 has them: a row of panels per data set, a column per measure.

    ``frame``: columns ``dataset``, ``method`` (a line each), ``epoch`` and the keys of
    ``measures``, whose values are the axes' labels; where there are ``<measure>.low`` and
    ``<measure>.high``, they are drawn as a band.
    """
    datasets, methods = (list(dict.fromkeys(frame[name])) for name in ("dataset", "method"))
    size = (3.6 * len(measures), 0.8 + 2.5 * len(datasets))
    figure, axes = plt.subplots(
        len(datasets), len(measures), figsize=size, squeeze=False, layout="constrained"
    )
    panels = itertools.product(enumerate(datasets), enumerate(measures))
    for (row, dataset), (column, measure) in panels:
        ax = axes[row, column]
        for method, style in styled(methods):
            rows = frame[(frame["dataset"] == dataset) & (frame["method"] == method)]
            ax.plot(rows["epoch"], rows[measure], **style, ms=3, lw=1.3, label=method)
            if f"{measure}.low" in rows:
                band = rows[f"{measure}.low"], rows[f"{measure}.high"]
                ax.fill_between(rows["epoch"], *band, color=style["color"], alpha=0.15, lw=0)
        ax.set(xlabel="epoch", ylabel=measures[measure], title=dataset)
        _whole_epochs(ax)
    label_panels(figure, ax, title, len(methods))
    return figure


def layer_fuzziness(frame: pd.DataFrame, *, title: str = "") -> Figure:
    """Fuzziness of each convolution as Fig. 6 has it.

    Over the epochs, a line per layer; and by layer after the last epoch. ``frame``: columns
    ``method``, ``epoch``, ``layer``, ``fuzziness``; layers in the network's order.
    """
    layers = list(dict.fromkeys(frame["layer"]))
    size = (11, 1.6 + 0.19 * len(layers))
    figure, (over, last) = plt.subplots(1, 2, figsize=size, layout="constrained", sharey=True)
    groups = list(frame.groupby("method", sort=False))
    sizes = np.linspace(8, 4, len(groups))  # so that one marker does not hide another
    for ((method, rows), style), ms in zip(styled(groups), sizes, strict=True):
        table = rows.pivot(index="epoch", columns="layer", values="fuzziness")[layers]
        over.plot(table.index, table, **style, ms=ms, mfc="none", lw=1)
        looks = style | {"ls": "none", "ms": ms, "mfc": "none", "label": method}
        last.plot(range(len(layers)), table.iloc[-1], **looks)
    over.set(xlabel="epoch", ylabel="fuzziness", title="each convolution, over training")
    _whole_epochs(over)
    last.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    last.set(title="by convolution, after the last epoch")
    label_panels(figure, last, title, len(groups))
    return figure


def updates(seen: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """What each update of a training was made on: a panel per name, a row per epoch, a box each.

    Each frame of ``seen`` has a row per update, in order: ``epoch``, ``batch`` (both from 1),
    ``update`` (of the batch, from 1) and ``examples``, "clean" or "adversarial".
    """
    size = (1 + 3 * len(seen), 3.2)
    figure, axes = plt.subplots(
        1, len(seen), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    looks = {"clean": {"color": BLUE}, "adversarial": {"color": ORANGE, "hatch": "///"}}
    for ax, (name, frame) in zip(axes[0], seen.items(), strict=True):
        width = 1 / frame["update"].max()
        for kind, rows in frame.groupby("examples"):
            left = rows["batch"] - 0.5 + (rows["update"] - 1) * width
            ax.barh(rows["epoch"], width, 0.8, left, edgecolor="white", **looks[kind])
        ax.set(title=name, xlabel="batch", ylim=(frame["epoch"].max() + 0.6, 0.4))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("epoch")
    handles = [
        Patch(label=kind, edgecolor="white", facecolor=look["color"], hatch=look.get("hatch"))
        for kind, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    if title:
        figure.suptitle(plain(title), fontsize=10)
    return figure


def _whole_epochs(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.get_major_formatter().set_useOffset(False)
