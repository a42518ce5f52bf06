"""A box on its way: what is drawn is what is given."""

import numpy as np
import pytest

from csnb import figures


def test_each_panel_has_its_points_and_its_box() -> None:
    points, low, high = np.array([[0.0, 1], [2, 3]]), np.array([-1.0, 0.5]), np.array([2.0, 4])
    axes = figures.boxes({"input": (points, low, high), "ReLU$": (points + 1, low, high + 1)})
    assert [ax.get_title() for ax in axes] == ["input", r"ReLU\$"]
    for ax, more in zip(axes, (0, 1), strict=True):
        np.testing.assert_allclose(ax.collections[0].get_offsets(), points + more)
        box = ax.patches[0]
        assert box.get_xy() == pytest.approx((-1, 0.5))
        assert (box.get_width(), box.get_height()) == pytest.approx((3 + more, 3.5 + more))
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        assert left < -1 and right > 2 + more and bottom < 0.5 and top > 4 + more
