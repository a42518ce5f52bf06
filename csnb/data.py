"""Data sets in memory: pixels in [0, 1], NCHW float32, with class names and Table I's normalisation."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.nn.functional import interpolate

from csnb.errors import InputError, one_line

# Table I: mean and standard deviation per channel, as printed. Other data sets use those of their training pixels.
TABLE1: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # mean and deviation of each channel
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}
TORCHVISION = {
    "mnist": (torchvision.datasets.MNIST, "MNIST"),
    "fashion_mnist": (torchvision.datasets.FashionMNIST, "FashionMNIST"),
    "cifar10": (torchvision.datasets.CIFAR10, "cifar-10-batches-py"),
    "cifar100": (torchvision.datasets.CIFAR100, "cifar-100-python"),
}
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one data set, in memory.

    ``x_train`` and ``x_test``: float32, (N, C, H, W), pixels in [0, 1].
    ``y_train`` and ``y_test``: int64, (N,), in 0..m-1 for the m names in ``classes``.
    ``mean`` and ``std``: per channel, of the normalisation that the model's first layer applies (Table I).
    """

    name: str
    classes: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.x_train.shape[1:])

    def class_index(self, label: int | str) -> int:
        """The index of a class given by index or by name; raises InputError for any other."""
        if isinstance(label, str) and label in self.classes:
            return self.classes.index(label)
        text = str(label)
        if text.isdecimal() and int(text) < len(self.classes):
            return int(text)
        known = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        raise InputError(
            f"protected_class: {label!r} is not a class of {self.name}; allowed: 0 to {len(self.classes) - 1} or {known}"
        )


def load_dataset(name: str, root: str | Path | None = None) -> Dataset:
    """Load a data set by name, or anyone's from an ``.npz`` file.

    ``name``: ``digits`` (embedded in scikit-learn, enlarged to 28x28, fixed stratified split: 2/3 training), ``mnist``,
    ``fashion_mnist``, ``cifar10``, ``cifar100`` (a copy under ``root`` is used, else torchvision downloads one), the
    path of an ``.npz``, or the name of one in ``root``. ``root``: folder; default ``$CSNB_DATA``, else ``data``.

    An ``.npz`` holds ``x_train, y_train, x_test, y_test`` and, optionally, the class names ``classes``. Images are
    uint8, or floating point in [0, 1]; shaped (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3.
    """
    folder = Path(root or os.environ.get("CSNB_DATA") or "data").expanduser()
    file = Path(name).expanduser() if name.endswith(".npz") else folder / f"{name}.npz"
    if name == "digits":
        return _digits()
    if file.is_file():
        return _from_npz(file)
    if name in TORCHVISION:
        return _from_torchvision(name, folder)
    if name.endswith(".npz"):
        raise InputError(f"dataset: no file {file}")
    raise InputError(
        f"dataset: {name!r} is unknown and {file} does not exist; allowed: digits, {', '.join(TORCHVISION)}, an .npz"
    )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # here, since it takes most of a second to import
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = torch.from_numpy(digits.images / 16.0).float().unsqueeze(1)  # (1797, 1, 8, 8)
    images = interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    train, test = train_test_split(np.arange(len(images)), test_size=1 / 3, random_state=0, stratify=digits.target)
    labels = torch.from_numpy(digits.target).long()
    return _dataset("digits", tuple("0123456789"), images[train], labels[train], images[test], labels[test])


def _from_torchvision(name: str, folder: Path) -> Dataset:
    kind, subfolder = TORCHVISION[name]
    try:
        train, test = (_torchvision_split(kind, folder, subfolder, train) for train in (True, False))
    except Exception as error:  # torchvision raises anything from URLError to UnpicklingError
        raise InputError(
            f"dataset: {name} could not be read or downloaded in {folder} ({one_line(error)}); "
            "put a copy there or name its folder in CSNB_DATA"
        ) from None
    arrays = {"x_train": train.data, "y_train": train.targets, "x_test": test.data, "y_test": test.targets}
    names = tuple("0123456789") if name == "mnist" else tuple(train.classes)
    return _from_arrays(name, {key: np.asarray(value) for key, value in arrays.items()}, names)


