"""A data set, and arrays of many shapes turned into one."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from csnb.errors import InputError, choices, one_line, shown
from csnb.images import Images
from csnb.spec import check_names

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images and labels of one data set.

    ``x_train`` and ``x_test``: float32, (N, C, H, W), pixels in [0, 1]; `Images` where memory has
    no room for them (`csnb.data.batches` reads either).
    ``y_train`` and ``y_test``: int64, (N,), in 0..m-1 for the m names in ``classes``.
    ``mean`` and ``std``: per channel, of the normalisation that the model's first layer applies.
    ``known``: `digests` of pixels that are computed or decoded, and may differ by a rounding
    between machines.
    """

    name: str
    classes: tuple[str, ...]
    x_train: Tensor | Images
    y_train: Tensor
    x_test: Tensor | Images
    y_test: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    known: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name}: {len(self.x_train)} training and {len(self.x_test)} test images "
            f"of {'x'.join(map(str, self.image_shape))}, {len(self.classes)} classes)"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.x_train.shape[1:])

    def class_index(self, label: int | str) -> int:
        """See `class_index`."""
        return class_index(label, self.classes, self.name)

    def digests(self) -> dict[str, str]:
        """What training sees (images, labels, normalisation) and what testing does, as 16 hex
        digits each.
        """
        if self.known is not None:
            return dict(self.known)
        return {
            "train": _digest(repr((self.mean, self.std)).encode(), self.x_train, self.y_train),
            "test": _digest(b"", self.x_test, self.y_test),
        }

    def counts(self) -> dict[str, tuple[int, ...]]:
        """How many images each class has, by split: "train" and "test"."""
        m, splits = len(self.classes), {"train": self.y_train, "test": self.y_test}
        return {name: tuple(torch.bincount(y, minlength=m).tolist()) for name, y in splits.items()}

    def held_out(self, share: float, seed: int) -> np.ndarray:
        """Which training images are held out, (N,) bool: ``share`` of each class, by chance.

        Raises InputError where a class has too few for both parts.
        """
        from sklearn.model_selection import train_test_split  # here: it takes a second to import

        every, labels = np.arange(len(self.y_train)), self.y_train.numpy()
        try:
            split = {"test_size": share, "stratify": labels, "random_state": seed % 2**32}
            kept, held = train_test_split(every, **split)
            if len({*labels[kept]} & {*labels[held]}) < len(self.classes):
                raise ValueError("a class would be in one part only")
        except ValueError as error:
            raise InputError(
                f"validation: {share:g} of {self.name}'s training images cannot be held out "
                f"({one_line(error)}); allowed: a share that takes and leaves some of each class"
            ) from None
        return np.isin(every, held)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        arrays: Mapping[str, np.ndarray],
        classes: Sequence[str],
        *,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> Self:
        """From ``x_train, y_train, x_test, y_test``.

        Pixels uint8, or floats in [0, 1]; labels 0..m-1.

        Images are shaped (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3. ``normalisation``:
        mean and deviation of each channel; default: those of the training pixels, to 4 digits.
        Raises InputError.
        """
        if not isinstance(name, str | Path):
            raise InputError(f"name: {shown(name)} is not allowed; allowed: text")
        check_arrays(arrays, name)
        classes, tensors = check_names(classes, f"{name}: classes"), {}
        for split in ("train", "test"):
            x, y = (np.asarray(arrays[f"{kind}_{split}"]) for kind in "xy")
            tensors[f"x_{split}"] = images = images_nchw(x, f"{name}: x_{split}")
            if len(images) != len(y):
                raise InputError(
                    f"{name}: x_{split} holds {len(images)} images but y_{split} {len(y)} labels; "
                    "allowed: one each"
                )
            if y.min() < 0 or y.max() >= len(classes):
                raise InputError(
                    f"{name}: y_{split} holds labels {y.min()} to {y.max()}; "
                    f"allowed: 0 to {len(classes) - 1}, one per class"
                )
            tensors[f"y_{split}"] = torch.from_numpy(y.astype(np.int64))
        shapes = [tuple(tensors[f"x_{split}"].shape[1:]) for split in ("train", "test")]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{name}: x_train's images are {shapes[0]} but x_test's {shapes[1]} (C, H, W); "
                "allowed: one shape"
            )
        if normalisation is not None:
            _check_units(normalisation, shapes[0][0], name)
        measured = normalisation is None
        mean, std = _measured(tensors["x_train"]) if measured else normalisation
        if min(std) <= 0:
            raise InputError(
                f"{name}: a channel of x_train has one value only; allowed: images that differ"
            )
        return cls(Path(name).stem, classes, mean=tuple(mean), std=tuple(std), **tensors)


