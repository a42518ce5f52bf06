"""advertorch works with today's torch, whoever imports it first."""

import subprocess
import sys


def test_advertorch_imports_in_a_fresh_process() -> None:
    code = "import csnb.attacks, advertorch.attacks; advertorch.attacks.LinfFABAttack(lambda x: x)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
