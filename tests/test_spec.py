"""Specs: read, written, refused; and who may register what."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import examples
from pydantic import Field

from csnb import ATTACKS, DATASETS, METHODS, MODELS, InputError
from csnb.spec import LARGEST, Count, Real, Registry, Spec, load_file, split

REGISTRIES = {"attack": ATTACKS, "method": METHODS, "model": MODELS, "dataset": DATASETS}


def made() -> Registry:
    """A registry with an entry of csnb's that has an option of every type."""

    def thing(
        given: int,
        *,
        count: Annotated[Count, Field(ge=1, le=9, description="how many")] = 3,
        size: Annotated[Real, Field(gt=0)] = 0.5,
        kind: Literal["round", "square"] = "round",
        flag: bool = False,
        name: str = "",
        parts: list[int] = [1, 2],  # noqa: B006  pydantic copies it
    ) -> tuple[Any, ...]:
        """A thing for tests.

        More of it.
        """
        return given, count, size, kind, flag, name, parts

    registry, thing.__module__ = Registry("thing"), "csnb.things"
    registry.register("Thing", source="Somebody 2024")(thing)
    return registry


@pytest.fixture
def things() -> Registry:
    return made()


def refused(registry: Registry, text: object) -> str:
    """The one line with which a spec is refused."""
    with pytest.raises(InputError) as error:
        registry.parse(text)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 300
    return message


# --- read and called


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Thing", {}),
        ("  Thing ( )  ", {}),
        ("Thing(count=5)", {"count": 5}),
        ("Thing( count = 5 , size=1e-3 )", {"count": 5, "size": 0.001}),
        ("Thing(size=8/255)", {"size": 8 / 255}),
        ("Thing(size='8/255')", {"size": 8 / 255}),
        ("Thing(size=2)", {"size": 2.0}),
        ("Thing(count='7')", {"count": 7}),
        ("Thing(kind=square)", {"kind": "square"}),
        ("Thing(kind='square')", {"kind": "square"}),
        ("Thing(flag=True)", {"flag": True}),
        ("Thing(flag=true)", {"flag": True}),
        ("Thing(name='a, b (c) =')", {"name": "a, b (c) ="}),
        ('Thing(name="it\'s")', {"name": "it's"}),
        ("Thing(parts=[3, 4])", {"parts": [3, 4]}),
        ("Thing(\n  count=5,\n)", {"count": 5}),
    ],
)
def test_a_spec_is_a_name_with_literal_options(
    things: Registry, text: str, options: dict[str, Any]
) -> None:
    spec = things.parse(text)
    defaults = {
        "count": 3,
        "size": 0.5,
        "kind": "round",
        "flag": False,
        "name": "",
        "parts": [1, 2],
    }
    assert spec.name == "Thing" and spec.options == defaults | options
    assert spec(17) == (17, *(defaults | options).values())


@pytest.mark.parametrize("word", ["class", "None", "True", "true", "false", "µ", "a b", "1", ""])
def test_words_that_mean_something_else_are_quoted(things: Registry, word: str) -> None:
    spec = things.parse(f"Thing(name={word!r})")
    assert spec.options["name"] == word and things.parse(str(spec)) == spec


def test_text_is_shortest_options_in_the_order_of_the_signature(things: Registry) -> None:
    assert str(things.parse("Thing(size=0.5, count=3)")) == "Thing"
    text = "Thing(name=x, flag=true, size=1e0, kind='square', count=4)"
    assert str(things.parse(text)) == "Thing(count=4, size=1, kind=square, flag=True, name=x)"


VALUES = {
    "count": st.integers(1, 9),
    "size": st.floats(min_value=0, exclude_min=True, max_value=LARGEST),
    "kind": st.sampled_from(["round", "square"]),
    "flag": st.booleans(),
    "name": st.text(max_size=12),
    "parts": st.lists(st.integers(), max_size=3),
}


@examples(150)
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_text_says_all_that_a_spec_is(options: dict[str, Any]) -> None:
    things = made()
    spec = things._make(things["Thing"], options)
    again = things.parse(str(spec))
    assert again == spec and str(again) == str(spec)
    assert {**spec.options, **options} == spec.options
    assert things.parse_list(f"{spec}, Thing(count=9, parts=[7, 7, 7, 7])")[0] == spec


