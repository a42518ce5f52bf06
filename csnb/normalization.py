"""Statistics of a data set's pixels that Table I could have printed: means, and what goes by the name of deviation."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from csnb.data import TABLE1, Dataset
from csnb.runs import provenance

STATISTICS = {  # of one channel
    "mean": "mean of all pixels",
    "pixels": "deviation of all pixels",
    "within, n": "mean over images of each image's deviation, divided by its n pixels",
    "within, n - 1": "the same, divided by n - 1",
    "within, squares": "root of the mean over images of each image's variance",
    "between": "deviation of the images' means",
}


def image_moments(x: Tensor) -> np.ndarray:
    """Mean and mean square of each image's channels in double precision: pixels (N, C, H, W) -> (2, N, C)."""
    parts = [part.double().flatten(2) for part in x.split(1000)]
    return np.stack([torch.cat([(part**power).mean(2) for part in parts]).numpy() for power in (1, 2)])


def statistics(x: Tensor) -> pd.DataFrame:
    """Each of `STATISTICS` of images ``x`` (N, C, H, W), in [0, 1]: a row per statistic and channel, ``value`` and ``error``.

    ``error`` is the standard error of drawing N images (not pixels: those of an image go together), by the delta method.
    """
    mean, square = image_moments(x)  # (N, C) each
    n, pixels = len(x), x[0, 0].numel()
    within = np.sqrt(np.maximum(square - mean**2, 0))
    centre = mean.mean(0)
    spread = square - 2 * centre * mean + centre**2  # each image's mean square around the centre
    values = {  # what an image adds to the mean, and the power to which that is raised
        "mean": (mean, 1.0),
        "pixels": (spread, 0.5),
        "within, n": (within, 1.0),
        "within, n - 1": (within * np.sqrt(pixels / (pixels - 1)), 1.0),
        "within, squares": (within**2, 0.5),
        "between": ((mean - centre) ** 2, 0.5),
    }
    rows = []
    for name, (each, power) in values.items():
        value = each.mean(0) ** power
        slope = power * np.maximum(each.mean(0), np.finfo(float).tiny) ** (power - 1)
        error = slope * each.std(0) / np.sqrt(n)
        rows += [(name, channel, value[channel], error[channel]) for channel in range(x.shape[1])]
    return pd.DataFrame(rows, columns=["statistic", "channel", "value", "error"])


def measure(data: Dataset) -> pd.DataFrame:
    """`statistics` of the training, the test and all images of ``data``, with what Table I prints and where they come from.

    Columns: dataset, images, those of `statistics`, ``n`` images, ``published`` (nan where Table I has no such data set),
    ``match`` (gives the four digits printed: rounded, cut off or no), and csnb's version, commit and digest of sources.
    """
    splits = {"training": data.x_train, "test": data.x_test, "all": torch.cat([data.x_train, data.x_test])}
    frame = pd.concat([statistics(x).assign(images=name, n=len(x)) for name, x in splits.items()], ignore_index=True)
    means, deviations = TABLE1.get(data.name, ((np.nan,) * 3,) * 2)
    printed = [(means if s == "mean" else deviations)[c] for s, c in zip(frame["statistic"], frame["channel"], strict=True)]
    digits, printed_digits = frame["value"] * 1e4, np.round(np.array(printed) * 1e4)
    matches = [np.round(digits) == printed_digits, np.floor(digits) == printed_digits]
    source = provenance(data.x_train.device)
    frame = frame.assign(
        dataset=data.name,
        published=printed,
        match=np.select(matches, ["rounded", "cut off"], "no"),
        version=source["versions"]["csnb"],
        commit=source["commit"],
        sources=source["sources"],
    )
    first = ["dataset", "images", "statistic", "channel", "n", "value", "error", "published", "match"]
    return frame[[*first, "version", "commit", "sources"]]
