"""Tidy frames and arrays to matplotlib Axes; no computing of results, no reading of files."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from csnb.attacks import ThreatModel, perturb
from csnb.models import Normalized

if TYPE_CHECKING:
    import ipywidgets

    from csnb.training import Method

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito: told apart by colour-blind readers and in grey
GREEN, YELLOW, PURPLE = "#009E73", "#E69F00", "#CC79A7"  # theirs too
STYLES = (  # of a figure's series, in their order
    {"color": BLUE, "ls": "-", "marker": "o"},
    {"color": ORANGE, "ls": "--", "marker": "s"},
    {"color": GREEN, "ls": ":", "marker": "^"},
    {"color": PURPLE, "ls": "-.", "marker": "D"},
    {"color": "black", "ls": (0, (6, 1, 1, 1, 1, 1)), "marker": "x"},
)


def cost_matrix(costs: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """A cost matrix (m, m) as a heatmap; numbers are written in up to 20 classes."""
    ax = ax or plt.figure(figsize=(4.6, 4)).add_subplot()
    small = len(classes) <= 20
    labels = list(classes) if small else "auto"
    sns.heatmap(
        costs, annot=small, fmt="g", cmap="cividis", square=True, xticklabels=labels, yticklabels=labels, ax=ax,
        annot_kws={"size": 8}, cbar_kws={"label": "cost"},
    )  # fmt: skip
    ax.set(xlabel="true class", ylabel="predicted class")
    return ax


def robustness_heatmap(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracies in [0, 1]: a row per method, a column per attack."""
    ax = ax or plt.figure(figsize=(1.5 + 0.85 * table.shape[1], 1 + 0.45 * table.shape[0])).add_subplot()
    sns.heatmap(
        table.astype(float), annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, ax=ax, cbar_kws={"label": "accuracy"}
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return ax


def differences(comparison: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Ours less the published accuracy of each cell of `paper.compare`; "=" where the interval holds 0, blank: not run."""
    cells = comparison[comparison["published"].notna()]
    place = {"index": ["attack", "method"], "columns": "protected_class"}
    gaps = cells.pivot(**place, values="difference")
    texts = cells["difference"].map("{:+.2f}".format).mask(cells["verdict"] == "agrees", "=").mask(cells["ours"].isna(), "")
    texts = cells.assign(text=texts).pivot(**place, values="text")
    ax = ax or plt.figure(figsize=(3 + 0.55 * gaps.shape[1], 1.2 + 0.26 * gaps.shape[0])).add_subplot()
    sns.heatmap(
        gaps, annot=texts, fmt="", cmap="PuOr", center=0, vmin=-1, vmax=1, ax=ax, annot_kws={"size": 8},
        cbar_kws={"label": "ours - published"}, yticklabels=[f"{attack}  {method}" for attack, method in gaps.index],
    )  # fmt: skip
    for line in range(0, len(gaps), max(1, gaps.index.get_level_values(0).value_counts(sort=False).iloc[0])):
        ax.axhline(line, color="black", lw=0.8)
    ax.set(xlabel="protected class", ylabel="", facecolor="#eeeeee")
    return ax


def per_class(scores: pd.DataFrame, protected: str, *, attack: str, ax: Axes | None = None) -> Axes:
    """Clean and robust accuracy of each attacked class with 95 % intervals; the protected class stands out."""
    ax = ax or plt.figure(figsize=(7, 3.2)).add_subplot()
    rows = scores[(scores["measure"] == "accuracy")]
    robust = rows[rows["attack"] == attack].set_index("class")
    clean = rows[rows["attack"] == "clean"].set_index("class").loc[robust.index]
    colours = [ORANGE if name == protected else BLUE for name in robust.index]
    place = np.arange(len(robust))
    errors = np.abs(robust[["low", "high"]].sub(robust["value"], axis=0).to_numpy(float)).T
    ax.bar(place, robust["value"], color=colours, width=0.7, yerr=errors, capsize=2, error_kw={"lw": 1}, label=attack)
    ax.scatter(place, clean["value"], marker="_", s=160, color="black", zorder=3, label="clean")
    ax.set_xticks(place, robust.index, rotation=0 if max(map(len, robust.index)) <= 3 else 40, ha="center")
    ax.set(ylim=(0, 1.05), ylabel="accuracy", xlabel=f"true class (protected: {protected})")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def protected_against_others(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Robust accuracy of the protected class beside the mean of the others, a pair of bars per method.

    ``table``: a row per method, columns ``protected``, ``low``, ``high``, ``others``.
    """
    ax = ax or plt.figure(figsize=(7, 3)).add_subplot()
    place = np.arange(len(table))
    errors = np.abs(table[["low", "high"]].sub(table["protected"], axis=0).to_numpy(float)).T
    ax.bar(place - 0.19, table["protected"], 0.36, yerr=errors, capsize=2, color=ORANGE, label="protected class")
    ax.bar(place + 0.19, table["others"], 0.36, color=BLUE, hatch="//", edgecolor="white", label="mean of the others")
    ax.set_xticks(place, table.index)
    ax.set(ylim=(0, 1.05), ylabel="accuracy")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def training(history: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Training loss and accuracy per epoch; epochs that see adversarial examples are shaded."""
    ax = ax or plt.figure(figsize=(5.5, 2.8)).add_subplot()
    ax.plot(history["epoch"], history["loss"], color=BLUE, marker="o", ms=3, label="loss")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    right = ax.twinx()
    right.plot(history["epoch"], history["accuracy"], color=ORANGE, ls="--", marker="s", ms=3, label="accuracy")
    right.set(ylabel="accuracy on the examples seen", ylim=(0, 1.05))
    for epoch in history.loc[history["examples"].str.contains("adversarial"), "epoch"]:
        ax.axvspan(epoch - 0.5, epoch + 0.5, color=GREY, alpha=0.25, lw=0)
    ax.figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return ax


def adversarial_examples(
    clean: Tensor,
    adversarial: Tensor,
    predicted: Sequence[str],
    adversarial_predicted: Sequence[str],
) -> Figure:
    """Rows of images (B, C, H, W): clean, adversarial, and their difference magnified around grey.

    ``predicted`` and ``adversarial_predicted``: what the model says of each; a changed answer is bold. The difference is
    magnified so that the largest fills the range. Adversarial pixels outside [0, 1] are shown clipped.
    """
    delta = adversarial - clean
    gain = 0.5 / max(float(delta.abs().max()), 1e-12)
    rows = (clean, adversarial, 0.5 + gain * delta)
    figure, axes = plt.subplots(3, len(clean), figsize=(1.1 * len(clean), 4.2), squeeze=False)
    for row, images in enumerate(rows):
        for column, image in enumerate(torch.clamp(images, 0, 1).cpu().permute(0, 2, 3, 1)):
            axes[row, column].imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=1)
            axes[row, column].set(xticks=[], yticks=[])
    for column, (before, after) in enumerate(zip(predicted, adversarial_predicted, strict=True)):
        axes[0, column].set_title(before, fontsize=9)
        changed = {"color": ORANGE, "fontweight": "bold"} if after != before else {}
        axes[1, column].set_title(after, fontsize=9, **changed)
    for row, label in enumerate(("clean", "adversarial", f"difference x{gain:.3g}")):
        axes[row, 0].set_ylabel(label, fontsize=8)
    figure.tight_layout(h_pad=0.8, w_pad=0.2)
    return figure


def lines(
    table: pd.DataFrame,
    *,
    xlabel: str,
    ylabel: str,
    scales: tuple[str, str] = ("linear", "linear"),
    low: pd.DataFrame | None = None,
    high: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Each column of ``table`` against its index, up to six; ``low`` and ``high``, of the same shape, shade intervals.

    Colour, stroke and marker differ. ``scales``: of x and y, as matplotlib names them.
    """
    ax = ax or plt.figure(figsize=(5.5, 3.2)).add_subplot()
    styles = zip((BLUE, ORANGE, "black", GREEN, PURPLE, YELLOW), ("-", "--", ":", "-.", "-", "--"), "os^Dvx", strict=True)
    for name, (colour, stroke, marker) in zip(table, styles, strict=False):
        every = max(1, len(table) // 10)
        ax.plot(table.index, table[name], color=colour, ls=stroke, marker=marker, ms=4, markevery=every, label=name)
        if low is not None and high is not None:
            ax.fill_between(table.index, low[name], high[name], color=colour, alpha=0.2, lw=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale=scales[0], yscale=scales[1])
    ax.legend(title=table.columns.name, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def annotated_map(
    values: pd.DataFrame, texts: pd.DataFrame, *, label: str, limits: tuple[float, float], ax: Axes | None = None
) -> Axes:
    """A heatmap of ``values`` between ``limits``, each cell with its text; rows and columns as in the frames."""
    ax = ax or plt.figure(figsize=(2.6 + 0.95 * values.shape[1], 1 + 0.5 * values.shape[0])).add_subplot()
    sns.heatmap(
        values.astype(float), annot=texts, fmt="", cmap="cividis", vmin=limits[0], vmax=limits[1], ax=ax,
        annot_kws={"size": 8}, cbar_kws={"label": label},
    )  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0)
    return ax


def updates(seen: Mapping[str, pd.DataFrame]) -> Figure:
    """What each update of a training was made on: a panel per name, a row per epoch, a box per update, in order.

    Each frame of ``seen`` has a row per update: ``epoch``, ``batch`` (both from 1), ``update`` (of the batch, from 1) and
    ``examples``, "clean" or "adversarial".
    """
    figure, axes = plt.subplots(1, len(seen), figsize=(1 + 3 * len(seen), 2.8), squeeze=False, sharey=True)
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
        Patch(label=kind, edgecolor="white", facecolor=look["color"], hatch=look.get("hatch")) for kind, look in looks.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.9))
    return figure


def framework(name: str, method: "Method", fed: Mapping[str, str], layers: Mapping[str, str], convs: Sequence[str]) -> Figure:
    """Fig. 1 for one method: what is fed to the network, what the loss is made of, and what comes back.

    ``fed``: when "clean" and "adversarial" examples are fed; a kind that is left out is not drawn. ``layers``: the network's
    layers in order with their shapes; ``convs``: names of those whose weights Fuzziness sees. Layers in green are penalised.
    """
    figure = plt.figure(figsize=(11, 4.6))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, 110), ylim=(0, 46))
    ax.set_axis_off()
    ax.text(2, 43, f"{name}: {method.objective}", fontsize=11, fontweight="bold", va="center")
    _box(ax, 2, 27, 17, 9, "clean batch\n(x, y)", BLUE)
    _arrow(ax, (19, 31.5), (33, 31.5), f"clean:\n{fed['clean']}", BLUE)
    if "adversarial" in fed:
        _box(ax, 2, 4, 17, 10, "PGD on f ascends the\nexamples' loss:\nadversarial batch", ORANGE)
        _arrow(ax, (10.5, 27), (10.5, 14))
        _arrow(ax, (19, 9), (33, 26.5), f"adversarial:\n{fed['adversarial']}", ORANGE, label=(27.5, 9))
    penalised = {"none": [], "fuzziness": convs, "l2": list(layers)}[method.penalty]
    width = 36 / len(layers)
    ax.add_patch(FancyBboxPatch((33, 23), 36, 13, boxstyle="round,pad=0.4", fc="none", ec=GREY, ls="--"))
    ax.text(51, 38, r"network f, weights $\theta$", ha="center", va="center", fontsize=9)
    for place, (layer, shape) in enumerate(layers.items()):
        colour = GREEN if layer in penalised else GREY
        _box(ax, 33.6 + place * width, 24.5, width - 1.2, 10, f"{layer}\n{shape}", colour)
    terms = _terms(method)
    bottom = 36.5 - 7.5 * len(terms)
    ax.add_patch(FancyBboxPatch((77, bottom - 0.8), 31, 36.3 - bottom, boxstyle="round,pad=0.4", fc="none", ec=GREY, ls="--"))
    ax.text(92.5, 38, "loss, the sum of", ha="center", va="center", fontsize=9)
    _arrow(ax, (69.4, 32.5), (76.6, 32.5), "f(x)", label=(73, 34))
    for place, term in enumerate(terms):
        _box(ax, 78.5, 29.5 - 7.5 * place, 28, 5.5, term, GREEN if place == 2 else YELLOW)
    if penalised:
        source = 33 + width * len(penalised) / 2
        ax.plot([source, source], [22.6, bottom + 3], color=GREEN, lw=1.6)
        _arrow(ax, (source, bottom + 3), (78.2, bottom + 3), "weights alone, no examples", GREEN, label=(60, bottom + 4.4))
    ax.plot([92.5, 92.5, 36], [bottom - 1.2, 6, 6], color="black", lw=1.4, ls="--")
    _arrow(ax, (36, 6), (36, 22.6), stroke="--")
    ax.text(65, 4, r"one step of the optimiser on $\theta$ for each batch that is fed", ha="center", va="center", fontsize=9)
    return figure


