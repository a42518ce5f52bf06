"""One line, with the nearest name and what is allowed."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csnb import InputError
from csnb.errors import choices, one_line, printable


@given(st.text(max_size=2000))
def test_a_message_is_one_line_that_prints_and_is_not_long(text: str) -> None:
    message = str(InputError(text))
    assert len(message) < 300 and (message.isprintable() or not message)


def test_a_long_message_keeps_the_thing_and_what_is_allowed() -> None:
    message = str(InputError(f"eps: {'9' * 5000} is not allowed; allowed: 0 or more"))
    assert message.startswith("eps: 999") and message.endswith("allowed: 0 or more")


def test_a_short_message_is_left_as_it_is() -> None:
    assert str(InputError("cost: é is not allowed")) == "cost: é is not allowed"


def test_an_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("a: b")))
    assert type(error) is InputError and str(error) == "a: b"


def test_a_notebook_shows_the_line_and_no_stack() -> None:
    assert InputError("a: b")._render_traceback_() == ["InputError: a: b"]


def test_what_does_not_print_becomes_blanks() -> None:
    assert printable("a\x1b[31mb\nc") == "a [31mb c"


def test_a_librarys_error_is_made_one_line() -> None:
    assert one_line(ValueError("a\n  b\t c")) == "a b c"
    assert one_line(ValueError("x" * 999)) == "x" * 200
    assert one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("value", "allowed", "also", "expected"),
    [
        ("cta", ["cat", "dog"], "", "allowed: cat, dog; did you mean cat?"),
        ("CAT", ["cat", "dog"], "", "allowed: cat, dog; did you mean cat?"),
        ("emu", ["cat", "dog"], "a path", "allowed: cat, dog, or a path"),
        ("x", [], "", "allowed: none"),
    ],
)
def test_choices_say_what_there_is_and_what_is_near(
    value: str, allowed: list[str], also: str, expected: str
) -> None:
    assert choices(value, allowed, also) == expected


def test_many_choices_are_cut_and_the_nearest_is_named_all_the_same() -> None:
    names = [f"class{number}" for number in range(1000)]
    text = choices("clas999", names)
    assert text.startswith("allowed: class0, class1, ") and len(text) < 220
    assert text.endswith("...; did you mean class999?")
