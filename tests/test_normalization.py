import numpy as np
import pandas as pd
import pytest
import torch

from csnb.data import Dataset
from csnb.normalization import STATISTICS, image_moments, measure, statistics

IMAGES = torch.rand(40, 3, 5, 4, generator=torch.Generator().manual_seed(0)) ** 2


def values(x: torch.Tensor, column: str = "value") -> pd.DataFrame:
    return statistics(x).pivot(index="statistic", columns="channel", values=column)


def test_moments_of_each_image_and_channel() -> None:
    x = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.5]]]])
    assert image_moments(x).squeeze(-1).tolist() == [[0.5, 0.5], [0.5, 0.25]]


def test_statistics_are_those_of_numpy() -> None:
    x, found = IMAGES.double().numpy(), values(IMAGES)
    expected = {
        "mean": x.mean((0, 2, 3)),
        "pixels": x.std((0, 2, 3)),
        "within, n": x.std((2, 3)).mean(0),
        "within, n - 1": x.std((2, 3), ddof=1).mean(0),
        "within, squares": np.sqrt(x.var((2, 3)).mean(0)),
        "between": x.mean((2, 3)).std(0),
    }
    assert set(found.index) == set(expected) == set(STATISTICS)
    for name, value in expected.items():
        assert found.loc[name].to_numpy() == pytest.approx(value, abs=1e-12)


def test_errors_are_the_spread_of_repeated_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    level = torch.rand(400, 200, 1, 1, 1, generator=generator)  # the pixels of an image go together
    draws = 0.5 * level + 0.5 * torch.rand(400, 200, 1, 3, 3, generator=generator)
    repeated = pd.concat([values(x) for x in draws]).groupby(level=0)[0].std()
    error = values(draws[0], "error")[0]
    assert error.to_numpy() == pytest.approx(repeated[error.index].to_numpy(), rel=0.2)


def test_images_of_one_value_have_no_deviation() -> None:
    found = values(torch.full((3, 1, 2, 2), 0.25))
    assert found.loc["mean", 0] == 0.25 and (found.drop("mean") == 0).all(axis=None)


def test_measure_says_whether_the_printed_digits_are_rounded_or_cut() -> None:
    x = torch.tensor([0.49141, 0.48229, 0.5]).view(1, 3, 1, 1) * torch.ones(4, 3, 2, 2)  # Table I: 0.4914, 0.4822, 0.4465
    labels = torch.zeros(4, dtype=torch.long)
    frame = measure(Dataset("cifar10", ("a", "b"), x, labels, x, labels, (0.5,) * 3, (0.2,) * 3))
    means = frame[(frame["statistic"] == "mean") & (frame["images"] == "all")]
    assert means["match"].tolist() == ["rounded", "cut off", "no"] and means["n"].tolist() == [8] * 3
    assert set(frame["images"]) == {"training", "test", "all"} and frame["sources"].str.len().eq(16).all()


def test_other_data_sets_have_nothing_published() -> None:
    x, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    frame = measure(Dataset("mine", ("a", "b"), x, labels, x, labels, (0.5,), (0.2,)))
    assert frame["published"].isna().all() and set(frame["match"]) == {"no"}