def _terms(method: "Method") -> list[str]:
    """The parts of a method's loss, as Fig. 1 shows them; the third is of the weights."""
    costs = [r"expected cost: $\sum_i f_i(x)\, C(i, y)$"] if method.cost_sensitive else []
    penalty = {"none": [], "fuzziness": [r"$\gamma$ Fuzziness($W_{conv}$)"], "l2": [r"$\|\theta_f\|_2$"]}[method.penalty]
    return ["cross-entropy of f(x) and y", *costs, *penalty]


def _box(ax: Axes, left: float, bottom: float, width: float, height: float, text: str, colour: str) -> None:
    ax.add_patch(FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.3", fc=f"{colour}33", ec=colour, lw=1.6))
    ax.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=8.5)


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    colour: str = "black",
    *,
    label: tuple[float, float] | None = None,
    stroke: str = "-",
) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6, "ls": stroke})
    x, y = label or ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 2.4)
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5)


def weights(frame: pd.DataFrame) -> Figure:
    """Weights of one layer as Figs. 3 and 4 have them: their distribution, |w| in the layer's order, |w| sorted.

    ``frame``: a row per weight in the layer's order, a column per model.
    """
    figure, (spread, place, ranked) = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    edges = np.histogram_bin_edges(frame.to_numpy(), 31)
    for name, style in zip(frame, STYLES, strict=False):
        size = frame[name].abs().to_numpy()
        spread.stairs(np.histogram(frame[name], edges)[0], edges, color=style["color"], ls=style["ls"], lw=1.6, label=name)
        place.plot(size, **style | {"ls": "none"}, ms=3.5, mfc="none", label=name)
        ranked.plot(np.arange(1, len(size) + 1), np.sort(size)[::-1], **style, ms=3.5, mfc="none", markevery=10, label=name)
    spread.set(xlabel="weight", ylabel="number of weights", title="distribution")
    place.set(xlabel="place in the layer", ylabel="|weight|", title="in the layer's order")
    ranked.set(xlabel="rank", ylabel="|weight|", title="sorted", yscale="log")
    figure.legend(*ranked.get_legend_handles_labels(), loc="outside upper center", ncols=frame.shape[1], frameon=False)
    sns.despine(figure)
    return figure


