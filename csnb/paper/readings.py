"""What people wrote about results, shown only where it was written for what is shown."""

import re
from dataclasses import dataclass

from csnb.errors import InputError
from csnb.paths import RESULTS

READINGS = RESULTS.parent / "readings"
HEAD = re.compile(r"<!-- written for: (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """Markdown, which a notebook shows as such.

    ``fits``: whether it was written for what is shown (see `reading`).
    """

    markdown: str
    fits: bool = True

    def __repr__(self) -> str:
        return self.markdown

    def _repr_markdown_(self) -> str:
        return self.markdown


def reading(name: str, **given: object) -> Text:
    """The text ``results/readings/<name>.md``, if it was written for what is ``given``.

    It says so in front: ``<!-- written for: dataset = mnist; runs = 11 of 32 -->``. Where anything
    given is another, a line says that instead. Raises InputError where there is no such text.
    """
    file = READINGS / f"{name}.md"
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"reading: {file} cannot be read ({error.strerror})") from None
    head = HEAD.match(text)
    if head is None:
        raise InputError(f"reading: {file} does not say for what; allowed: {HEAD.pattern} in front")
    pairs = (part.partition("=") for part in head[1].split(";"))
    written = {key.strip(): value.strip() for key, _, value in pairs}
    other = {key: str(value) for key, value in given.items() if written.get(key) != str(value)}
    if not other:
        return Text(text[head.end() :].strip())
    then, now = (
        ", ".join(f"{key} = {values.get(key) or 'none'}" for key in other)
        for values in (written, other)
    )
    words = f"*No reading: the one at hand was written for {then}; here it is {now}.*"
    return Text(words, fits=False)
