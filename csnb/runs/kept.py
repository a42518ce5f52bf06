"""Worst margins of a run's test images, attacked or certified, kept beside its predictions.

They are no part of what the run is: they come from its weights, whenever somebody asks. The file's
name says whose they are and, by a digest, what they were made with; it ends in a digest of itself.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from csnb.paths import read_file, write_atomically
from csnb.runs.identity import NUMERICS
from csnb.runs.result import weights_digest

DIGEST = hashlib.sha256().digest_size  # bytes after the array, which numpy does not look at


def margins_file(folder: Path, weights: str, protected: Sequence[int], attack: str) -> Path:
    """Where the margins lie.

    ``weights``: digest of model.safetensors. ``attack``: its spec, whole, or "certified".
    """
    key = _key([attack, list(protected), weights, NUMERICS])
    return folder / f"margins-p{'+'.join(map(str, protected))}-{key}.npy"


def kept_margins(
    folder: Path, result: Mapping[str, Any], protected: Sequence[int], attack: str
) -> tuple[Path, np.ndarray, np.ndarray | None]:
    """Where a run's margins lie, which images are ``protected``, (N,) bool, and what is kept."""
    with np.load(folder / "predictions.npz") as arrays:
        own = np.isin(arrays["labels"], protected)
    file = margins_file(folder, weights_digest(result), protected, attack)
    return file, own, read_kept(file, own.shape)


def safe_file(folder: Path, weights: str) -> Path:
    """Where it lies which classes no attack can make of each image. ``weights``: as above."""
    return folder / f"safe-{_key([weights, NUMERICS])}.npy"


def _key(content: list[object]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:10]


def read_kept(
    file: Path, shape: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> np.ndarray | None:
    """The array of this shape and ``dtype`` in ``file``, if it holds it and no -inf."""
    try:
        content = read_file(file)
        packed, digest = content[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(packed).digest() != digest:
            return None
        array = np.load(io.BytesIO(packed), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fit = array.shape == shape and array.dtype == dtype
    return array if fit and (array > -np.inf).all() else None


def keep(file: Path, array: np.ndarray) -> None:
    """Keep an array, where that can be written."""
    packed = io.BytesIO()
    np.save(packed, array)
    with suppress(OSError):  # somebody else's folder is read all the same
        content = packed.getvalue()
        write_atomically(file, content + hashlib.sha256(content).digest())