def check_arrays(arrays: Mapping[str, np.ndarray], name: str | Path) -> None:
    """Raises InputError unless all of `ARRAYS` are there, and the labels integers (N,), N > 0."""
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise InputError(f"{name}: no {', '.join(missing)}; needed: {', '.join(ARRAYS)}")
    for key in ("y_train", "y_test"):
        y = np.asarray(arrays[key])
        if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y):
            raise InputError(
                f"{name}: {key} is {described(y)}; needed: integers shaped (N,), N > 0"
            )


def _check_units(normalisation: object, channels: int, name: str | Path) -> None:
    """Raises InputError unless it is a mean and a deviation above 0 of each channel."""
    try:
        units = np.asarray(normalisation, dtype=float)
    except (TypeError, ValueError, OverflowError):
        units = np.zeros(0)
    if units.shape != (2, channels) or not np.isfinite(units).all() or units[1].min() <= 0:
        raise InputError(
            f"{name}: normalisation {shown(normalisation)} is not allowed; "
            f"allowed: a mean and a deviation above 0 for each of {channels} channels"
        )


def class_indices(
    label: int | str | Sequence[int | str], classes: Sequence[str], name: str
) -> tuple[int, ...]:
    """The indices, rising, of a class or of several: ``"3, 8"``, ``"cat, dog"`` or ``[3, 8]``.

    A number is an index; a text is a name first (see `class_index`). Raises InputError.
    """
    if isinstance(label, str) and label not in classes and "," in label:
        label = [part.strip() for part in label.split(",")]
    if isinstance(label, np.ndarray):
        label = label.tolist()
    parts = label if isinstance(label, list | tuple) and len(label) else [label]
    return tuple(sorted({class_index(part, classes, name) for part in parts}))


def class_index(label: int | str, classes: Sequence[str], name: str) -> int:
    """The index of a class given by name (a text that is one) or by index. Raises InputError."""
    if isinstance(label, str) and label in classes:
        return list(classes).index(label)
    text = shown(label) if not isinstance(label, str) else label
    if isinstance(label, Integral) and not isinstance(label, bool):
        text = str(int(label)) if abs(int(label)) < 2**63 else text
    if text.isdecimal() and len(text) < 20 and int(text) < len(classes):
        return int(text)
    names = choices(text, classes).removeprefix("allowed: ")
    raise InputError(
        f"protected_class: {shown(label)} is not a class of {name}; "
        f"allowed: 0 to {len(classes) - 1} or {names}"
    )


def check_counts(
    counts: Mapping[str, Sequence[int]],
    protected: Sequence[int],
    classes: Sequence[str],
    name: str,
) -> None:
    """Raises InputError where a class has no training images, or a protected one no test images.

    ``counts``: of `Dataset.counts`; empty where they are not known.
    """
    asked = {"train": range(len(classes)), "test": protected}
    for split, numbers in counts.items():
        empty = [p for p in asked[split] if not numbers[p]]
        if empty:
            what = {"train": "training", "test": "test"}[split]
            raise InputError(
                f"dataset: {name} has no {what} images of class {classes[empty[0]]!r}; "
                "allowed: training images of every class, test images of the protected ones"
            )


def images_nchw(x: np.ndarray, where: str) -> Tensor:
    """Images of any layout, uint8 or floats in [0, 1] -> float32 (N, C, H, W) in [0, 1].

    Layouts: (N, H, W), (N, H, W, C), (N, C, H, W). ``where``: what they are called in an error.
    """
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.size:
        raise InputError(
            f"{where} is {described(x)}; "
            "needed: (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3"
        )
    if x.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(x)).float().div_(255)
    if x.dtype.kind != "f":
        raise InputError(f"{where} is {described(x)}; needed: uint8, or floats in [0, 1]")
    if not np.isfinite(x).all():
        wrong = np.count_nonzero(~np.isfinite(x))
        raise InputError(f"{where} holds {wrong} pixels that are not finite; allowed: [0, 1]")
    if x.min() < 0 or x.max() > 1:
        raise InputError(
            f"{where} holds pixels from {x.min():g} to {x.max():g}; allowed: [0, 1], or uint8"
        )
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def described(x: np.ndarray) -> str:
    """Type and shape of an array."""
    return f"{x.dtype} shaped {tuple(x.shape)}"


def _measured(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (f(x, (0, 2, 3)).tolist() for f in (torch.mean, torch.std))
    return tuple(round(v, 4) for v in mean), tuple(round(v, 4) for v in std)


def _digest(start: bytes, *tensors: Tensor) -> str:
    digest = hashlib.sha256(start)
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()[:16]
