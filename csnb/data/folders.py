"""A folder of pictures, a folder for each class, as a data set."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csnb.data.dataset import Dataset
from csnb.errors import InputError, choices
from csnb.images import GREY, Images, batch_of, in_turn, unreadable
from csnb.spec import MOST_CLASSES

SPLITS = ("train", "test")
TEST_SHARE = 0.2  # of each class, where the folder does not say
SPLIT_SEED = b"0"
SHARE = 3  # images in memory may take one part of so many of what is free
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF
LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, without its pixels.

    ``files``, ``labels``: by split. ``shape``: (C, H, W) of every image. ``digests``: by split, of
    what training and testing see.
    """

    classes: tuple[str, ...]
    files: dict[str, tuple[Path, ...]]
    labels: dict[str, tuple[int, ...]]
    shape: tuple[int, int, int]
    digests: dict[str, str]

    def counts(self) -> dict[str, tuple[int, ...]]:
        """How many images each class has, by split."""
        m = len(self.classes)
        return {s: tuple(np.bincount(y, minlength=m).tolist()) for s, y in self.labels.items()}


@dataclass(frozen=True)
class _Look:
    """What a picture's file tells without its pixels."""

    digest: bytes
    grey: bool
    size: tuple[int, int]  # width and height, turned as EXIF says


def folder_dataset(folder: Path, image_size: int = 0) -> Dataset:
    """The pictures of a folder as a data set; see `csnb.load_dataset`. Raises InputError.

    Images that memory has no room for stay in their files, and are read when they are needed.
    """
    found = listing(folder, image_size)
    stores = {s: Images(np.array(list(map(os.fsencode, f))), found.shape)
              for s, f in found.files.items()}  # fmt: skip
    total = sum(4 * int(np.prod(store.shape)) for store in stores.values())
    held = total * SHARE <= room()
    x, sums = {}, {}
    for split, store in stores.items():
        x[split] = torch.empty(store.shape) if held else store
        sums[split] = _pass(store, x[split] if held else None)
    mean, std = _moments(*sums["train"], len(stores["train"]) * int(np.prod(found.shape[1:])))
    if min(std) <= 0:
        raise InputError(
            f"{folder.name}: a channel of the training pictures has one value only; "
            "allowed: pictures that differ"
        )
    y = {split: torch.tensor(labels) for split, labels in found.labels.items()}
    sets = (x["train"], y["train"], x["test"], y["test"])
    return Dataset(folder.name, found.classes, *sets, mean, std, known=found.digests)


def listing(folder: Path, image_size: int = 0) -> Listing:
    """What lies in ``folder``; looked at once for each state of its files. Raises InputError."""
    found = _find(folder)
    every = [file for split in found.values() for files in split.values() for file in files]
    key = (folder, image_size, tuple((file, *_stat(file)) for file in every))
    if key not in _SEEN:
        _SEEN.clear()
        _SEEN[key] = _looked_at(folder, found, every, image_size)
    return _SEEN[key]


_SEEN: dict[object, Listing] = {}  # the last one: a run asks twice


def _looked_at(
    folder: Path, found: Mapping[str, dict[str, list[Path]]], every: list[Path], image_size: int
) -> Listing:
    names = sorted({name for split in found.values() for name in split}, key=_order(found))
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        looks = dict(zip(every, pool.map(_look, every), strict=True))
    shape = _shape(looks, image_size)
    splits = found if "train" in found else _divided(found[""], looks)
    files, labels, digests = {}, {}, {}
    for split in SPLITS:
        pairs = [(f, i) for i, name in enumerate(names) for f in splits[split].get(name, ())]
        files[split], labels[split] = map(tuple, zip(*pairs, strict=True)) if pairs else ((), ())
        digest = hashlib.sha256(repr((shape, len(names))).encode())
        for file, label in pairs:
            digest.update(b"%d:%s" % (label, looks[file].digest))
        digests[split] = digest.hexdigest()[:16]
    _check_splits(folder, files, looks)
    return Listing(tuple(names), files, labels, shape, digests)


