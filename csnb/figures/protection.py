"""The robust ROC curve of a class."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from csnb.figures.style import STYLES, new_axes, plain

LEAST = 1e-3  # false alarms that are shown; fewer stand there too


def protection_curve(
    curves: Mapping[str, pd.DataFrame],
    *,
    certified: Mapping[str, pd.DataFrame] = MappingProxyType({}),
    budget: float = 0.01,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Recall of a class against false alarms into it, both under attack: a line per method.

    ``curves``: by method, of `csnb.margins.protection_curve`. ``budget``: of false alarms, marked
    by a vertical line. Each line's marker is where its network stands without an offset; colour,
    stroke and marker differ. ``certified``: by method, of certified margins: a thin line, and a
    band up to the attacked one, in which the strongest attacker's lies.
    """
    ax = new_axes(ax, 5.5, 3.6, title)
    for (name, curve), style in zip(curves.items(), STYLES, strict=False):
        alarms = curve["false_alarms"].clip(lower=LEAST)
        look = {"color": style["color"], "ls": style["ls"]}
        ax.step(alarms, curve["recall"], where="post", lw=1.5, **look)
        own = curve[curve["offset"] >= 0].iloc[0]
        place = max(own["false_alarms"], LEAST), own["recall"]
        ax.plot(*place, marker=style["marker"], ms=7, label=plain(name), **look)
        if name in certified:
            _band(ax, curve, certified[name], f"{plain(name)}, certified at least", look)
    ax.axvline(budget, color="black", lw=0.8, ls=(0, (1, 3)))
    ax.set(xscale="log", xlim=(LEAST, 1), ylim=(0, 1.02), ylabel="recall of p under attack")
    ax.set_xlabel("share of other images called p under attack")
    ticks = np.array([0.001, 0.01, 0.1, 1])
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def _band(
    ax: Axes, attacked: pd.DataFrame, certified: pd.DataFrame, label: str, look: dict[str, object]
) -> None:
    """Between two curves: a step at every share of false alarms that either has."""
    places = [c["false_alarms"].clip(lower=LEAST).to_numpy() for c in (certified, attacked)]
    x = np.union1d(*places)
    low, high = (
        curve["recall"].to_numpy()[np.searchsorted(place, x, side="right") - 1]
        for curve, place in zip((certified, attacked), places, strict=True)
    )
    ax.fill_between(x, low, high, step="post", color=look["color"], alpha=0.2, lw=0)
    ax.step(x, low, where="post", lw=0.8, label=label, **look)
