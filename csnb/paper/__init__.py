"""The paper: its tables, its figures' statistics, Theorem 1, Table I - and ours beside them."""

from csnb.paper import minmax, normalization, theory
from csnb.paper.readings import reading
from csnb.paper.tables import (
    TEST_IMAGES,
    accuracies,
    compare,
    findings,
    gradients,
    measured,
    oddities,
    orderings,
    paired,
    printed,
    published,
)
from csnb.paper.view import Table

__all__ = [
    "TEST_IMAGES", "Table", "accuracies", "compare", "findings", "gradients", "measured",
    "minmax", "normalization", "oddities", "orderings", "paired", "printed", "published",
    "reading", "theory",
]  # fmt: skip
