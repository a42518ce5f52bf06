"""The paper: its tables, its figures' statistics, Theorem 1, Table I - and ours beside them."""

from csnb.paper import minmax, normalization, theory
from csnb.paper.pairs import claimed, findings, orderings, paired, upheld
from csnb.paper.readings import reading
from csnb.paper.tables import (
    TEST_IMAGES,
    accuracies,
    compare,
    gradients,
    measured,
    oddities,
    printed,
    published,
)
from csnb.paper.view import Table

__all__ = [
    "TEST_IMAGES", "Table", "accuracies", "claimed", "compare", "findings", "gradients", "measured",
    "minmax", "normalization", "oddities", "orderings", "paired", "printed", "published",
    "reading", "theory", "upheld",
]  # fmt: skip
