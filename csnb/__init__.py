"""csnb: classifiers that protect the class that matters most when someone attacks them.

Reproduces "Adversarial Learning with Cost-Sensitive Classes" (Shen, Chen, Wang, Wang) and goes on.
"""

import os
from importlib import import_module
from typing import Any

# GNU OpenMP's threads, before torch starts them: how long they turn around waiting for each other
# before they sleep, in place of some milliseconds. Beside other work the wait is for one that has
# no core: two threads on two busy cores took 5 to 30 times as long as one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

PUBLIC = {  # by module, imported when first asked for: csnb --help needs no torch
    "attacks": ("ATTACKS", "ThreatModel", "perturb"),
    "auditing": ("audit",),
    "batch": ("sweep",),
    "certified": ("certified_margins",),
    "costs": ("costs_from_pairs", "protect", "read_costs"),
    "curves": ("read_margins",),
    "data": ("DATASETS", "Dataset", "load_dataset"),
    "errors": ("InputError",),
    "evaluation": ("evaluate", "score"),
    "experiment": ("Experiment",),
    "exporting": ("export",),
    "margins": ("protection", "worst_margins"),
    "methods": ("METHODS", "Method"),
    "models": ("MODELS", "build_model", "conv_weights"),
    "pretrained": ("load_model", "load_pretrained"),
    "recipe": ("Recipe",),
    "runner": ("Run", "find_or_run", "run"),
    "runs": ("read_run", "read_runs"),
    "spec": ("attack", "dataset", "method", "model"),
    "training": ("fit",),
}
MODULES = (
    "attacks", "auditing", "batch", "bounds", "certified", "costs", "curves", "data",
    "evaluation", "figures", "images", "losses", "margins", "methods", "models", "paper",
    "pretrained", "runs", "statistics", "training",
)  # fmt: skip
_HOME = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = sorted([*_HOME, *MODULES])


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"csnb.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'csnb' has no attribute {name!r}")
    return getattr(import_module(f"csnb.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
