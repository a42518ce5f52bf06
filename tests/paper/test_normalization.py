from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from csnb.data import Dataset
from csnb.paper.normalization import (
    STATISTICS,
    deviations,
    distances,
    image_moments,
    measure,
    normalized_deviation,
    sources,
    statistics,
    table1,
)
from csnb.runs.identity import NUMERICS

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
    x = torch.tensor([0.49141, 0.48229, 0.5]).view(1, 3, 1, 1) * torch.ones(
        4, 3, 2, 2
    )  # Table I: 0.4914, 0.4822, 0.4465
    labels = torch.zeros(4, dtype=torch.long)
    frame = measure(Dataset("cifar10", ("a", "b"), x, labels, x, labels, (0.5,) * 3, (0.2,) * 3))
    means = frame[(frame["statistic"] == "mean") & (frame["images"] == "all")]
    assert (
        means["match"].tolist() == ["rounded", "cut off", "no"] and means["n"].tolist() == [8] * 3
    )
    assert set(frame["images"]) == {"training", "test", "all"} and set(frame["numerics"]) == {
        NUMERICS
    }


def test_other_data_sets_have_nothing_published() -> None:
    x, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    frame = measure(Dataset("mine", ("a", "b"), x, labels, x, labels, (0.5,), (0.2,)))
    assert frame["published"].isna().all() and set(frame["match"]) == {"no"}


def test_sources_give_all_printed_digits_of_a_data_set() -> None:
    table = table1()
    assert set(table["numerics"]) == {NUMERICS}
    found = sources(table)
    assert set(found.loc["cifar10"].index) == {("training", "mean"), ("training", "within, n - 1")}
    assert found.loc[("cifar100", "training", "mean"), "channels"] == "cut off, rounded, rounded"
    assert sources(table1().query("dataset == 'fashion_mnist'")).empty


def test_deviations_stand_below_what_is_printed() -> None:
    table = table1()
    wide = deviations(table)
    assert wide.loc[("cifar10", "Table I")].tolist() == [0.2023, 0.1994, 0.2010]
    assert (
        wide.loc["mnist"].index[0] == "Table I" and "Table I" not in wide.loc["fashion_mnist"].index
    )
    off, texts = distances(table)
    assert off.loc["pixels", "mnist\nchannel 0"] == pytest.approx(0.0781)
    assert texts.loc["pixels", "mnist\nchannel 0"] == "+0.1\nrounded"
    ratio = wide.loc[("cifar10", "pixels")] / wide.loc[("cifar10", "Table I")]
    assert normalized_deviation(table).loc["cifar10"].tolist() == pytest.approx(ratio.tolist())


def test_a_measurement_now_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "digits.csv"
    table = table1("digits", str(file))
    pd.testing.assert_frame_equal(
        pd.read_csv(file, dtype={"commit": str}, keep_default_na=False)[["statistic", "images"]],
        table[["statistic", "images"]],
        check_dtype=False,
    )
    assert distances(table)[0].empty and sources(table).empty
