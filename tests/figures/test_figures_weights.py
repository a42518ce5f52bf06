"""What is drawn of weights is what the frame holds."""

import numpy as np
import pandas as pd

from csnb import figures


def test_weights_draws_every_weight_in_each_panel() -> None:
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(150, 2)), columns=["ADV", "CSA"])
    spread, place, ranked = figures.weights(frame).axes
    for name, outline, points, line in zip(
        frame, spread.patches, place.lines, ranked.lines, strict=True
    ):
        assert outline.get_data().values.sum() == 150
        np.testing.assert_array_equal(points.get_ydata(), frame[name].abs())
        np.testing.assert_array_equal(line.get_ydata(), sorted(frame[name].abs(), reverse=True))
    assert (
        spread.patches[0].get_data().edges.tolist() == spread.patches[1].get_data().edges.tolist()
    )
