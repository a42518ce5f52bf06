"""What all figures share: colours, series' styles, new axes, and what a title says."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

T = TypeVar("T")

# Okabe and Ito's: told apart by colour-blind readers, the first three in grey too.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"
GREEN, YELLOW, PURPLE = "#009E73", "#E69F00", "#CC79A7"
STYLES: tuple[dict[str, Any], ...] = (  # of a figure's first six series, in their order
    {"color": BLUE, "ls": "-", "marker": "o"},
    {"color": ORANGE, "ls": "--", "marker": "s"},
    {"color": GREEN, "ls": ":", "marker": "^"},
    {"color": PURPLE, "ls": "-.", "marker": "D"},
    {"color": "black", "ls": (0, (6, 1, 1, 1, 1, 1)), "marker": "x"},
    {"color": YELLOW, "ls": (0, (1, 2)), "marker": "v"},
)


def styled(series: Iterable[T]) -> Iterator[tuple[T, dict[str, Any]]]:
    """Each of a figure's series with its colour, stroke (``ls``) and marker, for matplotlib.

    The first six share none of the three; from the seventh on colours come again with other
    strokes and markers, so that 36 are told apart.
    """
    for number, name in enumerate(series):
        turn, place = divmod(number, len(STYLES))
        stroke = STYLES[(place + turn) % len(STYLES)]
        yield name, {**stroke, "color": STYLES[place]["color"]}


def caption(
    dataset: str, *parts: str, p: object = None, n: int | Iterable[int] | None = None
) -> str:
    """What a figure's numbers are of: ``"mnist, CSA, PGD, p = 3, n = 1010"``.

    ``parts``: such as method and attack. ``p``: the protected class. ``n``: test images; of several
    cells, their range.
    """
    said = [dataset, *filter(None, parts)]
    if p is not None:
        said.append(f"p = {p}")
    if n is not None:
        counts = np.atleast_1d(list(n) if isinstance(n, Iterable) else n).astype(int)
        ends = dict.fromkeys([counts.min(), counts.max()]) if counts.size else [0]
        said.append("n = " + " to ".join(map(str, ends)))
    return ", ".join(said)


def new_axes(ax: Axes | None, width: float, height: float, title: str = "") -> Axes:
    """``ax``, or axes of a new figure of so many inches, under ``title``."""
    if ax is None:
        ax = plt.figure(figsize=(width, height), layout="constrained").add_subplot()
    if title:
        ax.set_title(plain(title), fontsize=10)
    return ax


def plain(text: object) -> str:
    """Text in which a dollar sign is a dollar sign and no formula, such as a class's name."""
    return str(text).replace("$", r"\$")


def label_panels(figure: Figure, ax: Axes, title: str, columns: int) -> None:
    """One legend for all panels, that of ``ax``, below them; the title above."""
    handles = ax.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False)
    if title:
        figure.suptitle(plain(title), fontsize=10)
    sns.despine(figure)
