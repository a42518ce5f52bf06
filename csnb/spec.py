"""Attacks, methods, models and data sets by name and options: ``"PGD(steps=100, restarts=5)"``.

A registry entry is one decorated function. What stands after ``*`` in its signature are its
options: their types, ranges and meanings (pydantic's ``Field`` in ``Annotated``), their defaults.
The decorator may stand in anybody's file: ``"mine.py:MyAttack(steps=3)"`` loads that file. Specs
hold literals, which are parsed and never evaluated.
"""

import ast
import hashlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic.fields import FieldInfo

from csnb.errors import InputError, choices, one_line, shown

LARGEST = float(np.finfo(np.float32).max)  # networks and images are float32
MOST_CLASSES = 5_000  # their cost matrix fills 0.2 GB
HERE = "__main__"  # stands for the file of what was defined in a notebook
PATTERN = re.compile(  # file.py:Name(options)
    r"""\s*(?:('.+\.py'|".+\.py"|[^'"].*\.py):)?([^():=]*?)\s*(?:\((.*)\))?\s*""", re.DOTALL
)


def number(value: object, info: ValidationInfo) -> object:
    """YAML and the shell pass 1e-3 and 8/255 as strings: take them as the numbers they are.

    Not so the arguments of Python's functions (see `checker`): text is none there.
    """
    if isinstance(value, bool) or (isinstance(value, str) and info.context is PYTHON):
        raise ValueError("Input should be a number")
    if isinstance(value, str):
        try:
            top, slash, bottom = value.partition("/")
            value = _whole_or_real(top) / _whole_or_real(bottom) if slash else _whole_or_real(top)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError("Input should be a number") from None
    if isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        raise ValueError("Input should be a number that float32 holds, up to 3.4e38")
    return value


def _whole_or_real(text: str) -> int | float:
    """A number's text; a whole one to its last digit."""
    return int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text)


def _countable(value: int) -> int:
    if abs(value) >= 2**63:
        raise ValueError("Input should be a whole number below 2**63")
    return value


PYTHON = {"arguments": "of Python's functions"}  # the context in which text is no number
Real = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(number), AfterValidator(_countable)]
Seed = Annotated[Count, Field(ge=0, lt=2**63, description="of weights, data order and attacks")]


def plain(value: object) -> object:
    """A number of numpy's is the number that it is."""
    return value.item() if isinstance(value, np.generic) else value


def checker(**kinds: Any) -> Callable[..., dict[str, Any]]:
    """A check of arguments by kind, such as ``lr=LearningRate``, in the words of parameters.

    It takes the values by name and returns them as they are to be used. Raises InputError.
    """
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    options = {name: (kind, ...) for name, kind in kinds.items()}
    schema = create_model("arguments", __config__=config, **options)

    def check(**values: Any) -> dict[str, Any]:
        given = {name: plain(value) for name, value in values.items()}
        try:
            made = schema.model_validate(given, context=PYTHON)
        except ValidationError as error:
            raise InputError(explain(error, given, schema.model_fields, "argument")) from None
        return {name: getattr(made, name) for name in kinds}

    return check