@given(st.text(alphabet="Thing(count=5,)[]{}'\" :.py/\\\n\t+-*eé\0", max_size=40) | st.text())
def test_any_text_is_a_spec_or_refused_in_one_line(text: str) -> None:
    things = made()
    try:
        spec = things.parse(text)
    except InputError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 300 and "allowed: " in message
    else:
        assert things.parse(str(spec)) == spec


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_entry_reads_back_from_its_own_text(name: str) -> None:
    for entry in REGISTRIES[name].values():
        spec = REGISTRIES[name].parse(entry.name)
        assert str(spec) == entry.name and spec.entry is entry
        full = ", ".join(f"{key}={value!r}" for key, value in spec.options.items())
        assert REGISTRIES[name].parse(f"{entry.name}({full})") == spec


def test_equal_specs_are_equal_whatever_their_text() -> None:
    one, same, other = map(ATTACKS.parse, ("PGD(steps=100)", "PGD( steps = 1e2 )", "PGD"))
    assert one == same and hash(one) == hash(same) and one != other
    assert ATTACKS.parse(one) is one


# --- lists


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        (" , ,", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (" a( x=1, y = 2 ) , b ", ["a( x=1, y = 2 )", "b"]),
        ("a(x=[1, 2], y={3, 4}), b", ["a(x=[1, 2], y={3, 4})", "b"]),
        ("a(x='1, (2'), b(y=\"3'\")", ["a(x='1, (2')", 'b(y="3\'")']),
        ("'/a, b/mine.py':C, D", ["'/a, b/mine.py':C", "D"]),
        ("a), b", ["a)", "b"]),
    ],
)
def test_a_list_is_split_at_commas_that_stand_in_nothing(text: str, parts: list[str]) -> None:
    assert split(text) == parts


@given(st.lists(st.sampled_from(["a", "b(x=1, y=[2, 3])", "c(z='q, (')", '+L2 (w="\'")'])))
def test_what_is_joined_is_split_again(parts: list[str]) -> None:
    assert split(", ".join(parts)) == parts


def test_an_entry_may_stand_twice_with_other_options_but_not_as_it_is() -> None:
    specs = ATTACKS.parse_list("PGD, PGD(steps=100), FGSM")
    assert [spec.label for spec in specs] == ["PGD", "PGD(steps=100)", "FGSM"]
    with pytest.raises(InputError, match=r"'PGD' stands twice .* allowed: each once"):
        ATTACKS.parse_list("PGD, FGSM, PGD(steps=40)")


