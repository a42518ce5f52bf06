"""What people see while work goes on: one line that changes in a notebook's cell, and a bar over many runs."""

import shutil
import sys
import threading
import uuid
from collections.abc import Callable
from typing import Self


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


class Board:
    """A bar over many runs under the lines that they leave: on a terminal and in a notebook; elsewhere only the lines.

    ``live`` says what is going on now; a terminal's bar asks it every second.
    """

    def __init__(self, total: int, live: Callable[[], str]) -> None:
        self.total, self.ended, self.live = total, 0, live
        self.terminal = sys.stdout.isatty()
        self.notebook = LiveLine()
        self.lock, self.closed = threading.Lock(), threading.Event()

    def __enter__(self) -> Self:
        if self.terminal:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.closed.set()
            self._clear()

    def line(self, text: str) -> None:
        """Leave a line for a run that has ended."""
        with self.lock:
            self.ended += 1
            self._clear()
            print(text, flush=True)
            self._draw()

    def _tick(self) -> None:
        while not self.closed.wait(1):
            with self.lock:
                if not self.closed.is_set():
                    self._draw()

    def _bar(self) -> str:
        full = 20 * self.ended // max(1, self.total)
        return f"[{'#' * full}{'.' * (20 - full)}] {self.ended} of {self.total}"

    def _draw(self) -> None:
        if self.terminal:
            text = f"{self._bar()}  {self.live()}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{text}", end="", flush=True)
        self.notebook.show(self._bar())

    def _clear(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
