"""Where data sets come from: csnb's own by name, an ``.npz``, a folder, a function in a file."""

import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from csnb.data.dataset import ARRAYS, Dataset, check_arrays, described
from csnb.data.folders import folder_dataset, listing
from csnb.errors import InputError, choices, one_line, shown
from csnb.paths import expand, resolve
from csnb.spec import DATASETS, MOST_CLASSES, Count, Spec, dataset

# Table I: mean and standard deviation per channel, as printed.
TABLE1: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}
FOLDERS = {  # where torchvision puts them
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}
KNOWN = json.loads(Path(__file__).with_name("known.json").read_text(encoding="utf-8"))
TEN = tuple("0123456789")


@dataset(source="scikit-learn")
def digits(root: Path) -> Dataset:
    """Handwritten digits enlarged to 28x28, 2/3 for training; embedded in scikit-learn."""
    import torch
    from sklearn.datasets import load_digits  # here: it takes most of a second to import
    from sklearn.model_selection import train_test_split
    from torch.nn.functional import interpolate

    raw = load_digits()
    small = torch.from_numpy(raw.images / 16.0).float().unsqueeze(1)  # (1797, 1, 8, 8)
    x = interpolate(small, size=(28, 28), mode="bilinear", align_corners=False).numpy()
    train, test = train_test_split(
        np.arange(len(x)), test_size=1 / 3, random_state=0, stratify=raw.target
    )
    y = raw.target
    arrays = dict(zip(ARRAYS, (x[train], y[train], x[test], y[test]), strict=True))
    return replace(Dataset.from_arrays("digits", arrays, TEN), known=KNOWN["digits"]["digests"])


@dataset(source="LeCun et al. 1998")
def mnist(root: Path) -> Dataset:
    """60,000 + 10,000 handwritten digits, 28x28 grey."""
    return _from_torchvision("mnist", "MNIST", root, TEN)


@dataset(source="Xiao et al. 2017")
def fashion_mnist(root: Path) -> Dataset:
    """60,000 + 10,000 pieces of clothing, 28x28 grey."""
    return _from_torchvision("fashion_mnist", "FashionMNIST", root)


@dataset(source="Krizhevsky 2009")
def cifar10(root: Path) -> Dataset:
    """50,000 + 10,000 photographs of ten things, 32x32 colour."""
    return _from_torchvision("cifar10", "CIFAR10", root)


@dataset(source="Krizhevsky 2009")
def cifar100(root: Path) -> Dataset:
    """50,000 + 10,000 photographs of a hundred things, 32x32 colour."""
    return _from_torchvision("cifar100", "CIFAR100", root)


@dataset(source="Megahed et al. 2025; conformal-clip-data, MIT licence")
def textile(
    root: Path,
    *,
    size: Annotated[Count, Field(ge=12, le=250, description="pixels a side, of 250")] = 250,
) -> Dataset:
    """2,000 simulated textiles: nominal, with a global or with a local defect."""
    try:
        import conformal_clip_data
    except ImportError:
        raise InputError(
            "dataset: textile needs conformal-clip-data; "
            "allowed: after pip install 'csnb[pictures]'"
        ) from None
    made = folder_dataset(conformal_clip_data.textile_simulated_root(), size)
    return replace(made, name="textile")


def load_dataset(name: str | Path, root: str | Path | None = None, image_size: int = 0) -> Dataset:
    """Load a data set by name, or anyone's. Raises InputError.

    ``name``: one of `DATASETS` (a copy under ``root`` is used, else torchvision downloads one), the
    path of an ``.npz`` or of a folder of pictures, the name of one in ``root``, or
    ``"file.py:function"``, decorated with ``csnb.dataset``, which takes the root and returns a
    `Dataset`. ``root``: folder; default ``$CSNB_DATA``, else ``data``.

    An ``.npz`` holds ``x_train, y_train, x_test, y_test`` and, optionally, the class names
    ``classes``. Images are uint8, or floating point in [0, 1]; shaped (N, H, W), (N, H, W, C) or
    (N, C, H, W) with C = 1 or 3.

    A folder of pictures holds a folder for each class, or ``train`` and ``test`` that do; else a
    fifth of each class, drawn by content, is for testing. ``image_size``: pixels a side that
    pictures are scaled to; 0: as they are. All grey, they have one channel, else three; turned as
    EXIF says, transparent parts white. What is not read whole is refused by its name.
    """
    name = str(name) if isinstance(name, Path) else name
    file = data_path(name, root)
    source = find_source(name, root) if file is None else None
    _check_size(name, file, image_size)
    if source is None:
        if file.is_dir():
            return folder_dataset(file, image_size)
        return _from_npz(file, Path(name).stem)
    made = source(data_folder(root))
    if not isinstance(made, Dataset):
        raise InputError(f"dataset: {name} gives a {type(made).__name__}; allowed: csnb.Dataset")
    return made


