import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import examples

from csnb.costs import (
    check_costs,
    costs_from_pairs,
    costs_from_table,
    protect,
    read_costs,
    write_costs,
)
from csnb.errors import InputError

NAMES = ("cat", "dog", "emu")
COSTS = np.array(
    [[0, 2, 5], [3, 0, 7], [1, 4, 0]], dtype=float
)  # asymmetric: row predicted, column true


def write_csv(file: Path, rows: list[list[object]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return file


def table(
    costs: np.ndarray, names: tuple[str, ...], rows: tuple[int, ...], columns: tuple[int, ...]
) -> list[list[object]]:
    """A CSV's rows, with the classes in these orders."""
    return [
        ["", *(names[j] for j in columns)],
        *([names[i], *(costs[i, j] for j in columns)] for i in rows),
    ]


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("classes", "protected", "cost", "expected"),
    [
        (3, 0, 10, [[0, 10, 10], [10, 0, 1], [10, 1, 0]]),
        (3, 1, 4, [[0, 4, 1], [4, 0, 4], [1, 4, 0]]),
        (2, 1, 10, [[0, 10], [10, 0]]),
        (
            4,
            [1, 3],
            2.5,
            [[0, 2.5, 1, 2.5], [2.5, 0, 2.5, 2.5], [1, 2.5, 0, 2.5], [2.5, 2.5, 2.5, 0]],
        ),
        (3, 2, 1, [[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
        (3, 2, 0, [[0, 1, 0], [1, 0, 0], [0, 0, 0]]),
    ],
)
def test_eq_3_by_hand(
    classes: int, protected: int | list[int], cost: float, expected: list[list[float]]
) -> None:
    costs = protect(classes, protected, cost)
    assert costs.dtype == np.float64
    np.testing.assert_array_equal(costs, expected)


def test_the_cost_of_eq_3_is_10_unless_given() -> None:
    np.testing.assert_array_equal(protect(3, 0), protect(3, 0, 10))


@examples(40)
@given(st.data(), st.integers(2, 8), st.floats(0, 100))
def test_eq_3_is_symmetric_and_true_to_its_definition(
    data: st.DataObject, classes: int, cost: float
) -> None:
    protected = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, unique=True))
    costs = protect(classes, protected, cost)
    np.testing.assert_array_equal(costs, costs.T)
    for i in range(classes):
        for j in range(classes):
            assert costs[i, j] == (0 if i == j else cost if i in protected or j in protected else 1)


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf")])
def test_eq_3_refuses_a_cost_that_is_negative_or_not_finite(cost: float) -> None:
    with pytest.raises(InputError) as error:
        protect(3, 0, cost)
    assert str(float(cost)) in one_line(error)


@pytest.mark.parametrize("protected", [3, -1, [0, 7], 1.0, True, "1", None, np.array(1)])
def test_eq_3_refuses_a_class_that_does_not_exist(protected: object) -> None:
    with pytest.raises(InputError) as error:
        protect(3, protected)
    assert "0 to 2" in one_line(error)


def test_there_are_so_many_classes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csnb.costs.MOST_CLASSES", 3)  # 5,000 would fill 0.2 GB
    assert protect(3, 0).shape == (3, 3) and costs_from_pairs(1, {}).shape == (1, 1)
    for classes in (4, 0, -1, 2.0, True):
        with pytest.raises(InputError, match=r"^classes: .* is not allowed; allowed: 1 to 3$"):
            protect(classes, 0)


def test_pairs_are_predicted_and_true() -> None:
    np.testing.assert_array_equal(
        costs_from_pairs(3, {(0, 2): 5, (1, 0): 0}), [[0, 1, 5], [0, 0, 1], [1, 1, 0]]
    )


def test_the_default_fills_every_other_mistake() -> None:
    np.testing.assert_array_equal(
        costs_from_pairs(3, {(2, 1): 9}, default=0.5), [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 9, 0]]
    )


def test_eq_3_written_as_pairs_gives_the_same_matrix() -> None:
    pairs = {(1, i): 10.0 for i in (0, 2, 3)} | {(i, 1): 10.0 for i in (0, 2, 3)}
    np.testing.assert_array_equal(costs_from_pairs(4, pairs), protect(4, 1, 10))


@pytest.mark.parametrize(
    "pair", [(0, 3), (3, 0), (-1, 0), (0, -1), (0, 1, 2), (0,), 1, "01", frozenset({0, 1})]
)
def test_pairs_of_no_such_classes_are_refused(pair: object) -> None:
    with pytest.raises(InputError) as error:
        costs_from_pairs(3, {pair: 2})
    assert f"cost of {pair!r}: no such classes" in one_line(error)


@pytest.mark.parametrize("pairs", [{(1, 1): 2}, {(0, 1): -2}, {(0, 1): float("nan")}])
def test_pairs_that_give_no_cost_matrix_are_refused(pairs: dict[tuple[int, int], float]) -> None:
    with pytest.raises(InputError) as error:
        costs_from_pairs(3, pairs)
    one_line(error)


@pytest.mark.parametrize("rows", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("columns", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_a_csv_gives_the_matrix_in_the_order_of_the_names(
    tmp_path: Path, rows: tuple[int, ...], columns: tuple[int, ...]
) -> None:
    file = write_csv(tmp_path / "costs.csv", table(COSTS, NAMES, rows, columns))
    np.testing.assert_array_equal(read_costs(file, NAMES), COSTS)


@pytest.mark.parametrize(
    "names",
    [
        ("0", "1", "2"),
        ("2", "0", "1"),
        ("01", "1", "001"),
        ("1.50", "1.5", "2"),
        ("True", "False", "maybe"),
        ("NA", "null", "nan"),
        ("a, b", 'a "b"', "æ"),
    ],
)
def test_class_names_in_a_csv_are_taken_as_text(tmp_path: Path, names: tuple[str, ...]) -> None:
    file = write_csv(tmp_path / "costs.csv", table(COSTS, names, (2, 0, 1), (1, 0, 2)))
    np.testing.assert_array_equal(read_costs(file, names), COSTS)


def test_a_csv_needs_nothing_in_its_corner(tmp_path: Path) -> None:
    rows = table(COSTS, NAMES, (2, 0, 1), (1, 0, 2))
    file = write_csv(tmp_path / "costs.csv", [rows[0][1:], *rows[1:]])
    np.testing.assert_array_equal(read_costs(file, NAMES), COSTS)
    file.write_text("\na\na,0\n")  # a header and one line
    np.testing.assert_array_equal(read_costs(file, ("a",)), [[0]])


def test_a_csv_may_begin_with_a_mark_and_have_a_name_of_two_lines(tmp_path: Path) -> None:
    names = ("cat\r\nof prey", "dog", "æ")
    file = write_csv(tmp_path / "costs.csv", table(COSTS, names, (0, 1, 2), (0, 1, 2)))
    file.write_bytes("\ufeff".encode() + file.read_bytes())
    np.testing.assert_array_equal(read_costs(file, names), COSTS)


@pytest.mark.parametrize("corner", [["class", "kind"], []], ids=["two more", "one less"])
def test_a_header_that_is_longer_or_shorter_than_its_lines_is_refused(
    tmp_path: Path, corner: list[str]
) -> None:
    rows = table(COSTS, NAMES, (0, 1, 2), (0, 1, 2))
    header = [*corner, *rows[0][1:]] if corner else rows[0][2:]
    with pytest.raises(InputError, match=r"a line has 4 cells, the first [25]"):
        read_costs(write_csv(tmp_path / "costs.csv", [header, *rows[1:]]), NAMES)


HEADER = ["", "cat", "dog", "emu"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([["", "cat", "dog"], ["cat", 0, 1], ["dog", 1, 0]], "every class"),
        ([HEADER, ["cat", 0, 1, 1], ["dog", 1, 0, 1]], "every class"),
        ([HEADER, ["cat", 0, 1, 1], ["dog", 1, 0, 1], ["dog", 1, 1, 0]], "every class"),
        (
            [["", "cat", "dog", "dog"], ["cat", 0, 1, 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]],
            "every class",
        ),
        (
            [["", "cat", "dog", "gnu"], ["cat", 0, 1, 1], ["dog", 1, 0, 1], ["gnu", 1, 1, 0]],
            "every class",
        ),
        ([HEADER, ["cat", 0, "much", 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]], "nan"),
        ([HEADER, ["cat", 0, "", 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]], "nan"),
        ([HEADER, ["cat", 0, "1_0", 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]], "nan"),
        ([HEADER, ["cat", 0, "nan", 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]], "nan"),
        ([HEADER, ["cat", 0, "inf", 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]], "inf"),
        ([HEADER, ["cat", 0, -3, 1], ["dog", 1, 0, 1], ["emu", 1, 1, 0]], "-3"),
        ([HEADER, ["cat", 0, 1, 1], ["dog", 1, 6, 1], ["emu", 1, 1, 0]], "diagonal 6"),
    ],
    ids=[
        "class",
        "row",
        "row twice",
        "column twice",
        "other class",
        "text",
        "blank",
        "Python's digits",
        "NaN",
        "inf",
        "negative",
        "diagonal",
    ],
)
def test_a_csv_that_is_no_cost_matrix_is_refused(
    tmp_path: Path, rows: list[list[object]], says: str
) -> None:
    with pytest.raises(InputError, match="cost") as error:
        read_costs(write_csv(tmp_path / "costs.csv", rows), NAMES)
    assert says in one_line(error)


@pytest.mark.parametrize("corner", ["", "class", None])
@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_of_columns_that_no_comma_separates_it_is_said_what_does(
    tmp_path: Path, sign: str, name: str, corner: str | None
) -> None:
    header = [*NAMES] if corner is None else [corner, *NAMES]
    rows = [header, *([a, *(int(a != b) for b in NAMES)] for a in NAMES)]
    file = tmp_path / "costs.csv"
    file.write_text("\n".join(sign.join(map(str, row)) for row in rows))
    with pytest.raises(InputError, match=rf"separated by {name} .*; allowed: commas$") as error:
        read_costs(file, NAMES)
    assert repr(sign) in one_line(error)


@pytest.mark.parametrize("corner", ["", "class", None])
@pytest.mark.parametrize("half", [["cat"], ["dog"], ["emu"], ["cat", "dog", "emu"]])
def test_of_columns_that_semicolons_separate_some_costs_may_have_a_decimal_comma(
    tmp_path: Path, half: list[str], corner: str | None
) -> None:
    header = [*NAMES] if corner is None else [corner, *NAMES]
    rows = [[a, *("0" if a == b else "1,5" if a in half else "1" for b in NAMES)] for a in NAMES]
    file = tmp_path / "costs.csv"
    file.write_text("\n".join(";".join(row) for row in [header, *rows]))
    with pytest.raises(InputError, match=r"separated by semicolons \(';'\); allowed: commas$"):
        read_costs(file, NAMES)


def test_of_columns_that_commas_separate_nothing_is_said_but_what_is_wrong(tmp_path: Path) -> None:
    names = (*NAMES, "gnu")
    rows = table(np.ones((4, 4)) - np.eye(4), names, (0, 1, 2, 3), (0, 1, 2, 3))
    with pytest.raises(
        InputError, match=r"once in its header and in its first column; allowed: cat, dog, emu$"
    ):
        read_costs(write_csv(tmp_path / "costs.csv", rows), NAMES)


@pytest.mark.parametrize(
    "content", [None, b"", b"\n\n", b"\xff\xfe\x00"], ids=["no file", "empty", "blank", "not text"]
)
def test_a_file_that_is_no_csv_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "costs.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_costs(file, NAMES)
    assert str(file) in one_line(error)


def test_a_path_that_names_nothing_is_refused_as_the_cost_matrix() -> None:
    with pytest.raises(InputError, match=r"^cost_matrix: .* names nothing") as error:
        read_costs("costs\0.csv", NAMES)
    one_line(error)


def test_a_good_matrix_passes_the_check_unchanged() -> None:
    np.testing.assert_array_equal(check_costs(COSTS, 3), COSTS)
    np.testing.assert_array_equal(check_costs(COSTS), COSTS)
    assert check_costs(np.zeros((1, 1))).shape == (1, 1)


def test_one_number_is_no_matrix() -> None:
    with pytest.raises(
        InputError, match=r"^cost matrix: shaped \(\); allowed: .*predicted by true$"
    ):
        check_costs(np.array(3.0))


@pytest.mark.parametrize("costs", [[[0, 2], [3, 0]], [["0", "2"], ["3", "0"]]])
def test_whole_or_written_costs_are_checked_and_returned_as_float64(costs: list) -> None:
    checked = check_costs(costs, 2)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, [[0, 2], [3, 0]])


@pytest.mark.parametrize(
    ("costs", "classes", "says"),
    [
        (np.zeros((3, 3)), 4, "(3, 3)"),
        (np.zeros((3, 4)), 3, "(3, 4)"),
        (np.zeros(9), 3, "(9,)"),
        ([[0, -0.5], [1, 0]], 2, "-0.5"),
        ([[0, np.nan], [1, 0]], 2, "nan"),
        ([[0, np.inf], [1, 0]], 2, "inf"),
        ([[0, 1], [1, 2]], 2, "diagonal 2"),
    ],
)
def test_a_bad_matrix_is_refused_with_what_is_wrong(
    costs: np.ndarray, classes: int, says: str
) -> None:
    with pytest.raises(InputError) as error:
        check_costs(costs, classes)
    assert says in one_line(error)


# --- two sides


@pytest.mark.parametrize(
    ("protected", "expected"),
    [
        (1, [[0, 7, 1, 1], [3, 0, 3, 3], [1, 7, 0, 1], [1, 7, 1, 0]]),
        ([0, 1], [[0, 7, 3, 3], [7, 0, 3, 3], [7, 7, 0, 1], [7, 7, 1, 0]]),
    ],
)
def test_misses_and_false_alarms_have_their_own_costs(
    protected: int | list[int], expected: list[list[float]]
) -> None:
    np.testing.assert_array_equal(protect(4, protected, 7, 3), expected)


def test_between_protected_classes_the_dearer_side_counts() -> None:
    assert protect(3, [0, 1], 2, 9)[0, 1] == protect(3, [0, 1], 9, 2)[0, 1] == 9


def test_names_that_stand_twice_are_refused() -> None:
    with pytest.raises(InputError, match=r"^classes: .* is not allowed; allowed: names of classes"):
        costs_from_pairs(("cat", "dog", "cat"), {})


def test_pairs_go_by_name_too() -> None:
    by_name = costs_from_pairs(NAMES, {("cat", "emu"): 5, (1, "cat"): 0})
    np.testing.assert_array_equal(by_name, costs_from_pairs(3, {(0, 2): 5, (1, 0): 0}))
    with pytest.raises(InputError, match=r"'cow'.*allowed: 0 to 2 or cat, dog, emu"):
        costs_from_pairs(NAMES, {("cow", "emu"): 5})


# --- tables


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_frame_or_a_mapping_goes_by_its_names(order: tuple[int, ...]) -> None:
    frame = pd.DataFrame(COSTS, NAMES, NAMES)
    frame = frame.iloc[list(order), list(order)[::-1]]
    np.testing.assert_array_equal(costs_from_table(frame, NAMES), COSTS)
    np.testing.assert_array_equal(costs_from_table(frame.to_dict("split"), NAMES), COSTS)
    mapping = {row: dict(frame.loc[row]) for row in frame.index}
    np.testing.assert_array_equal(costs_from_table(mapping, NAMES), COSTS)


def test_what_a_mapping_leaves_out_costs_1() -> None:
    found = costs_from_table({"cat": {"dog": 5}, "emu": {"cat": 0.5, "emu": 0}}, NAMES)
    np.testing.assert_array_equal(found, [[0, 5, 1], [1, 0, 1], [0.5, 1, 0]])


@pytest.mark.parametrize("table", [COSTS, COSTS.tolist(), COSTS.astype(int)])
def test_numbers_go_by_their_place(table: object) -> None:
    np.testing.assert_array_equal(costs_from_table(table, NAMES), COSTS)


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(COSTS),
        pd.DataFrame(COSTS, NAMES, ("cat", "dog", "cow")),
        pd.DataFrame(COSTS, ("cat", "dog", "dog"), NAMES),
        pd.DataFrame(COSTS, NAMES, NAMES).iloc[:2, :2],
        {"index": NAMES, "columns": NAMES, "data": [[0, 1]]},
        {"cat": {"cow": 5}},
        {"cat": {"dog": -5}},
        {"cat": 3},
        {},
        COSTS[:2],
        [["a"]],
        -COSTS,
    ],
    ids=[
        "no names",
        "another name",
        "a name twice",
        "too few",
        "ragged",
        "no class",
        "less than nothing",
        "no rows",
        "nothing",
        "shape",
        "text",
        "sign",
    ],
)
def test_what_is_no_table_of_costs_is_refused(table: object) -> None:
    with pytest.raises(InputError, match=r"cost.matrix") as error:
        costs_from_table(table, NAMES)
    one_line(error)


@pytest.mark.parametrize("names", [NAMES, ("01", "1", "NA"), ("a, b", 'a "b"', "æ")])
def test_what_is_written_is_what_is_read(tmp_path: Path, names: tuple[str, ...]) -> None:
    costs = COSTS / 3
    file = write_costs(tmp_path / "costs.csv", costs, names)
    np.testing.assert_array_equal(read_costs(file, names), costs)
    assert file.read_text(encoding="utf-8").startswith("predicted,")


def test_costs_that_are_none_or_have_no_place_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cost matrix"):
        write_costs(tmp_path / "costs.csv", -COSTS, NAMES)
    with pytest.raises(InputError, match=r"cannot write .*allowed: a file in a folder"):
        write_costs(tmp_path / "none" / "costs.csv", COSTS, NAMES)
    with pytest.raises(InputError, match=r"^cost_matrix: .* names nothing"):
        write_costs("costs\0.csv", COSTS, NAMES)
    assert not list(tmp_path.iterdir())
