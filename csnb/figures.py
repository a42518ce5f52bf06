"""Tidy frames and arrays to matplotlib Axes; no computing of results, no reading of files."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from csnb.attacks import ThreatModel, perturb
from csnb.models import Normalized

if TYPE_CHECKING:
    import ipywidgets

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito: told apart by colour-blind readers and in grey


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
