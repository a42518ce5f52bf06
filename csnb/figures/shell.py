"""Where pictures go."""

import os
import sys


def draw_into_the_notebook() -> None:
    """In a kernel, whatever MPLBACKEND its shell has: with Agg, papermill would end with none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel") and os.environ.get("MPLBACKEND", "").lower() == "agg":
        shell.enable_matplotlib("inline")