def check_names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Names of classes as they are to be used. Raises InputError; ``what``: such as "classes"."""
    several = isinstance(names, Iterable) and not isinstance(names, str | bytes)
    found = tuple(names) if several else None
    if found is not None and not 0 < len(found) <= MOST_CLASSES:
        raise InputError(
            f"{what}: {len(found)} classes are not allowed; allowed: 1 to {MOST_CLASSES}"
        )
    texts = {name for name in found or () if isinstance(name, str)}
    if not found or len(texts) < len(found):
        raise InputError(
            f"{what}: {shown(names)} is not allowed; allowed: names of classes, as text, each once"
        )
    return found


def explain(
    error: ValidationError, values: Mapping[str, Any], fields: Mapping[str, FieldInfo], what: str
) -> str:
    """A pydantic error in one line.

    The parameter, its value, what is allowed. ``what``: such as "parameter".
    """
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else what
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # of a spec: it says all
        return f"{name}: {str(cause).removeprefix(f'{name}: ').removeprefix('attack: ')}"
    if first["type"] == "extra_forbidden":
        return f"{name}: no such {what} (value {shown(values[name])}); {choices(name, fields)}"
    rule = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"].startswith("bool_"):
        rule = "True or False"
    if first["type"] == "literal_error" and get_origin(fields[name].annotation) is Literal:
        names = map(str, get_args(fields[name].annotation))
        rule = choices(str(values[name]), names).removeprefix("allowed: ")
    meaning = fields[name].description if name in fields else None
    return f"{name}: {shown(values.get(name))} is not allowed; allowed: {rule}" + (
        f" - {meaning}" if meaning else ""
    )


@dataclass(frozen=True)
class Entry:
    """One attack, method, model or data set: a function and what is known of it.

    ``kind``: such as "attack". ``make``: the function. ``source``: where it is published. ``file``:
    of a function that is not csnb's own, else empty. ``loaded``: digest of that file as it was
    loaded.
    """

    kind: str
    name: str
    make: Callable[..., Any]
    source: str = ""
    file: str = ""
    loaded: str = ""

    @cached_property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.make) or "").split("\n", 1)[0]

    @cached_property
    def schema(self) -> type[BaseModel]:
        """The options as a pydantic model: keyword-only parameters of the function."""
        options = {
            name: (
                p.annotation if p.annotation is not p.empty else Any,
                p.default if p.default is not p.empty else ...,
            )
            for name, p in inspect.signature(self.make, eval_str=True).parameters.items()
            if p.kind is p.KEYWORD_ONLY
        }
        return create_model(
            self.name,
            __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True),
            **options,
        )

    @property
    def options(self) -> dict[str, FieldInfo]:
        """The options by name: type, range, default, meaning."""
        return dict(self.schema.model_fields)

    @cached_property
    def digest(self) -> str:
        """Of the source of a function that is not csnb's own; csnb's is covered by `NUMERICS`."""
        if not self.file or self.loaded:
            return self.loaded
        try:
            return source_digest(inspect.getsource(self.make).encode())
        except (OSError, TypeError):
            raise InputError(
                f"{self.kind}: {self.name!r} has no source to tell its runs from others by; "
                "allowed: a function of a notebook or a file"
            ) from None

    def described(self) -> str:
        """The options as a signature, such as ``steps=40, step_size=0.01``."""
        return ", ".join(
            f"{name}={_literal(field.default)}" for name, field in self.options.items()
        )


@dataclass(frozen=True)
class Spec:
    """An entry with values for all of its options.

    ``str()`` is the shortest text that means the same. ``assumed``: what is taken instead of an
    option's default where this is read (see `Registry.parse`): the text holds in both senses.
    """

    entry: Entry
    options: dict[str, Any]
    assumed: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """The entry's name, without options."""
        return self.entry.name

    @cached_property
    def label(self) -> str:
        """Name and the options that differ from their defaults, in the order of the signature."""
        fields = self.entry.options
        given = [
            f"{name}={_literal(v)}"
            for name, v in self.options.items()
            if v != fields[name].default or v != self.assumed.get(name, v)
        ]
        return self.entry.name + (f"({', '.join(given)})" if given else "")

    @property
    def identity(self) -> str:
        """What it is, wherever its file lies."""
        return f"{Path(self._file).name}:{self.label}" if self._file else self.label

    @property
    def _file(self) -> str:
        """The file that has to be named: none for csnb's own, nor for a notebook's."""
        return "" if self.entry.file == HERE else self.entry.file

    def __str__(self) -> str:
        return f"{quoted(self._file)}:{self.label}" if self._file else self.label

    def __hash__(self) -> int:
        return hash(self.entry.name)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function with these positional arguments and the options."""
        return self.entry.make(*arguments, **self.options)


class Registry(Mapping[str, Entry]):
    """The entries of one kind by name; shows as a table."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._made: list[Entry] = []  # all of them: two files may use one name
        self._parsed: dict[tuple[Any, ...], Spec] = {}  # of csnb's own: a sweep asks 10,000 times
        # what makes an entry of another library's name, or of a value of somebody's file; or None
        self.elsewhere: Callable[[str], Callable[..., Any] | None] = lambda name: None
        self.adopt: Callable[[object], Callable[..., Any] | None] = lambda value: None
        self.also = "file.py:Name"

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(
        self,
        name: Callable[..., Any] | str | None = None,
        *,
        source: str = "",
    ) -> Callable[..., Any]:
        """The decorator.

        ``@attack`` or ``@attack("PGD", source="Madry et al. 2018")``. Raises InputError for a taken
        name.
        """
        if callable(name):
            return self.register()(name)

        def add(make: Callable[..., Any]) -> Callable[..., Any]:
            own = make.__module__.partition(".")[0] == __package__
            here = make.__module__ == "__main__"  # a notebook: each cell is a file of its own
            file = "" if own else HERE if here else inspect.getsourcefile(make) or HERE
            loaded = _loaded_digest(make.__module__, file)
            entry = Entry(self.kind, name or make.__name__, make, source, file, loaded)
            before = self._entries.get(entry.name)
            if before is not None and before.file != file and "" in (before.file, file):
                raise InputError(
                    f"{self.kind}: {entry.name!r} is taken by csnb; allowed: another name"
                )
            self._entries[entry.name] = entry
            self._made.append(entry)
            self._parsed.clear()
            return make

        return add

    def parse(self, text: str | Spec, **defaults: Any) -> Spec:
        """``"Name(option=value)"`` or ``"file.py:Name(...)"``.

        ``defaults``: hold, where the entry has such an option, for what the text does not say.
        Raises InputError for what is unknown or not allowed.
        """
        if isinstance(text, Spec):
            return text
        if not isinstance(text, str):
            raise InputError(
                f"{self.kind}: {shown(text)} is not allowed; "
                f"allowed: a name, such as {next(iter(self), 'Name')}"
            )
        key = (text, *defaults.items())
        spec = self._parsed.get(key) or self._parse(text, defaults)
        if not spec.entry.file:  # which may change
            self._parsed[key] = spec
        return spec

    def _parse(self, text: str, defaults: Mapping[str, Any]) -> Spec:
        match = PATTERN.fullmatch(text)
        if match is None:
            raise InputError(
                f"{self.kind}: {text!r} cannot be read; allowed: Name or Name(option=value, ...)"
            )
        file, name, options = match.groups()
        entry = self._load(_unquoted(file), name) if file else self._entries.get(name)
        made = None if entry or not name else self.elsewhere(name)
        if made is not None:
            entry = Entry(self.kind, name, made)
        if entry is None:
            raise InputError(f"{self.kind}: {name!r} is unknown; {choices(name, self, self.also)}")
        own = {name: value for name, value in defaults.items() if name in entry.options}
        return self._make(entry, own | _options(text, options or ""), own)

    def _make(
        self, entry: Entry, options: Mapping[str, Any], assumed: Mapping[str, Any] | None = None
    ) -> Spec:
        """The spec of an entry with these options. Raises InputError."""
        try:
            checked = entry.schema(**options)
        except ValidationError as error:
            what = f"option of {self.kind} {entry.name}"
            raise InputError(explain(error, options, entry.options, what)) from None
        return Spec(
            entry, {name: getattr(checked, name) for name in entry.options}, {**(assumed or {})}
        )

    def parse_list(self, text: str | Iterable[str | Spec]) -> list[Spec]:
        """Specs separated by commas, or in a list; each once. Raises InputError."""
        if not isinstance(text, str | list | tuple):
            raise InputError(
                f"{self.kind}: {shown(text)} is not allowed; allowed: names separated by commas"
            )
        specs = [self.parse(part) for part in (split(text) if isinstance(text, str) else text)]
        labels = [spec.label for spec in specs]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice:
            raise InputError(
                f"{self.kind}: {twice!r} stands twice in {shown(text)}; allowed: each once"
            )
        return specs

    def table(self) -> pd.DataFrame:
        """A row per entry: its options with defaults, what it is, where it is published."""
        rows = {
            e.name: {"options": e.described(), "what": e.summary, "source": e.source}
            for e in self.values()
        }
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["options", "what", "source"]
        ).rename_axis(self.kind)

    def explained(self, name: str) -> pd.DataFrame:
        """The options of an entry: default, type, range, meaning."""
        fields = self.parse(name).entry.options
        rows = {
            option: {
                "default": _literal(f.default),
                "allowed": _allowed(f),
                "meaning": f.description or "",
            }
            for option, f in fields.items()
        }
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["default", "allowed", "meaning"]
        )

    def __repr__(self) -> str:
        with pd.option_context("display.max_colwidth", 60, "display.width", 200):
            return self.table().to_string()

    def _repr_html_(self) -> str:
        return self.table().to_html()

    def _load(self, file: str, name: str) -> Entry:
        """An entry out of somebody's own file."""
        path, content = _read(file)
        known = (name, str(path), source_digest(content))  # imported, or loaded before
        for entry in reversed(self._made):
            if (entry.name, entry.file, entry.loaded) == known:
                return entry
        held = vars(load_file(file))
        own = {e.name: e for e in self._made if any(e.make is value for value in held.values())}
        adopted = None if name in own else self.adopt(held.get(name))
        if adopted is not None:
            own[name] = Entry(self.kind, name, adopted, "", known[1], known[2])
            self._made.append(own[name])
        if name not in own:
            others = [n for n, value in held.items() if n not in own and self.adopt(value)]
            raise InputError(
                f"{self.kind}: {file} has no {self.kind} {name!r}; "
                f"{choices(name, sorted([*own, *others]))} (decorated with csnb.{self.kind})"
            )
        return own[name]


