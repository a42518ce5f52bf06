"""What result.json says, by type: what is signed well may still be no run."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from csnb.errors import InputError


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class Row(_Part):
    """One score (see `csnb.evaluation.score`)."""

    attack: str
    measure: str
    class_: str = Field(alias="class")
    correct: int | None
    total: int | None
    value: float | None
    low: float | None
    high: float | None


class Parameters(_Part):
    """Those that stand beside the scores; of the others, only that they are plain."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | float | bool | None]

    dataset: str
    model: str
    method: str
    protected_class: int | str | list[int | str]
    seed: int
    epochs: int


class Provenance(_Part):
    """What its readers take from it (see `csnb.runs.provenance`)."""

    commit: str
    machine: str


class Result(_Part):
    """A run's result.json."""

    parameters: Parameters
    given: list[str]
    classes: list[str]
    protected: list[NonNegativeInt] = Field(min_length=1)
    costs: list[list[float]]
    digests: dict[str, str]
    files: dict[str, str]
    numerics: int
    scores: list[Row] = Field(min_length=1)
    seconds: dict[str, float]
    provenance: Provenance
    sha256: dict[str, str]


def weights_digest(result: Mapping[str, Any]) -> str:
    """What names a run's weights: two runs with equal ones trained the same network."""
    return result["sha256"]["model.safetensors"]


def check_types(result: dict[str, Any]) -> None:
    """Raises InputError unless everything that readers take for granted is there."""
    try:
        made = Result.model_validate(result)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"result.json: {place}: {first['msg']}") from None
    m = len(made.classes)
    if max(made.protected) >= m or [len(row) for row in made.costs] != [m] * m:
        raise InputError("result.json: classes, protected and costs do not fit together")
