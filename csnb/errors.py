"""The one exception that csnb raises for bad input."""


class InputError(ValueError):
    """Bad input. The message is one line: the thing, its value, what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """In a notebook, show the line and not the stack (IPython's hook)."""
        return [f"InputError: {self}"]


def one_line(error: BaseException) -> str:
    """What a library's error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
