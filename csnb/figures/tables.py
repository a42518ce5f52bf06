"""Tables for the eye: HTML that scrolls sideways where the page is narrow."""

import hashlib
import html
from collections.abc import Mapping

import pandas as pd
from pandas.io.formats.style import Styler

LONG = 30  # characters of a text that wraps
PAGE = "var(--jp-layout-color0, Canvas)"  # JupyterLab's background, or the page's
SCROLL = "display: block; overflow-x: auto; max-width: 100%; width: max-content"
STYLES = {  # selector: declarations
    "": SCROLL,
    "caption": "text-align: left; padding: 0.3em 0",
    "tbody tr": f"background: {PAGE}",
    "th, td": "padding: 0.25em 0.6em; text-align: right; vertical-align: top",
    "td": "white-space: pre; font-variant-numeric: tabular-nums; border-bottom: 1px solid #8884",
    "th.row_heading": "text-align: left; background: inherit",
    "th.index_name": "text-align: left",
}
STICKY = {"th.row_heading": "text-align: left; background: inherit; position: sticky; left: 0"}
PROSE = "white-space: pre-line; min-width: 14em; text-align: left"


def table(
    frame: pd.DataFrame | pd.Series,
    *,
    caption: str = "",
    precision: int = 3,
    formats: Mapping[str, str] | None = None,
    bold: pd.DataFrame | None = None,
    name: str = "",
) -> Styler:
    """A frame as an HTML table for a page of any width: row labels stay, the rest scrolls.

    Texts are shown as they are: none of them is HTML. A newline in one is one; those of more than
    `LONG` characters wrap. ``precision``: decimals of floating-point numbers; missing values are
    left blank. ``formats``:
    of single columns, such as ``"{:.1%}"``. ``bold``: which cells are, in the frame's shape.
    ``name``: of the table's HTML id; by default made of its labels, so that equal tables are equal
    text.
    """
    frame = frame.to_frame() if isinstance(frame, pd.Series) else frame
    labels = repr((caption, frame.index.tolist(), frame.columns.tolist()))
    uuid = name or hashlib.sha256(labels.encode()).hexdigest()[:8]
    safe = _safe(frame)
    own = {_escaped(column): text for column, text in formats.items()} if formats else None
    shown = Styler(safe, uuid=uuid, cell_ids=False).format(own, precision=precision, na_rep="")
    if bold is not None:
        css = bold.map(lambda is_bold: "font-weight: bold" if is_bold is True else "")
        css = css.set_axis(safe.index, axis=0).set_axis(safe.columns, axis=1)
        shown = shown.apply(lambda _: css, axis=None)
    if _counted(frame):
        shown = shown.hide(axis="index")
    pairs = _styles(frame).items()
    shown = shown.set_table_styles([{"selector": s, "props": props} for s, props in pairs])
    return shown.set_caption(_escaped(caption)) if caption else shown


def _escaped(value: object) -> object:
    """A text as HTML shows it; anything else as it is."""
    return html.escape(value, quote=False) if isinstance(value, str) else value


def _safe(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with all of its texts escaped: a class may have any name."""
    safe = frame.set_axis(_labels(frame.index), axis=0).set_axis(_labels(frame.columns), axis=1)
    for i in range(frame.shape[1]):
        cells = [_escaped(cell) for cell in frame.iloc[:, i]]
        if any(isinstance(cell, str) for cell in cells):
            safe.isetitem(i, pd.Series(cells, safe.index, dtype=object))
    return safe


def _labels(index: pd.Index) -> pd.Index:
    names = [_escaped(name) for name in index.names]
    if isinstance(index, pd.MultiIndex):
        return index.set_levels([_labels(level) for level in index.levels]).set_names(names)
    if any(isinstance(label, str) for label in index):
        index = pd.Index([_escaped(label) for label in index], dtype=object)
    return index.set_names(names)


def _counted(frame: pd.DataFrame) -> bool:
    """Whether the row labels are nothing but a count."""
    return isinstance(frame.index, pd.RangeIndex) and frame.index.name is None


def _styles(frame: pd.DataFrame) -> dict[str, str]:
    """CSS by selector: row labels stay where there are one or two, long texts wrap."""
    levels = frame.index.nlevels
    sticky = STICKY if levels <= 2 else {}
    if levels == 2:  # the second column of labels stops where the first one ends
        first = max((len(str(label)) for label in frame.index.get_level_values(0)), default=0)
        width = f"{0.7 * first + 1.5:.1f}em"
        sticky = sticky | {
            ".row_heading.level0": f"min-width: {width}; box-sizing: border-box",
            ".row_heading.level1": f"left: {width}",
        }
    texts = [[str(cell) for cell in frame.iloc[:, i]] for i in range(frame.shape[1])]
    lines = [[line for text in column for line in text.split("\n")] for column in texts]
    widths = [max(map(len, column), default=0) for column in lines]
    return STYLES | sticky | {f"td.col{i}": PROSE for i, w in enumerate(widths) if w > LONG}
