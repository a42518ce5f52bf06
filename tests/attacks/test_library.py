"""advertorch works with today's torch, whoever imports it first, and costs what attacks need."""

import subprocess
import sys

USE = """
import csnb.attacks, sys
assert "torchvision" not in sys.modules
import advertorch, advertorch.attacks
assert not hasattr(advertorch, "nothing")
advertorch.attacks.LinfFABAttack(lambda x: x)
assert advertorch.defenses.JPEGFilter and "torchvision" in sys.modules
from advertorch.defenses import JPEGFilter
assert JPEGFilter is advertorch.defenses.JPEGFilter
"""


def test_advertorch_imports_in_a_fresh_process_without_what_no_attack_needs() -> None:
    subprocess.run([sys.executable, "-c", USE], check=True, timeout=120)
