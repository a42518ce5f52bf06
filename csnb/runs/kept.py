"""Worst margins of a run's test images, kept in its folder beside the predictions.

They are no part of what the run is: they come from its weights, whenever somebody asks. The file's
name says whose they are and, by a digest, what they were made with.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from csnb.paths import read_file, write_atomically
from csnb.runs.identity import NUMERICS


def margins_file(folder: Path, weights: str, protected: Sequence[int], attack: str) -> Path:
    """Where the margins lie.

    ``weights``: digest of model.safetensors. ``attack``: its spec, whole.
    """
    content = [attack, list(protected), weights, NUMERICS]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]
    return folder / f"margins-p{'+'.join(map(str, protected))}-{key}.npy"


def read_kept(file: Path, images: int) -> np.ndarray | None:
    """The margins (N,) in ``file``, if it holds them."""
    try:
        margins = np.load(io.BytesIO(read_file(file)), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fit = margins.shape == (images,) and margins.dtype == np.float32
    return margins if fit and np.isfinite(margins).all() else None


def keep(file: Path, margins: np.ndarray) -> None:
    """Keep margins (N,), where that can be written."""
    packed = io.BytesIO()
    np.save(packed, margins.astype(np.float32))
    with suppress(OSError):  # somebody else's folder is read all the same
        write_atomically(file, packed.getvalue())