def data_folder(root: str | Path | None = None) -> Path:
    """The folder of the data sets: ``root``, else ``$CSNB_DATA``, else ``data``."""
    return resolve(root or os.environ.get("CSNB_DATA") or "data", "data_root")


def data_path(name: str, root: str | Path | None = None) -> Path | None:
    """The ``.npz`` or the folder that ``name`` means: a path, or a name in ``root``; None where it
    means none.
    """
    if not isinstance(name, str):
        raise InputError(f"dataset: {shown(name)} is not allowed; allowed: a name or a path")
    if name.endswith(".npz"):
        path = expand(name, "dataset")
        if not path.is_file():
            raise InputError(f"dataset: no file {path}; allowed: the path of an .npz")
        return path.absolute()
    if ":" not in name and name != "digits":
        own = expand(data_folder(root) / f"{name}.npz", "dataset")
        if own.is_file():
            return own
    if name.partition("(")[0].strip() in DATASETS or ".py:" in name or not name.strip():
        return None
    places = (expand(name, "dataset"), expand(data_folder(root) / name, "dataset"))
    return next((place.absolute() for place in places if place.is_dir()), None)


def _check_size(name: str, file: Path | None, image_size: int) -> None:
    """Raises InputError where pictures of one size are to be scaled."""
    if image_size and (file is None or not file.is_dir()):
        raise InputError(
            f"image_size: {image_size} with dataset {name}; allowed: 0, or a folder of pictures"
        )


def find_source(name: str, root: str | Path | None = None) -> Spec:
    """The function that makes the data set ``name``. Raises InputError."""
    if ":" not in name and name.partition("(")[0].strip() not in DATASETS:
        raise InputError(
            f"dataset: {name!r} is unknown and {data_folder(root) / name}.npz does not exist; "
            f"{choices(name, DATASETS, 'an .npz, a folder, or file.py:function')}"
        )
    return DATASETS.parse(name)


@dataclass(frozen=True)
class Description:
    """What can be said of a data set without its images: class names, `Dataset.digests`, and
    `Dataset.counts`, where its images have been seen.
    """

    classes: tuple[str, ...]
    digests: dict[str, str]
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def describe(name: str, root: str | Path | None = None, image_size: int = 0) -> Description:
    """A data set's classes and digests.

    It is loaded once for each state of its files. Raises InputError.

    Of a data set of csnb's that is not at hand, or needs no files, what ``known.json`` says:
    nothing is downloaded.
    """
    root = data_folder(root)
    file = data_path(name, root)
    source = find_source(name, root) if file is None else None
    _check_size(name, file, image_size)
    if file is not None and file.is_dir():
        found = listing(file, image_size)
        return Description(found.classes, found.digests, found.counts())
    if file is not None:
        return _loaded(name, str(root), _state([file]))
    folder = root / FOLDERS.get(name, "no files")
    if name in KNOWN and not folder.is_dir():
        return Description(tuple(KNOWN[name]["classes"]), KNOWN[name]["digests"])
    files = list(folder.rglob("*")) if name in FOLDERS else []
    return _loaded(name, str(root), (source.entry.digest, *_state(files)))


def _state(files: Iterable[Path]) -> tuple[object, ...]:
    return tuple((str(f), s.st_size, s.st_mtime_ns) for f in sorted(files) for s in [f.stat()])


@lru_cache(maxsize=64)
def _loaded(name: str, root: str, state: object) -> Description:
    data = load_dataset(name, root)
    return Description(data.classes, data.digests(), data.counts())


