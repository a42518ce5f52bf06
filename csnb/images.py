"""Pictures in files, as a data set's images: read, decoded and forgotten batch by batch."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader

from csnb.errors import InputError, one_line

WORKERS = 4  # processes that decode, where there are so many cores
ALONE = 64  # so few pictures are read without them
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of 16 bits a pixel
BATCH = 256  # images at once where nothing is trained; attacks' random starts depend on it
# of a batch, large images come in smaller ones: more leave a processor's caches, at half the speed
PIXELS = defaultdict(lambda: 2**22, cpu=BATCH * 3 * 32 * 32)
GREY = ("1", "L", "LA", *DEEP)


class Images:
    """N pictures in files, to be used as a tensor of pixels (N, C, H, W), float32 in [0, 1].

    Indexing gives others of them and reads nothing; `batches` reads. ``files``: their paths, as
    bytes (a list of strings would be copied into every process that decodes). ``shape``: (C, H, W)
    that each is decoded to.
    """

    dtype, ndim = torch.float32, 4

    def __init__(
        self, files: np.ndarray, shape: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.files, self.device = files, torch.device(device)
        self.shape = torch.Size((len(files), *shape))

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"Images({len(self)} of {'x'.join(map(str, self.shape[1:]))}, in files)"

    def __getitem__(self, which: slice | Sequence[int] | np.ndarray | Tensor) -> Self:
        which = which.cpu().numpy() if isinstance(which, Tensor) else which
        return type(self)(self.files[which], tuple(self.shape[1:]), self.device)

    def numel(self) -> int:
        """How many numbers all pixels are."""
        return self.shape.numel()

    def to(self, device: torch.device | str) -> Self:
        """The same, read onto a device."""
        return type(self)(self.files, tuple(self.shape[1:]), device)

    def read(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pictures (B, C, H, W) of each part, indices (B,): in order, some ahead of use.

        Raises InputError for one that has changed since it was looked at.
        """
        parts = [part.cpu().numpy() for part in parts]
        few = sum(map(len, parts)) <= ALONE
        here = hasattr(os, "sched_getaffinity")  # Linux
        cores = len(os.sched_getaffinity(0)) if here else os.cpu_count() or 1
        loader = DataLoader(
            _Reader(self.files, tuple(self.shape[1:])),
            sampler=parts,
            batch_size=None,
            num_workers=0 if few else min(WORKERS, len(parts), cores),
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else it draws from the one that training draws from
        )
        for pixels in loader:
            if isinstance(pixels, InputError):
                raise pixels
            yield _scaled(torch.from_numpy(pixels).to(self.device))


class _Reader:
    """What a process that decodes knows.

    It sends numpy's arrays: torch's would go through /dev/shm, which a container makes small.
    """

    def __init__(self, files: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.files, self.shape = files, shape

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, part: np.ndarray) -> np.ndarray | InputError:
        try:
            found = [decode(Path(os.fsdecode(f)), self.shape) for f in self.files[part]]
        except InputError as error:  # whose message a DataLoader would bury in a traceback
            return error
        if any(pixels.dtype != np.uint8 for pixels in found):
            found = [p if p.dtype != np.uint8 else p / np.float32(255) for p in found]
        return np.ascontiguousarray(np.stack(found))  # sums in one order, wherever images lie


def batches(x: Tensor | Images, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """The images (B, C, H, W) of each part, indices (B,), whether they lie in memory or in files.

    Raises InputError.
    """
    if isinstance(x, Images):
        yield from x.read(list(parts))
    else:
        yield from (x[part] for part in parts)


def batch_of(x: Tensor | Images) -> int:
    """How many of the images (N, C, H, W) are attacked, or looked at, at once."""
    return max(1, min(BATCH, PIXELS[x.device.type] // max(1, x.shape[1:].numel())))


def in_turn(x: Tensor | Images, size: int) -> Iterator[Tensor]:
    """All images, ``size`` at a time."""
    return (
        x.read(torch.arange(len(x)).split(size)) if isinstance(x, Images) else iter(x.split(size))
    )


def at_once(x: Tensor | Images) -> Tensor:
    """All images, in memory."""
    return x if isinstance(x, Tensor) else next(x.read([torch.arange(len(x))]))


def decode(file: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture as pixels ``shape`` (C, H, W): uint8, or of 16 bits float32 in [0, 1].

    Turned as its EXIF says, transparent parts white, scaled to H by W where it is not so.
    Raises InputError.
    """
    channels, *sides = shape
    try:
        with Image.open(file) as opened:
            picture = _flat(ImageOps.exif_transpose(opened), channels)
    except Exception as error:  # Pillow raises anything from OSError to struct.error
        raise unreadable(file, error) from None
    if picture.size != (sides[1], sides[0]):
        picture = picture.resize((sides[1], sides[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        pixels = np.repeat(pixels[..., None].clip(0, 1), channels, 2)
    return pixels.reshape(*sides, channels).transpose(2, 0, 1)


def unreadable(file: Path, error: Exception) -> InputError:
    """The one line for a file that is no whole picture."""
    reason = one_line(error).replace(str(file), "it")
    return InputError(f"{file}: not a readable picture ({reason[:90]}); allowed: a whole one")


def _flat(picture: Image.Image, channels: int) -> Image.Image:
    """Without transparency or palette, of as many channels; of 16 bits: floats, 65535 being 1."""
    if picture.mode in DEEP:
        values = np.asarray(picture).astype(np.float32) / 65535
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("pixels of more than 16 bits")
        return Image.fromarray(values)
    if picture.mode == "F":
        raise ValueError("pixels that are floats, of any range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("L" if channels == 1 else "RGB")


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def _as_it_is(pixels: object) -> object:
    return pixels
