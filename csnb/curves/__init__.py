"""The protection curves of runs: read, judged against adversarial training, ranked, compared."""

from csnb.curves.comparison import BASE, CONTROL, Comparison, class_name, comparable, sweep_gains
from csnb.curves.of_runs import as_they_stand, baseline, read_certified, read_margins, verdict
from csnb.curves.ranking import Gathered, gains, protects_most, rank, recommendation, shown, signed

__all__ = [
    "BASE", "CONTROL", "Comparison", "Gathered", "as_they_stand", "baseline", "class_name",
    "comparable", "gains", "protects_most", "rank", "read_certified", "read_margins",
    "recommendation", "shown", "signed", "sweep_gains", "verdict",
]  # fmt: skip
