"""Params files: flat YAML, a recipe each."""

import re
from pathlib import Path
from typing import Any

import yaml

from csnb.errors import InputError, choices, one_line, shown
from csnb.paths import PARAMS, expand, read_file


class _Loader(yaml.SafeLoader):
    """Refuses what YAML takes without a word: a key twice, and 010, which is 8 and looks like 10.

    So too 1:30, which is 90.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it stands there, before anchors are merged into it."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    self._refuse(f"{key.value!r} stands twice", key)
                seen.add((key.tag, key.value))
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number that is what it looks like."""
        if re.fullmatch(r"[-+]?0[0-9_]+|.*:.*", node.value):
            self._refuse(f"{node.value} is a number in base 8 or 60", node)
        kind = node.tag.rpartition(":")[2]
        return getattr(self, f"construct_yaml_{kind}")(node)

    def _refuse(self, reason: str, node: yaml.Node) -> None:
        line = node.start_mark.line + 1
        raise yaml.YAMLError(f"line {line}: {reason}")


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds names with values. Raises InputError."""
    try:
        content = yaml.load(read_file(file).decode("utf-8"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{file}: cannot be read ({one_line(error)}); allowed: a YAML file"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds {type(content).__name__}; allowed: names with values")
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        raise InputError(f"{file}: {shown(strange[0])} is no name; allowed: names with values")
    return content


def find(name: str | Path, folder: Path = PARAMS) -> Path:
    """A YAML file by its path, or one of csnb's own in ``folder`` by its name.

    It may not be there. Raises InputError for what can be no path.
    """
    path = expand(name, "file")
    own = folder / f"{name}.yaml"
    return own if own.is_file() and not path.is_file() else path


def read_params(name: str | Path) -> dict[str, Any]:
    """The parameters of a file by its path, or of csnb's own by name, as ``mnist``.

    Raises InputError.
    """
    file = find(name)
    if not file.is_file():
        known = sorted(file.stem for file in PARAMS.glob("*.yaml"))
        raise InputError(f"params: no file {str(name)!r}; {choices(str(name), known, 'a path')}")
    return read_yaml(file)
