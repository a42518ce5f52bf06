"""Accuracies by attack, method and class, and costs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from csnb.figures.style import BLUE, GREY, ORANGE, caption, new_axes, plain, styled

UPRIGHT = 10  # characters of an attack's name that stands upright
LEAST_SPAN = 0.05  # of differences of accuracy: smaller ones stay pale


def cost_matrix(
    costs: np.ndarray, classes: Sequence[str], *, title: str = "", ax: Axes | None = None
) -> Axes:
    """A cost matrix (m, m) as a heatmap; numbers are written in up to 20 classes."""
    ax = new_axes(ax, 4.8, 4, title)
    small = len(classes) <= 20
    labels = list(map(plain, classes)) if small else "auto"
    sns.heatmap(
        costs, annot=small, fmt="g", cmap="cividis", square=True, xticklabels=labels,
        yticklabels=labels, ax=ax, annot_kws={"size": 8}, cbar_kws={"label": "cost"},
    )  # fmt: skip
    ax.set(xlabel="true class", ylabel="predicted class")
    return ax


def robustness_heatmap(table: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Accuracies in [0, 1]: a row per method, a column per attack."""
    ax = new_axes(ax, 1.5 + 0.85 * table.shape[1], 1.2 + 0.45 * table.shape[0], title)
    sns.heatmap(
        table.astype(float), annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, ax=ax,
        cbar_kws={"label": "accuracy"},
    )  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return ax


def differences(comparison: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Ours less the published accuracy of each cell of `csnb.paper.compare`.

    "=" where the 95 % interval of the difference holds 0, blank where there is no run. The colours
    end at the largest difference.
    """
    cells = comparison[comparison["published"].notna()]
    place = {"index": ["attack", "method"], "columns": "protected_class"}
    gaps = cells.pivot(**place, values="difference")
    texts = cells["difference"].map("{:+.2f}".format).mask(cells["verdict"] == "agrees", "=")
    texts = cells.assign(text=texts.mask(cells["ours"].isna(), "")).pivot(**place, values="text")
    ax = new_axes(ax, 3 + 0.55 * gaps.shape[1], 1.5 + 0.26 * gaps.shape[0], title)
    most = np.fmax(gaps.abs().max().max(), LEAST_SPAN)  # the former is NaN where there is no run
    sns.heatmap(
        gaps, annot=texts, fmt="", cmap="PuOr", vmin=-most, vmax=most, ax=ax,
        annot_kws={"size": 8}, cbar_kws={"label": "accuracy, ours - published"},
        yticklabels=[f"{attack}  {method}" for attack, method in gaps.index],
    )  # fmt: skip
    attacks = gaps.index.get_level_values(0)
    for line in np.flatnonzero(attacks != np.roll(attacks, 1)):
        ax.axhline(line, color="black", lw=0.8)
    images = caption("protected class p", n=cells["n"])
    ax.set(xlabel=f"{images} test images each", ylabel="", facecolor="#eeeeee")
    return ax


def per_class(
    scores: pd.DataFrame,
    protected: Sequence[str],
    *,
    attack: str,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Clean and robust accuracy of each attacked class with 95 % intervals.

    ``scores``: of one run (see `score`). ``protected``: names of the classes that stand out.
    """
    ax = new_axes(ax, 7, 3.4, title)
    rows = scores[(scores["measure"] == "accuracy")]
    robust = rows[rows["attack"] == attack].set_index("class")
    clean = rows[rows["attack"] == "clean"].set_index("class").loc[robust.index]
    colours = [ORANGE if name in protected else BLUE for name in robust.index]
    place = np.arange(len(robust))
    ax.bar(
        place, robust["value"], color=colours, width=0.7, yerr=_errors(robust, "value"), capsize=2,
        error_kw={"lw": 1}, label=attack,
    )  # fmt: skip
    ax.scatter(place, clean["value"], marker="_", s=160, color="black", zorder=3, label="clean")
    turned = 0 if max(map(len, robust.index)) <= 3 else 40
    ax.set_xticks(place, map(plain, robust.index), rotation=turned, ha="center")
    ax.set(ylim=(0, 1.05), ylabel="accuracy")
    ax.set_xlabel(plain(f"true class (protected: {', '.join(protected)})"))
    return _finish(ax)


def protected_against_others(
    table: pd.DataFrame, *, title: str = "", ax: Axes | None = None
) -> Axes:
    """Robust accuracy of the protected class beside the mean of the others, a pair per method.

    ``table``: a row per method, columns ``protected``, ``low``, ``high``, ``others``.
    """
    ax = new_axes(ax, 7, 3.2, title)
    place = np.arange(len(table))
    ax.bar(
        place - 0.19, table["protected"], 0.36, yerr=_errors(table, "protected"), capsize=2,
        color=ORANGE, label="protected class",
    )  # fmt: skip
    others = {"color": BLUE, "hatch": "//", "edgecolor": "white", "label": "mean of the others"}
    ax.bar(place + 0.19, table["others"], 0.36, **others)
    ax.set_xticks(place, table.index)
    ax.set(ylim=(0, 1.05), ylabel="accuracy")
    return _finish(ax)


def by_attack(frame: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Accuracies with their intervals under each attack, a marker per series.

    ``frame``: columns ``series``, ``attack``, ``value``, ``low``, ``high`` (which may be missing),
    in the order to be drawn.
    """
    attacks, series = (list(dict.fromkeys(frame[name])) for name in ("attack", "series"))
    longest = max((len(line) for attack in attacks for line in attack.split("\n")), default=0)
    slanted = longest > UPRIGHT
    inches = 0.5 if slanted else 0.1 + 0.09 * longest  # for each attack
    height = 3.4 + (0.05 * longest if slanted else 0)
    ax = new_axes(ax, max(8, 2.8 + inches * len(attacks)), height, title)
    for number, (name, style) in enumerate(styled(series)):
        rows = frame[frame["series"] == name]
        beside = 0.7 * ((number + 0.5) / len(series) - 0.5)
        place = np.array([attacks.index(attack) for attack in rows["attack"]]) + beside
        looks = style | {"ls": "none", "ms": 5, "capsize": 2, "lw": 1, "label": name}
        ax.errorbar(place, rows["value"].astype(float), _errors(rows, "value"), **looks)
    for place in np.arange(len(attacks) - 1) + 0.5:
        ax.axvline(place, color=GREY, lw=0.5)
    slant = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(range(len(attacks)), attacks, **slant)
    ax.set(ylim=(-0.03, 1.05), xlim=(-0.5, len(attacks) - 0.5), ylabel="accuracy")
    return _finish(ax)


def _errors(rows: pd.DataFrame, value: str) -> list[list[float]]:
    """Distances of ``low`` and ``high`` from ``value``: 2 x N; of an array matplotlib may warn."""
    return np.abs(rows[["low", "high"]].sub(rows[value], axis=0).to_numpy(float)).T.tolist()


def _finish(ax: Axes) -> Axes:
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax
