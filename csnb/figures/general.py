"""Curves and maps of any numbers."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from csnb.figures.style import new_axes, styled


def lines(
    table: pd.DataFrame,
    *,
    xlabel: str,
    ylabel: str,
    scales: tuple[str, str] = ("linear", "linear"),
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Each column of ``table`` against its index.

    ``low`` and ``high``, of the same shape, shade intervals. ``scales``: of x and y, as matplotlib
    names them. Colour, stroke and marker differ.
    """
    ax = new_axes(ax, 5.5, 3.2, title)
    for name, style in styled(table):
        every = max(1, len(table) // 10)
        ax.plot(table.index, table[name], **style, ms=4, markevery=every, label=name)
        if low is not None and high is not None:
            ax.fill_between(
                table.index, low[name], high[name], color=style["color"], alpha=0.2, lw=0
            )
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale=scales[0], yscale=scales[1])
    ax.legend(title=table.columns.name, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def annotated_map(
    values: pd.DataFrame,
    texts: pd.DataFrame,
    *,
    label: str,
    limits: tuple[float, float],
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A heatmap of ``values`` between ``limits``, each cell with its text."""
    ax = new_axes(ax, 2.6 + 0.95 * values.shape[1], 1.2 + 0.5 * values.shape[0], title)
    sns.heatmap(
        values.astype(float), annot=texts, fmt="", cmap="cividis", vmin=limits[0], vmax=limits[1],
        ax=ax, annot_kws={"size": 8}, cbar_kws={"label": label},
    )  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0)
    return ax
