"""The training images of a data set alone: what settings are chosen on before its test images."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

import csnb


@csnb.dataset(source="csnb")
def held_out(
    root: Path,
    *,
    of: Annotated[str, Field(description="of csnb list datasets")],
    share: Annotated[float, Field(gt=0, lt=1, description="of each class, to test on")] = 0.1,
) -> csnb.Dataset:
    """A share of its training images in place of its test images; the others to train on."""
    data = csnb.load_dataset(of, root)
    held = torch.from_numpy(data.held_out(share, seed=0))
    return replace(
        data,
        name=f"{data.name}, held out",
        x_train=data.x_train[~held],
        y_train=data.y_train[~held],
        x_test=data.x_train[held],
        y_test=data.y_train[held],
        known=None,
    )