def _torchvision_split(kind: type, folder: Path, subfolder: str, train: bool) -> torchvision.datasets.VisionDataset:
    """A copy that is there is used; else one is downloaded, and a failed download leaves no folder behind."""
    try:
        return kind(folder, train=train, download=False)
    except RuntimeError as error:
        if "download=True" not in str(error):  # a copy is there, but broken
            raise
        made = next((p for p in (*reversed(folder.parents), folder) if not p.exists()), None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as temporary:
                kind(temporary, train=train, download=True)
                shutil.copytree(Path(temporary, subfolder), folder / subfolder, dirs_exist_ok=True)
            return kind(folder, train=train, download=False)
        except BaseException:
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            raise


def _from_npz(file: Path) -> Dataset:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:  # numpy leaves a bad file open
            arrays = {key: archive[key] for key in archive.files}
        strange = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
        if strange:
            raise ValueError(f"{strange[0]} is not an array")
    except Exception as error:  # numpy, zipfile and zlib raise types of their own
        raise InputError(f"{file}: not a readable .npz ({one_line(error)})") from None
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise InputError(f"{file}: no {', '.join(missing)}; needed: {', '.join(NPZ_KEYS)}")
    for key in ("y_train", "y_test"):
        if arrays[key].ndim != 1 or arrays[key].dtype.kind not in "iu" or not len(arrays[key]):
            raise InputError(f"{file}: {key} is {_described(arrays[key])}; needed: integers shaped (N,), N > 0")
    top = int(arrays["y_train"].max())
    if "classes" not in arrays and top >= 2**16:
        raise InputError(f"{file}: y_train holds label {top}; allowed: 0 to 65535")
    names = arrays["classes"] if "classes" in arrays else np.arange(top + 1)
    if names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise InputError(f"{file}: classes is {_described(names)}; needed: one distinct name per class")
    return _from_arrays(str(file), arrays, tuple(str(name) for name in names))


def _from_arrays(name: str, arrays: dict[str, np.ndarray], classes: tuple[str, ...]) -> Dataset:
    tensors = {}
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        tensors[f"x_{split}"] = images = _images_nchw(x, f"{name}: x_{split}")
        if len(images) != len(y):
            raise InputError(f"{name}: x_{split} holds {len(images)} images but y_{split} {len(y)} labels")
        if y.min() < 0 or y.max() >= len(classes):
            raise InputError(
                f"{name}: y_{split} holds labels {y.min()} to {y.max()}; allowed: 0 to {len(classes) - 1}, one per class"
            )
        tensors[f"y_{split}"] = torch.from_numpy(y.astype(np.int64))
    if tensors["x_train"].shape[1:] != tensors["x_test"].shape[1:]:
        shapes = [tuple(tensors[f"x_{split}"].shape[1:]) for split in ("train", "test")]
        raise InputError(f"{name}: x_train's images are {shapes[0]} but x_test's {shapes[1]} (C, H, W)")
    return _dataset(Path(name).stem, classes, **tensors)


def _images_nchw(x: np.ndarray, where: str) -> Tensor:
    """(N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1] -> float32 (N, C, H, W) in [0, 1]."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.size:
        raise InputError(f"{where} is {_described(x)}; needed: (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1 or 3")
    if x.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(x)).float().div_(255)
    if x.dtype.kind != "f":
        raise InputError(f"{where} is {_described(x)}; needed: uint8, or floats in [0, 1]")
    if not np.isfinite(x).all():
        raise InputError(f"{where} holds {np.count_nonzero(~np.isfinite(x))} pixels that are not finite; allowed: [0, 1]")
    if x.min() < 0 or x.max() > 1:
        raise InputError(f"{where} holds pixels from {x.min():g} to {x.max():g}; allowed: [0, 1], or uint8")
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def _dataset(name: str, classes: tuple[str, ...], x_train: Tensor, y_train: Tensor, x_test: Tensor, y_test: Tensor) -> Dataset:
    measured = tuple(tuple(round(v, 4) for v in f(x_train, (0, 2, 3)).tolist()) for f in (torch.mean, torch.std))
    mean, std = TABLE1.get(name, measured)
    if len(mean) != x_train.shape[1]:  # a user's file that happens to bear a name of Table I
        mean, std = measured
    if min(std) <= 0:
        raise InputError(f"{name}: a channel of x_train has one value only; allowed: images that differ")
    return Dataset(name, classes, x_train, y_train, x_test, y_test, mean, std)


def _described(x: np.ndarray) -> str:
    return f"{x.dtype} shaped {tuple(x.shape)}"
