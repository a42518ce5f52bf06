"""The robust ROC curve of a class, and what methods gain on it."""

from collections.abc import Mapping
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csnb.figures.style import BLUE, GREY, new_axes, plain, styled

LEAST = 1e-3  # false alarms that are shown; fewer stand there too
AT_LEAST = ", certified at least"


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
    labels = [*map(plain, curves), *(plain(name) + AT_LEAST for name in certified)]
    ax = new_axes(ax, max(5.5, 4 + 0.075 * max(map(len, labels), default=0)), 3.6, title)
    for (name, curve), style in styled(curves.items()):
        alarms = curve["false_alarms"].clip(lower=LEAST)
        look = {"color": style["color"], "ls": style["ls"]}
        ax.step(alarms, curve["recall"], where="post", lw=1.5, **look)
        own = curve[curve["offset"] >= 0].iloc[0]
        place = max(own["false_alarms"], LEAST), own["recall"]
        ax.plot(*place, marker=style["marker"], ms=7, label=plain(name), **look)
        if name in certified:
            _band(ax, curve, certified[name], plain(name) + AT_LEAST, look)
    ax.axvline(budget, color="black", lw=0.8, ls=(0, (1, 3)))
    ax.set(xscale="log", xlim=(LEAST, 1), ylim=(0, 1.02), ylabel="recall of p under attack")
    ax.set_xlabel("share of other images called p under attack")
    ticks = np.array([0.001, 0.01, 0.1, 1])
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def ranking(frame: pd.DataFrame, *, title: str = "") -> Figure:
    """Two panels with a row for each method: what the class gains, and what all of them pay.

    ``frame``: of `csnb.curves.rank`, the first row above. Dots with their intervals; a grey line
    is the base. In brackets: in how many trainings the class was lost, if in any.
    """
    figure, panels = plt.subplots(
        1, 2, figsize=(8, 0.9 + 0.3 * len(frame)), sharey=True, layout="constrained"
    )
    labels = {"gain": "recall of p at equal false alarms", "price": "average robust accuracy"}
    rows = np.arange(len(frame))[::-1]
    for ax, (name, label) in zip(panels, labels.items(), strict=True):
        ends = frame[[f"{name}_low", f"{name}_high"]].to_numpy(float).T
        ax.axvline(0, color=GREY, lw=0.8)
        ax.hlines(rows, *ends, color=BLUE, lw=1.5)
        ax.plot(frame[name], rows, "o", color=BLUE, ms=5)
        ax.set_xlabel(f"{label}, less the base's")
        ax.locator_params(axis="x", nbins=5)
    lost = [f" ({k} of {n} lost)" if k else "" for k, n in frame[["lost", "trainings"]].to_numpy()]
    names = [plain(name) + text for name, text in zip(frame.index, lost, strict=True)]
    panels[0].set_yticks(rows, names)
    figure.suptitle(plain(title), fontsize=10)
    sns.despine(figure)
    return figure


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
