"""Params files: flat YAML, a recipe each."""

from pathlib import Path
from typing import Any

import yaml

from csnb.errors import InputError, choices, one_line
from csnb.paths import PARAMS


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds names with values. Raises InputError."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"{file}: cannot be read ({one_line(error)}); allowed: a YAML file"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds {type(content).__name__}; allowed: names with values")
    return content


def find(name: str | Path, folder: Path = PARAMS) -> Path:
    """A YAML file by its path, or one of csnb's own in ``folder`` by its name.

    It may not be there.
    """
    own = folder / f"{name}.yaml"
    return own if own.is_file() and not Path(name).is_file() else Path(name)


def read_params(name: str | Path) -> dict[str, Any]:
    """The parameters of a file by its path, or of csnb's own by name, as ``mnist``.

    Raises InputError.
    """
    file = find(name)
    if not file.is_file():
        known = sorted(file.stem for file in PARAMS.glob("*.yaml"))
        raise InputError(f"params: no file {str(name)!r}; {choices(str(name), known, 'a path')}")
    return read_yaml(file)