def _find(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """The pictures' files by split ("" where the folder has none) and class. Raises InputError."""
    inside = _folders(folder)
    if "train" not in inside and "test" not in inside:
        return {"": _classes(folder, inside)}
    if sorted(inside) != sorted(SPLITS):
        raise InputError(
            f"dataset: {folder} holds folders {', '.join(inside)[:80]}; "
            "allowed: train and test alone, or a folder for each class"
        )
    splits = {"train": _classes(folder / "train", _folders(folder / "train"))}
    splits["test"] = _classes(folder / "test", _folders(folder / "test"), least=0)
    strange = [name for name in splits["test"] if name not in splits["train"]]
    if strange:
        text = choices(strange[0], splits["train"])
        raise InputError(f"{folder}/test: class {strange[0]!r} is not in train; {text}")
    return splits


def _folders(folder: Path) -> list[str]:
    """The folders in ``folder``, by name; also those that are linked to. Raises InputError."""
    try:
        paths = [path for path in folder.iterdir() if not _litter(path.name)]
        inside = sorted(path.name for path in paths if path.is_dir())
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); allowed: a folder of pictures"
        ) from None
    here = folder.resolve()
    for name in inside:
        if (folder / name).resolve() in (here, *here.parents):
            raise InputError(f"{folder / name}: links to a folder that holds it; allowed: others")
        if not name.isprintable():
            raise InputError(f"{folder}: holds a folder {name!a}; allowed: names that print")
    return inside


def _classes(folder: Path, names: Sequence[str], least: int = 2) -> dict[str, list[Path]]:
    """The pictures of each class in ``folder``, of so many at least. Raises InputError."""
    if not least <= len(names) <= MOST_CLASSES:
        raise InputError(
            f"dataset: {folder} holds {len(names)} folders; allowed: a folder of pictures for each "
            f"class, 2 to {MOST_CLASSES}"
        )
    left: list[Path] = [p for p in folder.iterdir() if p.is_file() and not _litter(p.name)]
    found = {name: _pictures(folder / name, left) for name in names}
    empty = [name for name, files in found.items() if not files]
    if empty and least:
        raise InputError(f"{folder / empty[0]}: holds no picture; allowed: one or more")
    if left:
        warnings.warn(
            f"{folder}: {len(left)} files are left out, such as {left[0].name}: no pictures of a "
            "class, by place or ending",
            stacklevel=2,
        )
    return found


def _pictures(folder: Path, left: list[Path]) -> list[Path]:
    """The files below ``folder`` that are pictures by their ending; others go to ``left``.

    Folders that are linked to from inside are not entered.
    """
    known, found = Image.registered_extensions(), []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not _litter(name))
        for name in sorted(names):
            if not _litter(name):
                file = Path(place, name)
                if file.suffix.lower() in known:
                    found.append(file)
                elif file.is_file():
                    left.append(file)
    return found


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be read ({error.strerror}); allowed: a readable folder"
    )


def _litter(name: str) -> bool:
    """What systems leave in folders."""
    return name.startswith(".") or name.lower() in LITTER


