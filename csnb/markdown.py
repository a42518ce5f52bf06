"""Tables and differences in Markdown."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def signed_ends(value: float, low: float, high: float) -> str:
    """A difference and its interval, with a sign each."""
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
