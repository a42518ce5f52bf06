"""The paper's six attacks and whoever adds one, under one threat model."""

from csnb.attacks import cw, gradient  # they register themselves
from csnb.attacks.perturb import keeps_to_ball, moved, perturb, warn_short
from csnb.attacks.threat import Loss, Target, ThreatModel
from csnb.spec import ATTACKS

__all__ = [
    "ATTACKS", "Loss", "Target", "ThreatModel", "cw", "gradient", "keeps_to_ball", "moved",
    "perturb", "warn_short",
]  # fmt: skip
