"""The paper: its tables, its figures' statistics, Theorem 1, Table I - and ours beside them."""

from csnb.paper import minmax, normalization, theory
from csnb.paper.readings import reading
from csnb.paper.tables import (
    TEST_IMAGES,
    accuracies,
    compare,
    findings,
    measured,
    oddities,
    orderings,
    printed,
    published,
)
from csnb.paper.view import Table

__all__ = [
    "TEST_IMAGES", "Table", "accuracies", "compare", "findings", "measured", "minmax",
    "normalization", "oddities", "orderings", "printed", "published", "reading", "theory",
]  # fmt: skip
