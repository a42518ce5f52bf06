"""Data sets: pixels in [0, 1], NCHW float32, with class names and Table I's normalisation."""

from csnb.data.dataset import Dataset
from csnb.data.sources import TABLE1, Description, describe, load_dataset
from csnb.spec import DATASETS

__all__ = ["DATASETS", "Dataset", "Description", "TABLE1", "describe", "load_dataset"]
