"""Curves, maps and what all figures share: numbers plotted, words written."""

import pandas as pd

from csnb import figures


def test_lines_differ_in_colour_stroke_and_marker_and_shade_intervals() -> None:
    table = pd.DataFrame(
        {name: [1.0, 2.0, k] for k, name in enumerate("abcdef")}, index=[1, 10, 100]
    )
    ax = figures.lines(
        table, xlabel="x", ylabel="y", scales=("log", "linear"), low=table - 1, high=table + 1
    )
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in ax.lines]
    assert len({colour for colour, _, _ in looks}) == len({marker for _, _, marker in looks}) == 6
    assert ax.lines[2].get_xydata().tolist() == [[1, 1], [10, 2], [100, 2]]
    assert ax.get_xscale() == "log" and len(ax.collections) == 6
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list("abcdef")


def test_annotated_map_writes_each_text_in_its_cell() -> None:
    values, texts = pd.DataFrame([[0.1, 0.9]]), pd.DataFrame([["a", "b"]])
    ax = figures.annotated_map(values, texts, label="v", limits=(0, 1))
    assert [text.get_text() for text in ax.texts] == ["a", "b"]
    assert ax.collections[0].get_clim() == (0, 1)


def test_series_are_told_apart_by_colour_line_and_marker() -> None:
    names, styles = zip(*figures.styled(range(36)), strict=True)
    assert names == tuple(range(36))
    assert all(len({s[name] for s in styles[:6]}) == 6 for name in ("color", "ls", "marker"))
    assert len({(style["color"], style["ls"], style["marker"]) for style in styles}) == 36


def test_no_curve_is_left_out() -> None:
    ax = figures.lines(pd.DataFrame([range(9)] * 2), xlabel="x", ylabel="y")
    assert [line.get_ydata()[0] for line in ax.lines] == list(range(9))


def test_a_caption_says_what_the_numbers_are_of() -> None:
    assert figures.caption("mnist", "CSA", "PGD", p=3, n=1010) == "mnist, CSA, PGD, p = 3, n = 1010"
    assert figures.caption("mnist", n=pd.Series([980, 1135, 892])) == "mnist, n = 892 to 1135"
    assert figures.caption("mnist", "", p="cat", n=[10, 10]) == "mnist, p = cat, n = 10"
    assert figures.caption("mnist", n=[]) == "mnist, n = 0"
