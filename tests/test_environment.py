"""environment.yml says what pyproject.toml says, and the package exports what it lists."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import csnb

ROOT = Path(__file__).resolve().parents[1]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}
PIP_ONLY = {"advertorch", "pyautoattack"}  # not on conda-forge
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def split(requirement: str) -> tuple[str, str]:
    name, ranges = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(.*)", requirement).groups()
    return name, ranges


def test_environment_has_the_packages_and_ranges_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = dict(map(split, PROJECT["dependencies"] + extras["notebooks"] + extras["dev"]))
    wanted |= {"python": PROJECT["requires-python"], "pip": ""}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = dict(split(entry) for entry in listed if isinstance(entry, str))
    (pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    assert conda == {
        CONDA.get(name, name): ranges for name, ranges in wanted.items() if name not in PIP_ONLY
    }
    assert dict(map(split, pip[:-1])) == {name: wanted[name] for name in PIP_ONLY}
    assert pip[-1] == "--editable ."


def test_the_version_is_that_of_the_project() -> None:
    assert csnb.__version__ == PROJECT["version"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(
    given: dict[str, str], expected: str
) -> None:
    others = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import csnb, os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], env=others | given, capture_output=True, text=True
    ).stdout
    assert said.split() == [expected, "False"], "before torch starts its threads"
