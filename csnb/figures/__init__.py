"""Frames and arrays to matplotlib Axes and HTML tables; no computing, attacking or reading."""

from csnb.figures import shell
from csnb.figures.boxes import boxes
from csnb.figures.examples import adversarial_examples, eps_slider
from csnb.figures.framework import framework
from csnb.figures.general import annotated_map, lines
from csnb.figures.protection import protection_curve, ranking
from csnb.figures.scores import (
    by_attack,
    cost_matrix,
    differences,
    per_class,
    protected_against_others,
    robustness_heatmap,
)
from csnb.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    YELLOW,
    caption,
    styled,
)
from csnb.figures.tables import table
from csnb.figures.training import layer_fuzziness, training, trends, updates
from csnb.figures.weights import weights

__all__ = [
    "BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "YELLOW", "adversarial_examples",
    "annotated_map", "boxes", "by_attack", "caption", "cost_matrix", "differences", "eps_slider",
    "framework", "layer_fuzziness", "lines", "per_class", "protected_against_others",
    "protection_curve", "ranking", "robustness_heatmap", "styled", "table", "training", "trends",
    "updates", "weights",
]  # fmt: skip

shell.draw_into_the_notebook()