def _stat(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise unreadable(file, error) from None
    return found.st_size, found.st_mtime_ns


def _look(file: Path) -> _Look:
    """Raises InputError for what is no picture, or one of too many pixels."""
    try:
        if not file.is_file():
            raise OSError("not a file")
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            size, grey = picture.size, picture.mode in GREY
            turned = picture.getexif().get(ORIENTATION) in SIDEWAYS
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = Image.MAX_IMAGE_PIXELS
        raise InputError(f"{file}: too many pixels; allowed: {most:,} in a picture") from None
    except Exception as error:  # Pillow raises anything from OSError to struct.error
        raise unreadable(file, error) from None
    return _Look(hashlib.sha256(content).digest(), grey, size[::-1] if turned else size)


def _shape(looks: Mapping[Path, _Look], image_size: int) -> tuple[int, int, int]:
    """(C, H, W) of every image: grey if all are. Raises InputError where sizes differ."""
    channels = 1 if all(look.grey for look in looks.values()) else 3
    if image_size:
        return channels, image_size, image_size
    first, size = next((file, look.size) for file, look in looks.items())
    for file, look in looks.items():
        if look.size != size:
            sizes = ["x".join(map(str, s)) for s in (look.size, size)]
            raise InputError(
                f"{file}: {sizes[0]} pixels, but {first.name} {sizes[1]}; "
                "allowed: one size, or an image_size that all are scaled to"
            )
    return channels, size[1], size[0]


def _divided(
    classes: Mapping[str, Sequence[Path]], looks: Mapping[Path, _Look]
) -> dict[str, dict[str, list[Path]]]:
    """A share of each class for testing, drawn by content: whatever the files' names and places.

    A file that is there twice is in one part only; a class of one picture is in training.
    """
    splits: dict[str, dict[str, list[Path]]] = {split: {} for split in SPLITS}
    for name, files in classes.items():
        contents = {looks[file].digest for file in files}
        drawn = sorted(contents, key=lambda digest: hashlib.sha256(SPLIT_SEED + digest).digest())
        number = min(max(1, round(TEST_SHARE * len(drawn))), len(drawn) - 1)
        held = set(drawn[:number])
        splits["test"][name] = [file for file in files if looks[file].digest in held]
        splits["train"][name] = [file for file in files if looks[file].digest not in held]
    return splits


def _check_splits(
    folder: Path, files: Mapping[str, Sequence[Path]], looks: Mapping[Path, _Look]
) -> None:
    """Raises InputError without test pictures; warns of those that training has, too."""
    if not files["test"]:
        raise InputError(
            f"{folder}: no picture is left to test on; allowed: two or more of a class"
        )
    trained = {looks[file].digest for file in files["train"]}
    twice = [file for file in files["test"] if looks[file].digest in trained]
    if twice:
        warnings.warn(
            f"{folder}: {len(twice)} test pictures are training pictures, too, such as "
            f"{twice[0].name}: scores say less",
            stacklevel=2,
        )


def _order(found: Mapping[str, Mapping[str, object]]) -> object:
    """Classes by name; by number where all names are numbers, so that index 10 is class "10"."""
    names = [name for split in found.values() for name in split]
    numbers = all(re.fullmatch("[0-9]{1,9}", name) for name in names)
    return (lambda name: (int(name), name)) if numbers else str


def _pass(store: Images, into: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Read all pictures, into memory where there is room; sums and sums of squares by channel."""
    sums, squares, at = np.zeros(store.shape[1]), np.zeros(store.shape[1]), 0
    for images in in_turn(store, batch_of(store)):
        if into is not None:
            into[at : at + len(images)] = images
        at += len(images)
        sums += images.sum((0, 2, 3), dtype=torch.float64).numpy()
        squares += images.square_().sum((0, 2, 3), dtype=torch.float64).numpy()
    return sums, squares


def _moments(
    sums: np.ndarray, squares: np.ndarray, n: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean = sums / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 0) * n / max(n - 1, 1))
    return tuple(np.round(mean, 4).tolist()), tuple(np.round(std, 4).tolist())


def room() -> int:
    """Bytes of memory that this process may still take: of the machine, its cgroup, its limit."""
    found = [_of_machine()]
    try:
        import resource  # here: Windows has none

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        if limit != resource.RLIM_INFINITY:
            found.append(limit - pages * resource.getpagesize())
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
        group = Path("/sys/fs/cgroup") / own.lstrip("/")
        most, used = (int((group / f"memory.{n}").read_text()) for n in ("max", "current"))
        found.append(most - used)
    except (ImportError, OSError, ValueError):  # no limit ("max"), no cgroup, or an old one
        pass
    return max(0, min(found))


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", lines)[1])
    except (OSError, TypeError):  # not Linux
        return 2**32
