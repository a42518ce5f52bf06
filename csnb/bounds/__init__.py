"""Sound bounds on what an attacker can make of a network: intervals, and lines back through it."""

from csnb.bounds.layers import RULES, Box, Layer, rule
from csnb.bounds.network import UNIT, Bounds, Certifier, Threat, certified

__all__ = ["RULES", "UNIT", "Bounds", "Box", "Certifier", "Layer", "Threat", "certified", "rule"]
