"""What people see while work goes on: bars with the time left; nothing in batch."""

import os
import sys
import uuid
from typing import TextIO

from tqdm import tqdm

from csnb.errors import printable

QUIET = "CSNB_QUIET"  # environment variable: 1 for no bars, as in the runs of a sweep


class Bar(tqdm):
    """A bar under way; a context manager."""

    def step(self, text: str = "") -> None:
        """One more is done; ``text`` says what it came to."""
        self.set_postfix_str(text, refresh=False)
        self.update()

    def note(self, text: str) -> None:
        """Show what is going on meanwhile, and the time left as of now."""
        self.set_postfix_str(text)


class _Cell:
    """A bar's file in a notebook: one line of plain output that changes.

    Unlike a widget, it leaves the notebook its last state, which is that at the end.
    """

    def __init__(self, shell: object) -> None:
        self.publish = shell.display_pub.publish
        self.transient = {"display_id": uuid.uuid4().hex}
        self.shown = False

    def write(self, text: str) -> None:
        """Replace the line."""
        if text.strip():
            data = {"text/plain": text.strip()}
            self.publish(data, metadata={}, transient=self.transient, update=self.shown)
            self.shown = True

    def flush(self) -> None:
        """Nothing waits."""


def bar(total: int, label: str) -> Bar:
    """A bar over ``total`` steps, for ``with``: in a notebook or on a terminal; else unseen."""
    place = _place()
    return Bar(
        total=total,
        desc=label,
        file=place,
        disable=place is None,
        leave=isinstance(place, _Cell),
        bar_format="{desc}: {n_fmt} of {total_fmt} {bar:20} {elapsed}, {remaining} left{postfix}",
        dynamic_ncols=True,
        miniters=1,
        smoothing=0,  # steps differ: of the attacks, CW takes the most time
    )


def say(text: str) -> None:
    """Print lines, above the bars; without what a file from elsewhere may do to a terminal.

    That nobody reads them any more, as under ``| head``, or that the terminal lacks a letter, stops
    no work.
    """
    lines = "\n".join(map(printable, text.split("\n")))
    letters = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        tqdm.write(lines.encode(letters, "backslashreplace").decode(letters), file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place() -> TextIO | _Cell | None:
    """Where bars are drawn."""
    if os.environ.get(QUIET, "0") not in ("", "0"):
        return None
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel"):
        return _Cell(shell)
    return sys.stderr if sys.stdout.isatty() and sys.stderr.isatty() else None
