"""The protection curve: what is drawn is the curve."""

import numpy as np
import pandas as pd
import pytest

from csnb import figures
from csnb.margins import protection_curve


def test_each_method_is_a_line_with_a_marker_where_it_stands_without_an_offset() -> None:
    own = np.arange(40) < 20
    margins = {name: np.linspace(gap, -1, 40) for name, gap in {"ADV": 1.0, "CSA$": 2.0}.items()}
    curves = {name: protection_curve(values, own) for name, values in margins.items()}
    ax = figures.protection_curve(curves, budget=0.05, title="digits, p = 8")
    steps, markers = ax.lines[:4:2], ax.lines[1:4:2]
    for (name, curve), step, marker in zip(curves.items(), steps, markers, strict=True):
        np.testing.assert_allclose(step.get_ydata(), curve["recall"])
        np.testing.assert_allclose(step.get_xdata(), curve["false_alarms"].clip(lower=1e-3))
        right = margins[name] > 0
        place = np.ravel(marker.get_xydata())
        assert place == pytest.approx([max(right[~own].mean(), 1e-3), right[own].mean()])
    assert ax.lines[4].get_xdata() == [0.05, 0.05] and ax.get_xscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ADV", r"CSA\$"]
    looks = [(line.get_color(), line.get_linestyle()) for line in steps]
    assert len({colour for colour, _ in looks}) == len({stroke for _, stroke in looks}) == 2


def test_more_methods_than_styles_are_all_drawn() -> None:
    own = np.arange(40) < 20
    curve = protection_curve(np.linspace(1, -1, 40), own)
    ax = figures.protection_curve({str(k): curve for k in range(9)})
    assert len(ax.get_legend().get_texts()) == 9


def test_the_ranking_shows_gain_and_price_of_each_method_from_above() -> None:
    ends = {"gain_low": [0.1, -0.2], "gain_high": [0.3, 0.2], "price_low": [-0.3, 0.0]}
    values = {"gain": [0.2, 0.0], "price": [-0.1, 0.0], "lost": [1, 0], "trainings": [3, 3]}
    frame = pd.DataFrame(values | ends | {"price_high": [0.1, 0.0]}, index=["CSA$", "ADV"])
    gain, price = figures.ranking(frame, title="digits, p = 8").axes
    for ax, name in ((gain, "gain"), (price, "price")):
        (bars,) = ax.collections
        drawn = np.array(bars.get_segments())
        assert drawn[:, :, 0].tolist() == frame[[f"{name}_low", f"{name}_high"]].to_numpy().tolist()
        assert drawn[:, 0, 1].tolist() == [1, 0]
        assert ax.lines[-1].get_xdata().tolist() == frame[name].tolist()
    assert [text.get_text() for text in gain.get_yticklabels()] == [r"CSA\$ (1 of 3 lost)", "ADV"]


def test_a_band_lies_between_the_certified_curve_and_the_attacked_one() -> None:
    own, margins = np.arange(40) < 20, np.linspace(1.0, -1, 40)
    attacked = protection_curve(margins, own)
    certified = protection_curve(margins - 1.3 * own, own)
    ax = figures.protection_curve({"IBP": attacked}, certified={"IBP": certified})
    x, low = ax.lines[2].get_data()
    for at, recall in zip(x, low, strict=True):
        alarms = certified["false_alarms"].clip(lower=1e-3)
        assert recall == certified["recall"][alarms <= at].max()
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == low.min() and band[:, 1].max() == attacked["recall"].max()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["IBP", "IBP, certified at least"]
