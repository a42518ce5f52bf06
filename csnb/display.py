"""A line of text that changes while a notebook's cell runs, and stays as it was last."""

import sys
import uuid


class LiveLine:
    """One line of output in a notebook, replaced by each `show`; silent elsewhere.

    Unlike a progress-bar widget, it is plain output: a headless run keeps its last state.
    """

    def __init__(self) -> None:
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        self.publish = shell.display_pub.publish if shell is not None and hasattr(shell, "kernel") else None
        self.transient = {"display_id": uuid.uuid4().hex}
        self.shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.publish is not None:
            self.publish({"text/plain": text}, metadata={}, transient=self.transient, update=self.shown)
            self.shown = True