def load_file(file: str) -> Any:
    """A Python file as a module, executed once for each content. Raises InputError."""
    path, content = _read(file)
    name = f"{path.stem}_{hashlib.sha256(str(path).encode() + content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = sys.modules[name] = ModuleType(name)
    module.__file__, module.__loaded__ = str(path), source_digest(content)
    try:
        exec(compile(content, str(path), "exec"), vars(module))  # what was read, and nothing newer
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file}: fails when it is loaded ({type(error).__name__}: {one_line(error)}); "
            "allowed: a file that Python runs"
        ) from None
    return module


def _read(file: str) -> tuple[Path, bytes]:
    """Where a Python file lies, and what it holds. Raises InputError."""
    try:
        path = Path(file).expanduser().resolve()
        if path.exists() and not path.is_file():  # a pipe or a device has no end
            raise OSError("not a file")
        return path, path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: \0; RuntimeError: no home
        raise InputError(
            f"{file}: cannot be read ({one_line(error)}); allowed: a Python file"
        ) from None


def source_digest(content: bytes) -> str:
    """Of a Python file's content."""
    return hashlib.sha256(content).hexdigest()[:16]


def _loaded_digest(module: str, file: str) -> str:
    """Of a module's file as `load_file` executed it, else as it is now; empty without a file."""
    known = getattr(sys.modules.get(module), "__loaded__", "")
    path = Path(file)
    return known or (source_digest(path.read_bytes()) if file and path.is_file() else "")