def by_attack(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Accuracies with their intervals under each attack, a marker per series.

    ``frame``: columns ``series``, ``attack``, ``value``, ``low``, ``high`` (which may be missing), in the order to be drawn.
    """
    ax = ax or plt.figure(figsize=(8, 3.2)).add_subplot()
    attacks, series = list(dict.fromkeys(frame["attack"])), list(dict.fromkeys(frame["series"]))
    for number, (name, style) in enumerate(zip(series, STYLES, strict=False)):
        rows = frame[frame["series"] == name]
        place = np.array([attacks.index(attack) for attack in rows["attack"]]) + 0.7 * ((number + 0.5) / len(series) - 0.5)
        errors = rows[["low", "high"]].sub(rows["value"], axis=0).abs().to_numpy(float).T
        ax.errorbar(place, rows["value"].astype(float), errors, **style | {"ls": "none"}, ms=5, capsize=2, lw=1, label=name)
    for place in np.arange(len(attacks) - 1) + 0.5:
        ax.axvline(place, color=GREY, lw=0.5)
    ax.set_xticks(range(len(attacks)), attacks)
    ax.set(ylim=(-0.03, 1.05), xlim=(-0.5, len(attacks) - 0.5), ylabel="accuracy")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    sns.despine(ax=ax)
    return ax


def trends(frame: pd.DataFrame, measures: Mapping[str, str]) -> Figure:
    """Measures per epoch as Fig. 5 has them: a row of panels per data set, a column per measure, a line per method.

    ``frame``: columns ``dataset``, ``method``, ``epoch`` and the keys of ``measures``, whose values are the axes' labels;
    where there are ``<measure>.low`` and ``<measure>.high``, they are drawn as a band.
    """
    datasets, methods = list(dict.fromkeys(frame["dataset"])), list(dict.fromkeys(frame["method"]))
    shape = {"figsize": (3.6 * len(measures), 0.5 + 2.5 * len(datasets)), "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(len(datasets), len(measures), **shape)
    for (row, dataset), (column, measure) in itertools.product(enumerate(datasets), enumerate(measures)):
        ax = axes[row, column]
        for method, style in zip(methods, STYLES, strict=False):
            line = frame[(frame["dataset"] == dataset) & (frame["method"] == method)]
            ax.plot(line["epoch"], line[measure], **style, ms=3, lw=1.3, label=method)
            if f"{measure}.low" in line:
                ax.fill_between(
                    line["epoch"], line[f"{measure}.low"], line[f"{measure}.high"], color=style["color"], alpha=0.15, lw=0
                )
        ax.set(xlabel="epoch", ylabel=measures[measure], title=dataset)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.get_major_formatter().set_useOffset(False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), frameon=False)
    sns.despine(figure)
    return figure


def layer_fuzziness(frame: pd.DataFrame) -> Figure:
    """Fuzziness of each convolution as Fig. 6 has it: over the epochs, a line per layer; and by layer after the last epoch.

    ``frame``: columns ``method``, ``epoch``, ``layer``, ``fuzziness``; layers in the network's order.
    """
    layers = list(dict.fromkeys(frame["layer"]))
    shape = {"figsize": (11, 1.3 + 0.19 * len(layers)), "layout": "constrained", "sharey": True}
    figure, (over, last) = plt.subplots(1, 2, **shape)
    for (method, rows), style, size in zip(frame.groupby("method", sort=False), STYLES, (8, 4), strict=False):
        table = rows.pivot(index="epoch", columns="layer", values="fuzziness")[layers]
        over.plot(table.index, table, **style, ms=size, mfc="none", lw=1)
        last.plot(range(len(layers)), table.iloc[-1], **style | {"ls": "none"}, ms=size, mfc="none", label=method)
    over.set(xlabel="epoch", ylabel="fuzziness", title="each convolution, over training")
    over.xaxis.set_major_locator(MaxNLocator(integer=True))
    over.yaxis.get_major_formatter().set_useOffset(False)
    last.set_xticks(range(len(layers)), layers, rotation=90, fontsize=8)
    last.set(title="by convolution, after the last epoch")
    figure.legend(*last.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    sns.despine(figure)
    return figure


def eps_slider(model: Normalized, x: Tensor, y: Tensor, classes: Sequence[str], threat: ThreatModel) -> "ipywidgets.Widget":
    """FGSM examples of pixels ``x`` (B, C, H, W) with labels ``y`` (B,) under a slider for eps, up to twice ``threat.eps``."""
    import ipywidgets

    def show(eps: float) -> None:
        attacked = perturb(model, x, y, "FGSM", replace(threat, eps=eps))
        names = [[classes[i] for i in model(images).argmax(1).tolist()] for images in (x, attacked)]
        adversarial_examples(x, attacked, *names)
        plt.show()

    top = 2 * threat.eps
    slider = ipywidgets.FloatSlider(threat.eps, min=0, max=top, step=top / 20, description="eps", continuous_update=False)
    return ipywidgets.interactive(show, eps=slider)
