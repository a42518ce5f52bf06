"""The one exception that csnb raises for bad input."""

import difflib
import reprlib
import textwrap
from collections.abc import Iterable

LONGEST = 299  # characters of a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class InputError(ValueError):
    """Bad input. The message is one line: the thing, its value, what is allowed.

    A long one loses its middle, so that both the thing and what is allowed remain; what does not
    print (line ends, a terminal's escape sequences) becomes blanks.
    """

    def __init__(self, message: str) -> None:
        text = printable(message)
        if len(text) > LONGEST:
            text = f"{text[:148]} ... {text[-146:]}"
        super().__init__(text)

    def _render_traceback_(self) -> list[str]:
        """In a notebook, show the line and not the stack (IPython's hook)."""
        return [f"InputError: {self}"]


def printable(text: str) -> str:
    """With blanks for what does not print: line ends, escape sequences of a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long: neither time nor memory grow with it."""
    try:
        return _SHORT.repr(value)
    except Exception:  # a repr of somebody's own; a number of more digits than Python writes
        return f"a {type(value).__name__}"


def one_line(error: BaseException) -> str:
    """What a library's error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def choices(value: str, allowed: Iterable[str], also: str = "") -> str:
    """What is allowed instead of a name: "allowed: a, b, c, or ``also``; did you mean b?"."""
    names = list(allowed)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(value.casefold(), folded, 1)
    listed = textwrap.shorten(", ".join(names), 150, placeholder=" ...", break_on_hyphens=False)
    nearest = f"; did you mean {folded[near[0]]}?" if near else ""
    return f"allowed: {listed or 'none'}{also and f', or {also}'}{nearest}"
