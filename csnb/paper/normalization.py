"""Statistics of pixels that Table I could have printed: means, and what is called deviation."""

from importlib import metadata

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from csnb.data import TABLE1, Dataset, load_dataset
from csnb.paths import RESULTS, resolve
from csnb.runs.identity import NUMERICS
from csnb.runs.provenance import commit

STATISTICS = {  # of one channel
    "mean": "mean of all pixels",
    "pixels": "deviation of all pixels",
    "within, n": "mean over images of each image's deviation, divided by its n pixels",
    "within, n - 1": "the same, divided by n - 1",
    "within, squares": "root of the mean over images of each image's variance",
    "between": "deviation of the images' means",
}
COLUMNS = ["dataset", "images", "statistic", "channel", "n", "value", "error", "published", "match"]


def image_moments(x: Tensor) -> np.ndarray:
    """Mean and mean square of each image's channels: pixels (N, C, H, W) -> (2, N, C), doubles."""
    parts = [part.double().flatten(2) for part in x.split(1000)]
    return np.stack([torch.cat([(p**power).mean(2) for p in parts]).numpy() for power in (1, 2)])


def statistics(x: Tensor) -> pd.DataFrame:
    """Each of `STATISTICS` of images ``x`` (N, C, H, W), pixels in [0, 1].

    A row per statistic and channel: ``value``, and ``error``, the standard error of drawing N
    images (not pixels: those of an image go together), by the delta method.
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
        rows += [(name, c, value[c], error[c]) for c in range(x.shape[1])]
    return pd.DataFrame(rows, columns=["statistic", "channel", "value", "error"])


def measure(data: Dataset) -> pd.DataFrame:
    """`statistics` of the training, the test and all images of ``data`` beside Table I.

    Columns: dataset, images, those of `statistics`, ``n`` images, ``published`` (nan where Table I
    has no such data set), ``match`` (gives the four digits printed: rounded, cut off or no), and
    csnb's version, commit and `NUMERICS`.
    """
    everything = torch.cat([data.x_train, data.x_test])
    splits = {"training": data.x_train, "test": data.x_test, "all": everything}
    parts = [statistics(x).assign(images=name, n=len(x)) for name, x in splits.items()]
    frame = pd.concat(parts, ignore_index=True)
    means, deviations = TABLE1.get(data.name, ((np.nan,) * 3,) * 2)
    places = zip(frame["statistic"], frame["channel"], strict=True)
    printed = [(means if s == "mean" else deviations)[channel] for s, channel in places]
    digits, printed_digits = frame["value"] * 1e4, np.round(np.array(printed) * 1e4)
    matches = [np.round(digits) == printed_digits, np.floor(digits) == printed_digits]
    match = np.select(matches, ["rounded", "cut off"], "no")
    frame = frame.assign(dataset=data.name, published=printed, match=match)
    made = {"version": metadata.version("csnb"), "commit": commit(), "numerics": NUMERICS}
    return frame[COLUMNS].assign(**made)


def table1(datasets: str = "", save: str = "") -> pd.DataFrame:
    """`measure` of these data sets (names separated by commas), else the committed measurement.

    ``save``: a CSV to write it to; a relative path is taken from the project's root.
    """
    names = [name.strip() for name in datasets.split(",") if name.strip()]
    if names:
        frame = pd.concat([measure(load_dataset(name)) for name in names], ignore_index=True)
    else:
        frame = pd.read_csv(RESULTS.parent / "table1.csv", dtype={"commit": str})
    if save:
        frame.to_csv(resolve(save), index=False, float_format="%.8g")
    return frame


def deviations(table: pd.DataFrame) -> pd.DataFrame:
    """Each deviation of the training images by channel, below what Table I prints of it."""
    rows = _of_training(table)
    printed = rows.dropna(subset="published").assign(statistic="Table I", value=rows["published"])
    rows = pd.concat([printed.drop_duplicates(["dataset", "channel"]), rows])
    names = ["Table I", *STATISTICS]
    rows = rows.assign(statistic=pd.Categorical(rows["statistic"], names))
    return rows.pivot(index=["dataset", "statistic"], columns="channel", values="value")


def distances(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far each deviation of the training images is from Table I, in units of the last digit.

    Two frames, statistics by data sets' channels: numbers, and texts that say where the printed
    digits are met.
    """
    rows = _of_training(table).dropna(subset="published")
    off = (rows["value"] - rows["published"]) * 1e4
    met = rows["match"].map({"no": "", "rounded": "\nrounded", "cut off": "\ncut off"})
    column = rows["dataset"] + "\nchannel " + rows["channel"].astype(str)
    rows = rows.assign(column=column, off=off, text=off.map("{:+.1f}".format) + met)
    place = {"index": "statistic", "columns": "column"}
    order = [name for name in STATISTICS if name != "mean"]
    return tuple(rows.pivot(**place, values=name).reindex(order) for name in ("off", "text"))


def sources(table: pd.DataFrame) -> pd.DataFrame:
    """The statistics that give all printed digits of a data set, and on which images.

    Index: dataset, images, statistic; ``channels``: how each is met, rounded or cut off.
    """
    candidates = table.dropna(subset="published")
    channels = candidates.groupby("dataset")["channel"].nunique()
    met = candidates[candidates["match"] != "no"].groupby(["dataset", "images", "statistic"])
    hits = met["match"].agg(size="size", channels=", ".join) if len(candidates) else pd.DataFrame()
    if hits.empty:
        return pd.DataFrame({"channels": []})
    every = hits["size"] == hits.index.get_level_values("dataset").map(channels)
    return hits.loc[every, ["channels"]]


def normalized_deviation(table: pd.DataFrame) -> pd.DataFrame:
    """Deviation of the training pixels after Table I has normalised them, by channel."""
    pixels = _of_training(table).query("statistic == 'pixels'").dropna(subset="published")
    pixels = pixels.assign(ratio=pixels["value"] / pixels["published"])
    return pixels.pivot(index="dataset", columns="channel", values="ratio")


def _of_training(table: pd.DataFrame) -> pd.DataFrame:
    """The rows on the training images' deviations."""
    return table[(table["statistic"] != "mean") & (table["images"] == "training")]