def _from_torchvision(name: str, kind: str, folder: Path, classes: tuple[str, ...] = ()) -> Dataset:
    import torchvision  # here: csnb --help does without

    make = getattr(torchvision.datasets, kind)
    try:
        train, test = (_split(make, folder, FOLDERS[name], train) for train in (True, False))
    except Exception as error:  # torchvision raises anything from URLError to UnpicklingError
        raise InputError(
            f"dataset: {name} could not be read or downloaded in {folder} ({one_line(error)}); "
            "put a copy there or name its folder in CSNB_DATA"
        ) from None
    values = (train.data, train.targets, test.data, test.targets)
    arrays = {key: np.asarray(value) for key, value in zip(ARRAYS, values, strict=True)}
    names = classes or tuple(train.classes)
    return Dataset.from_arrays(name, arrays, names, normalisation=TABLE1.get(name))


def _split(make: Any, folder: Path, subfolder: str, train: bool) -> Any:
    """A copy that is there is used, packed or not; else one is downloaded.

    That happens aside, and nothing else is touched.
    """
    try:
        return make(folder, train=train, download=False)
    except RuntimeError as error:
        if "download=True" not in str(error):  # a copy is there, but broken
            raise
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as temporary:
                lacking, copies = _copy_there(make, folder, subfolder, Path(temporary))
                lacking(temporary, train=train, download=True)
                for copy in copies:
                    copy.unlink()
                shutil.copytree(Path(temporary, subfolder), folder / subfolder, dirs_exist_ok=True)
            return make(folder, train=train, download=False)
        except BaseException:
            for empty in made:  # what others put there meanwhile stays
                try:
                    empty.rmdir()
                except OSError:
                    break
            raise


def _copy_there(make: Any, folder: Path, subfolder: str, target: Path) -> tuple[Any, list[Path]]:
    """The source that asks for no more than is lacking, and copies of what is there.

    Of MNIST's four files some may be unpacked, and packed ones are whoever packed them: Debian's
    have other checksums than torchvision knows. Copies, since it writes over what it does not know.
    """
    if own := getattr(make, "filename", None):  # CIFAR's one archive lies beside its folder
        there = [folder / own]
    else:
        raw, aside = folder / subfolder / "raw", target / subfolder / "raw"
        names = {name: name.removesuffix(".gz") for name, _ in make.resources}
        there = [raw / file for file in names.values()]
        known = {name for name, file in names.items() if (raw / file).is_file()}
        packed = [name for name in names if name not in known and (raw / name).is_file()]
        known |= {name for name in packed if _unpack(raw / name, aside / names[name])}
        asked = [(name, md5) for name, md5 in make.resources if name not in known]
        make = type(make.__name__, (make,), {"resources": asked})  # raw lies under its name
    copies = {file: target / file.relative_to(folder) for file in there if file.is_file()}
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return make, list(copies.values())


def _unpack(packed: Path, file: Path) -> bool:
    """Whether it could be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with gzip.open(packed) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (OSError, EOFError, zlib.error):
        file.unlink()
        return False
    return True


def _from_npz(file: Path, name: str) -> Dataset:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        strange = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
        if strange:
            raise ValueError(f"{strange[0]} is not an array")
    except Exception as error:  # numpy, zipfile and zlib raise types of their own
        raise InputError(
            f"{file}: not a readable .npz ({one_line(error)}); needed: {', '.join(ARRAYS)}"
        ) from None
    check_arrays(arrays, file)
    normalisation = TABLE1.get(name)
    if normalisation and len(normalisation[0]) != (3 if arrays["x_train"].ndim == 4 else 1):
        normalisation = None  # a user's file that happens to bear a name of Table I
    classes = _classes(file, arrays)
    return Dataset.from_arrays(str(file), arrays, classes, normalisation=normalisation)


def _classes(file: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """The names in an ``.npz``, or the numbers of the labels."""
    top = int(arrays["y_train"].max())
    if "classes" not in arrays and top >= MOST_CLASSES:
        raise InputError(f"{file}: y_train holds label {top}; allowed: 0 to {MOST_CLASSES - 1}")
    names = arrays["classes"] if "classes" in arrays else np.arange(top + 1)
    if names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise InputError(
            f"{file}: classes is {described(names)}; needed: one distinct name per class"
        )
    return tuple(str(name) for name in names)
