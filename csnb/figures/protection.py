"""The robust ROC curve of a class."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from csnb.figures.style import STYLES, new_axes, plain

LEAST = 1e-3  # false alarms that are shown; fewer stand there too


def protection_curve(
    curves: Mapping[str, pd.DataFrame],
    *,
    budget: float = 0.01,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Recall of a class against false alarms into it, both under attack: a line per method.

    ``curves``: by method, of `csnb.margins.protection_curve`. ``budget``: of false alarms, marked
    by a vertical line. Each line's marker is where its network stands without an offset; colour,
    stroke and marker differ.
    """
    ax = new_axes(ax, 5.5, 3.6, title)
    for (name, curve), style in zip(curves.items(), STYLES, strict=False):
        alarms = curve["false_alarms"].clip(lower=LEAST)
        look = {"color": style["color"], "ls": style["ls"]}
        ax.step(alarms, curve["recall"], where="post", lw=1.5, **look)
        own = curve[curve["offset"] >= 0].iloc[0]
        place = max(own["false_alarms"], LEAST), own["recall"]
        ax.plot(*place, marker=style["marker"], ms=7, label=plain(name), **look)
    ax.axvline(budget, color="black", lw=0.8, ls=(0, (1, 3)))
    ax.set(xscale="log", xlim=(LEAST, 1), ylim=(0, 1.02), ylabel="recall of p under attack")
    ax.set_xlabel("share of other images called p under attack")
    ticks = np.array([0.001, 0.01, 0.1, 1])
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax
