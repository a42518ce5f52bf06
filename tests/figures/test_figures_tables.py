"""HTML tables: the frame's cells, equal text for equal tables, room on narrow pages."""

import numpy as np
import pandas as pd
from bs4 import BeautifulSoup

from csnb.figures import table

FRAME = pd.DataFrame(
    {"share": [0.12345, np.nan], "n": [980, 10], "text": ["0.5 [0.4, 0.6]", "not run"]},
    index=pd.MultiIndex.from_tuples([("PGD", "STD"), ("PGD", "CSA")], names=["attack", "method"]),
)


def test_cells_are_rounded_and_missing_ones_left_blank() -> None:
    page = table(FRAME, caption="mnist, n = 980").to_html()
    assert ">0.123</td>" in page and ">980</td>" in page and ">not run</td>" in page
    assert "nan" not in page.lower() and "mnist, n = 980" in page
    assert ">0.1235</td>" in table(FRAME, precision=4).to_html()
    page = table(FRAME.assign(low=0.25), formats={"share": "{:.1%}"}).to_html()
    assert ">12.3%</td>" in page and ">0.250</td>" in page


def test_equal_tables_are_equal_text_and_scroll_where_the_page_is_narrow() -> None:
    page = table(FRAME).to_html()
    assert page == table(FRAME.copy()).to_html() != table(FRAME, caption="other").to_html()
    assert "overflow-x: auto" in page and "position: sticky" in page


def test_a_count_of_rows_is_no_label() -> None:
    page = table(pd.DataFrame({"what": ["odd"], "cells": [3]})).to_html()
    assert "row_heading" not in page.split("</style>")[1]
    assert "row_heading" in table(FRAME["n"]).to_html().split("</style>")[1]


def test_bold_cells_are_those_asked_for() -> None:
    bold = pd.DataFrame(False, FRAME.index, FRAME.columns)
    bold.iloc[1, 1] = True
    page = table(FRAME, bold=bold, name="t").to_html()
    assert page.split("</style>")[0].count("#T_t_row1_col1") == 1
    assert page.split("</style>")[0].count("font-weight: bold") == 1


def test_no_text_is_taken_for_html() -> None:
    name = '<script>alert("1 & 2")</script>'
    rows = pd.MultiIndex.from_tuples([(name, 1), ("it's", 2)], names=[f"i{name}", "n"])
    frame = pd.DataFrame({name: [name, "plain"], "n": [0.5, np.nan]}, rows)
    bold = pd.DataFrame(False, frame.index, frame.columns)
    bold.iloc[0, 0] = True
    flat = frame.set_axis([name, "b"], axis=0).rename_axis(f"r{name}")
    named = flat.rename_axis(f"c{name}", axis=1)
    for each in (frame, flat, named, frame[name], named.astype({name: "category"})):
        page = table(each, caption=f"cap{name}").to_html()
        assert "<script" not in page and "&amp;amp;" not in page
        soup = BeautifulSoup(page, "html.parser")
        assert soup.caption.get_text() == f"cap{name}"
        texts = [cell.get_text() for cell in soup(["th", "td"])]
        assert texts.count(name) == 3  # a column's name, a row's, a cell's
        assert each.index.names[0] in texts
    assert f"c{name}" in [
        cell.get_text() for cell in BeautifulSoup(table(named).to_html(), "html.parser")("th")
    ]
    page = table(frame, bold=bold, formats={name: "{}!", "n": "{:.0%}"}).to_html()
    texts = [cell.get_text() for cell in BeautifulSoup(page, "html.parser")("td")]
    assert texts == [f"{name}!", "50%", "plain!", ""] and page.count("font-weight: bold") == 1


def test_texts_that_need_no_escape_are_not_changed() -> None:
    page = table(pd.DataFrame({"n": ['it\'s "so"', None, 3]}, dtype=object)).to_html()
    assert 'it\'s "so"' in page and ">3</td>" in page and page.count("></td>") == 1