# --- refused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Thin", "thing: 'Thin' is unknown; allowed: Thing, or file.py:Name; did you mean Thing?"),
        ("thing", "did you mean Thing?"),
        ("Thing(counts=4)", "no such option of thing Thing (value 4); allowed: count, size, kind"),
        ("Thing(counts=4)", "did you mean count?"),
        (
            "Thing(count=0)",
            "count: 0 is not allowed; allowed: greater than or equal to 1 - how many",
        ),
        ("Thing(count=10)", "count: 10 is not allowed; allowed: less than or equal to 9"),
        ("Thing(count=2.5)", "count: 2.5 is not allowed; allowed: a valid integer"),
        ("Thing(count=True)", "count: True is not allowed; allowed: a number"),
        ("Thing(count=None)", "count: None is not allowed; allowed: a valid integer"),
        ("Thing(size=0)", "size: 0 is not allowed; allowed: greater than 0"),
        ("Thing(size=nan)", "size: 'nan' is not allowed; allowed: a finite number"),
        ("Thing(size=inf)", "allowed: a finite number"),
        ("Thing(size=1e999)", "allowed: a finite number"),
        ("Thing(size=big)", "size: 'big' is not allowed; allowed: a number"),
        ("Thing(size=1/0)", "cannot be read"),
        ("Thing(size='1/0')", "size: '1/0' is not allowed; allowed: a number"),
        ("Thing(kind=oval)", "kind: 'oval' is not allowed; allowed: round, square"),
        ("Thing(flag=perhaps)", "flag: 'perhaps' is not allowed"),
        ("Thing(parts=[a])", "cannot be read"),
        ("Thing(3)", "cannot be read"),
        ("Thing(count=1, count=2)", "an option stands twice"),
        ("Thing(count=1", "cannot be read"),
        ("Thing count=1)", "cannot be read"),
        ("Thing(*[1])", "only option=value"),
        ("Thing(**{})", "only option=value"),
        ("Thing(given=3)", "no such option"),
        ("Thing(count)", "cannot be read"),
        ("Thing(count:=1)", "cannot be read"),
        ("Thing(lambda: 0)", "cannot be read"),
        ("", "'' is unknown"),
        (":", "cannot be read"),
        ("a:b", "cannot be read"),
        (3, "3 is not allowed; allowed: a name"),
        (None, "None is not allowed; allowed: a name"),
        (["Thing"], "['Thing'] is not allowed"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(
    things: Registry, text: object, says: str
) -> None:
    message = refused(things, text)
    assert says in message and "allowed: " in message


@pytest.mark.parametrize(
    "value",
    [
        "__import__('os').system('touch EVIL')",
        "open('EVIL', 'w')",
        "[open('EVIL', 'w')]",
        "(lambda: open('EVIL', 'w'))()",
        "[x for x in [open('EVIL', 'w')]]",
        "f\"{open('EVIL', 'w')}\"",
        "().__class__",
        "2**10**10",
        "'a' * 10**9",
        "-" * 5000 + "1",
        "[" * 5000 + "]" * 5000,
        "(" * 300 + "1" + ")" * 300,
        "9" * 5000,
        "'" + "x" * 100_000 + "'",
    ],
    ids=range(14),
)
@pytest.mark.parametrize("option", ["count", "parts"])
def test_nothing_is_evaluated(
    things: Registry,
    value: str,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(things, f"Thing({option}={value})")
    assert not list(tmp_path.iterdir())


def test_a_division_is_of_two_numbers_and_of_nothing_else(things: Registry) -> None:
    for value in ("'a'/2", "1/x", "1/[2]", "open('EVIL')/1", "1/2/3"):
        refused(things, f"Thing(size={value})")


# --- registering


def test_an_entry_says_what_it_is(things: Registry) -> None:
    entry = things["Thing"]
    assert (entry.kind, entry.summary, entry.source) == (
        "thing",
        "A thing for tests.",
        "Somebody 2024",
    )
    assert entry.described() == ("count=3, size=0.5, kind=round, flag=False, name='', parts=[1, 2]")
    table = things.explained("Thing")
    assert table.loc["count"].tolist() == ["3", "whole number, >= 1, <= 9", "how many"]
    assert table.loc["size", "allowed"] == "number, > 0"
    assert table.loc["kind", "allowed"] == "round, square"


def test_a_registry_shows_as_a_table(things: Registry) -> None:
    assert things.table().loc["Thing", "what"] == "A thing for tests."
    assert "Thing" in repr(things) and "Somebody 2024" in repr(things)
    assert "<table" in things._repr_html_() and "Thing" in things._repr_html_()


@pytest.mark.parametrize("name", REGISTRIES)
def test_csnbs_registries_show_each_entry_with_a_line_and_a_source(name: str) -> None:
    table = REGISTRIES[name].table()
    assert list(table.columns) == ["options", "what", "source"] and table.index.name == name
    own = [e.name for e in REGISTRIES[name].values() if not e.file]
    assert own and (table.loc[own, ["what", "source"]] != "").all(axis=None)
    for entry in own:
        assert (REGISTRIES[name].explained(entry)["meaning"] != "").all()


def test_csnbs_own_entries_need_no_digest() -> None:
    for registry in REGISTRIES.values():
        for entry in registry.values():
            assert entry.file or entry.digest == ""


OWN = """
import csnb

@csnb.attack
def Shift(target, x, y, *, by: float = 0.1):
    \"\"\"Adds to every pixel.\"\"\"
    return x + by

@csnb.attack("Other name")
def other(target, x, y):
    return x
"""


def test_a_file_of_ones_own_brings_an_entry(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    spec = ATTACKS.parse(f"{file}:Shift(by=2)")
    assert spec(None, 1, 0) == 3
    assert str(spec) == f"{file}:Shift(by=2)" and spec.label == "Shift(by=2)"
    assert spec.identity == "mine.py:Shift(by=2)"
    assert ATTACKS.parse(str(spec)) == spec
    assert ATTACKS.parse(f"{file}:Other name").name == "Other name"


def test_a_file_is_found_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert str(ATTACKS.parse("mine.py:Shift")) == f"{tmp_path / 'mine.py'}:Shift"


@pytest.mark.parametrize("folder", ["a, b", "a (b", "it's", "[x]", 'say "hi"', "é ü"])
def test_a_file_may_lie_in_any_folder(folder: str, tmp_path: Path) -> None:
    file = tmp_path / folder / "mine.py"
    file.parent.mkdir()
    file.write_text(OWN)
    found = load_file(str(file))
    spec = ATTACKS.parse(f'"{file}":Shift(by=2)' if '"' not in folder else f"'{file}':Shift(by=2)")
    assert spec.entry.make is found.Shift
    first, second = ATTACKS.parse_list(f"{spec}, PGD")
    assert first == spec and second.name == "PGD"
    assert spec.identity == "mine.py:Shift(by=2)"


def test_two_files_may_use_one_name(tmp_path: Path) -> None:
    for folder, by in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(OWN.replace("0.1", str(by)))
    a, b = (ATTACKS.parse(f"{tmp_path / folder / 'mine.py'}:Shift") for folder in "ab")
    assert (a(None, 0, 0), b(None, 0, 0)) == (1, 2) and a.entry.digest != b.entry.digest
    assert ATTACKS.parse(str(a)) == a and ATTACKS.parse(str(b)) == b


def test_an_edited_file_is_loaded_again_and_has_another_digest(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    before = ATTACKS.parse(f"{file}:Shift")
    file.write_text(OWN.replace("0.1", "0.2"))
    after = ATTACKS.parse(f"{file}:Shift")
    assert (before(None, 0, 0), after(None, 0, 0)) == (0.1, 0.2)
    assert before.entry.digest != after.entry.digest


def test_a_digest_is_of_the_code_that_was_loaded_and_not_of_what_lies_there_later(
    tmp_path: Path,
) -> None:
    file, same = tmp_path / "mine.py", tmp_path / "same.py"
    file.write_text(OWN)
    same.write_text(OWN)
    spec = ATTACKS.parse(f"{file}:Shift")
    file.write_text("")
    assert spec.entry.digest == ATTACKS.parse(f"{same}:Shift").entry.digest


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("", "has no attack 'Shift'; allowed: none (decorated with csnb.attack)"),
        ("def Shift(target, x, y): ...", "has no attack 'Shift'"),
        (OWN.replace("Shift", "Shifts"), "did you mean Shifts?"),
        (OWN.replace("csnb.attack", "csnb.method"), "has no attack 'Shift'"),
        ("1 +", "fails when it is loaded (SyntaxError"),
        ("1 / 0", "fails when it is loaded (ZeroDivisionError: division by zero)"),
        ("raise RuntimeError('a\\nb' * 200)", "fails when it is loaded (RuntimeError: a"),
        ("import csnb\n@csnb.attack\ndef PGD(target, x, y): ...", "'PGD' is taken by csnb"),
        ("\0", "fails when it is loaded"),
    ],
)
def test_a_file_that_brings_nothing_is_refused(
    content: str | None, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    assert says in refused(ATTACKS, f"{file}:Shift")
    assert "Shift" not in ATTACKS or Path(ATTACKS["Shift"].file) != file


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_name_of_csnbs_cannot_be_taken(kind: str) -> None:
    registry = REGISTRIES[kind]
    name = next(iter(registry))
    before = registry[name]
    with pytest.raises(InputError, match=re.escape(f"{kind}: {name!r} is taken by csnb")):
        registry.register(name)(lambda *arguments: None)
    assert registry[name] is before


def test_what_a_notebook_defines_has_no_file_and_may_be_defined_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry("thing")

    def mine(x: int, *, by: int = 1) -> int:
        return x + by

    mine.__module__ = "__main__"
    for _ in range(2):
        registry.register(mine)
    spec = registry.parse("mine(by=2)")
    assert str(spec) == spec.identity == "mine(by=2)" and spec(1) == 3
    assert len(spec.entry.digest) == 16  # of the function's source
    assert isinstance(spec, Spec)


def test_a_file_that_was_imported_is_not_executed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_once.py").write_text(
        f"import pathlib\n{OWN}\npathlib.Path('ran').touch(exist_ok=False)"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import only_once

    spec = ATTACKS.parse("only_once.py:Shift")
    assert spec.entry.make is only_once.Shift
    assert ATTACKS.parse("Shift") == spec and str(spec).startswith(f"{tmp_path}/only_once.py:")


def test_an_entry_may_come_from_a_file_that_the_file_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deeper.py").write_text(OWN)
    (tmp_path / "mine.py").write_text("from deeper import Shift\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(ATTACKS.parse(f"{tmp_path}/mine.py:Shift")) == f"{tmp_path}/deeper.py:Shift"
