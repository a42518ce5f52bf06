"""Small pictures in folders, for the tests of what people have on their disks."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bottom", "middle", "top")


def stripe(label: int, seed: int, *, size: tuple[int, int] = (12, 12), channels: int = 3) -> Image:
    """Noise with a bright third: the first, second or last rows; ``size`` is width and height."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 90, (height, width, channels), dtype=np.uint8)
    pixels[label * height // 3 : (label + 1) * height // 3] += 120
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


def photos(root: Path, number: int = 10, **form: object) -> Path:
    """A folder of ``number`` pictures of each of three classes."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for k in range(number):
            stripe(label, 100 * label + k, **form).save(root / name / f"{k:03}.png")
    return root
