"""csnb: classifiers that protect the class that matters most when someone attacks them.

Reproduces "Adversarial Learning with Cost-Sensitive Classes" (Shen, Chen, Wang, Wang) and goes on from there.
"""

from csnb import figures
from csnb.attacks import ATTACKS, ThreatModel, perturb
from csnb.costs import check_costs, costs_from_pairs, protect, read_costs
from csnb.data import Dataset, load_dataset
from csnb.errors import InputError
from csnb.evaluation import Outcome, confusion, evaluate, score, wilson
from csnb.experiment import Experiment, Run, find_or_run, run
from csnb.frames import read_runs
from csnb.losses import expected_cost, fuzziness, l1_minus_l2, minmax_fuzziness
from csnb.models import LeNet, Normalized, build_model, conv_weights, resnet18
from csnb.runs import read_run
from csnb.sweep import sweep
from csnb.training import METHODS, fit

__version__ = "0.1.0"

__all__ = [
    "ATTACKS", "Dataset", "Experiment", "InputError", "LeNet", "METHODS", "Normalized", "Outcome", "Run", "ThreatModel",
    "build_model", "check_costs", "confusion", "conv_weights", "costs_from_pairs", "evaluate", "expected_cost", "figures",
    "find_or_run", "fit", "fuzziness", "l1_minus_l2", "load_dataset", "minmax_fuzziness", "perturb", "protect",
    "read_costs", "read_run", "read_runs", "resnet18", "run", "score", "sweep", "wilson",
]  # fmt: skip
