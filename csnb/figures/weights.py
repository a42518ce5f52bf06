"""The weights of a layer."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from csnb.figures.style import label_panels, styled


def weights(frame: pd.DataFrame, *, title: str = "") -> Figure:
    """Weights of one layer as Figs. 3 and 4 have them.

    Their distribution, |w| in the layer's order, |w| sorted. ``frame``: a row per weight in the
    layer's order, a column per model.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    spread, place, ranked = axes
    edges = np.histogram_bin_edges(frame.to_numpy(), 31)
    for name, style in styled(frame):
        size = frame[name].abs().to_numpy()
        counts, look = np.histogram(frame[name], edges)[0], style | {"label": name}
        spread.stairs(counts, edges, color=style["color"], ls=style["ls"], lw=1.6, label=name)
        place.plot(size, **look | {"ls": "none"}, ms=3.5, mfc="none")
        rank, largest_first = np.arange(1, len(size) + 1), np.sort(size)[::-1]
        ranked.plot(rank, largest_first, **look, ms=3.5, mfc="none", markevery=10)
    spread.set(xlabel="weight", ylabel="number of weights", title="distribution")
    place.set(xlabel="place in the layer", ylabel="|weight|", title="in the layer's order")
    ranked.set(xlabel="rank", ylabel="|weight|", title="sorted", yscale="log")
    label_panels(figure, ranked, title, frame.shape[1])
    return figure