def quoted(file: str) -> str:
    """A file's path as a spec has it: in quotes where it holds what separates specs."""
    return repr(file) if re.search(r"[,()\[\]{}'\"]", file) else file


def _unquoted(file: str) -> str:
    return ast.literal_eval(file) if file[0] in "'\"" else file


def split(text: str) -> list[str]:
    """The parts of ``text`` between commas that stand in no parentheses, brackets or quotes,
    without blanks around them.
    """
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        depth += (char in "([{") - (char in ")]}") if not quote else 0
        if char == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _options(text: str, options: str) -> dict[str, Any]:
    """``"steps=100, eps=8/255, kind=minmax"`` as a mapping.

    Numbers, strings (quoted or not), True, False, None, lists.
    """
    try:
        call = ast.parse(f"f({options})", mode="eval").body
        if (
            not isinstance(call, ast.Call)
            or call.args
            or any(word.arg is None for word in call.keywords)
        ):
            raise ValueError("only option=value")
        names = [word.arg for word in call.keywords]
        if len(set(names)) < len(names):
            raise ValueError("an option stands twice")
        return {word.arg: _value(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else one_line(error)
        raise InputError(
            f"{text!r} cannot be read ({reason}); allowed: Name(option=value, ...), values literal"
        ) from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        try:
            return ast.literal_eval(node.left) / ast.literal_eval(node.right)
        except (TypeError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(str(error)) from None
    return ast.literal_eval(node)


def _literal(value: Any) -> str:
    """A value as a spec has it: words without quotes."""
    if isinstance(value, str):
        bare = value.isascii() and value.isidentifier() and not iskeyword(value)
        return value if bare and value not in ("true", "false") else repr(value)
    return (
        f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else repr(value)
    )


def _allowed(field: FieldInfo) -> str:
    """Type and range of an option in words."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{signs[n]} {getattr(m, n)}"
        for m in field.metadata
        for n in signs
        if getattr(m, n, None) is not None
    ]
    name = getattr(field.annotation, "__name__", str(field.annotation))
    return ", ".join([{"int": "whole number", "float": "number"}.get(name, name), *limits])


ATTACKS, METHODS = Registry("attack"), Registry("method")
MODELS, DATASETS = Registry("model"), Registry("dataset")
attack, method, model, dataset = (r.register for r in (ATTACKS, METHODS, MODELS, DATASETS))
