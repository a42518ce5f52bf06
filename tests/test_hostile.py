"""Whatever comes in by whatever way: a right result, or one line that says what is allowed.

One table for all of them. A row is a way in, what comes, and what the one line must say - or
`RIGHT`, where it is to be taken as it is. Nothing may be left behind, fetched or hang.
"""

import decimal
import json
import math
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from making import QUICK, STRIPES, contents, examples, images, lenet, linear, stripes

import csnb
from csnb import Experiment, InputError, Recipe, Run, ThreatModel
from csnb.__main__ import main
from csnb.params import read_params
from csnb.runs import status
from csnb.spec import LARGEST

RIGHT = None  # instead of what the one line must say
LONG = "x" * 300
GIGABYTE = 2**20  # in the kilobytes of ru_maxrss


# --- ways in


def files(here: Path) -> dict[str, tuple[bytes, int]]:
    """Everything below a folder, with when it was written."""
    paths = {str(p.relative_to(here)): p for p in sorted(here.rglob("*")) if p.is_dir()}
    found = contents(here) | dict.fromkeys(paths, b"a folder")
    return {name: (content, (here / name).stat().st_mtime_ns) for name, content in found.items()}


def walk(folder: Path) -> list[Path]:
    return [folder, *sorted(folder.rglob("*"))]


def names(here: Path) -> set[str]:
    """Of everything below a folder."""
    return {str(path.relative_to(here)) for path in here.rglob("*")}


def one_line(message: str) -> None:
    """Of what is refused: it prints, it is short, it says what is allowed."""
    assert message.isprintable() and 10 < len(message) < 300, message
    says = ("allowed", "needed: ", "needs", "must name", "put a copy")
    assert any(word in message for word in says), message


def experiment(here: Path, **parameters: Any) -> Experiment:
    return Experiment(**parameters)


def identity(here: Path, **parameters: Any) -> object:
    given = {"dataset": str(here / "stripes.npz"), "runs": str(here / "runs")}
    return Experiment(**given | parameters).identity()


def run(here: Path, **parameters: Any) -> Run:
    given = {"dataset": str(here / "stripes.npz"), "runs": str(here / "runs")}
    return Run(Experiment(**QUICK | given | parameters))


def papermill(here: Path, **namespace: Any) -> Experiment:
    return Experiment.from_namespace({"__name__": "__main__", "In": []} | namespace)


def params(here: Path, text: str | bytes) -> Experiment:
    """A params file with this text, as a notebook reads it."""
    (here / "own.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return Experiment.from_namespace({"params": "own.yaml"})


def sweep_file(here: Path, **entries: Any) -> object:
    """A plan of a sweep file with these entries beside its notebook."""
    content = {"notebook": "quick.ipynb", "params": "base.yaml", "grid": {"seed": [0]}} | entries
    return sweep_text(here, yaml.safe_dump(content))


def sweep_text(here: Path, text: str) -> object:
    (here / "sweep.yaml").write_text(text)
    return csnb.sweep("sweep.yaml", runs=here / "runs", dry_run=True)


def sweep(here: Path, **arguments: Any) -> object:
    sweep_file(here)
    return csnb.sweep(**{"file": "sweep.yaml", "runs": "runs", "dry_run": True} | arguments)


def shell(here: Path, *words: str) -> int:
    """The command line; what it refuses comes back as it does elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(sys.stderr, "write", said.append)
        code = main(list(words))
    text = "".join(said)
    if code == 2:
        assert text.startswith("csnb: ") and text.count("\n") == 1 and text[-1] == "\n"
        raise InputError(text[6:-1])
    assert not text and code in (0, 1)
    return code


def swept(here: Path, *words: str) -> int:
    sweep_file(here)
    return shell(here, "sweep", "sweep.yaml", "--runs", "runs", "--dry-run", *words)


def threat(here: Path, eps: Any = 0.3, **changes: Any) -> ThreatModel:
    return ThreatModel(eps, **changes)


def recipe(here: Path, **changes: Any) -> Recipe:
    return Recipe(**changes)


def perturb(here: Path, **changes: Any) -> torch.Tensor:
    x, y = images(4)
    given = {"model": lenet(), "x": x, "y": y, "attack": "FGSM", "threat": ThreatModel(0.3)}
    found = csnb.perturb(**given | changes)
    assert not found.requires_grad and found.isfinite().all()
    return found


def evaluate(here: Path, **changes: Any) -> object:
    x, y = images(4)
    given = {"model": lenet(), "x": x, "y": y, "attacks": "FGSM", "threat": ThreatModel(0.3)}
    return csnb.evaluate(**given | changes)


def fit(here: Path, **changes: Any) -> object:
    x, y = images(4)
    given = {"model": lenet(), "x": x, "y": y, "method": "STD", "costs": csnb.protect(4, 0)}
    given |= {"recipe": Recipe(epochs=1), "threat": ThreatModel(0.3), "seed": 0}
    return csnb.fit(**given | changes)


def worst(here: Path, **changes: Any) -> np.ndarray:
    x, y = images(4)
    given = {"model": lenet(), "x": x, "y": y, "protected": [0], "threat": ThreatModel(0.3)}
    return csnb.worst_margins(**given | {"attack": "FGSM"} | changes)


def certified(here: Path, **changes: Any) -> np.ndarray:
    x, y = images(4)
    given = {"model": lenet(), "x": x, "y": y, "protected": [0], "threat": ThreatModel(0.3)}
    return csnb.certified_margins(**given | changes)


def score(here: Path, **changes: Any) -> object:
    given = {"classes": tuple("abcd"), "protected": [0], "costs": csnb.protect(4, 0)}
    return csnb.score(evaluate(here), **given | changes)


def curve(here: Path, **changes: Any) -> object:
    given = {"margins": np.linspace(-1, 1, 8), "own": np.arange(8) % 2 > 0}
    return csnb.protection(**given | changes)


def audit(here: Path, **changes: Any) -> object:
    given = {"model": lenet(), "data": images(8), "threat": ThreatModel(0.1, space="pixel")}
    return csnb.audit(**given | {"protected": 0, "images": 4} | changes)


def build(here: Path, **changes: Any) -> object:
    return csnb.build_model(**{"model": "lenet", "data": csnb.load_dataset("digits")} | changes)


def read(here: Path, name: str, *arguments: Any) -> object:
    return getattr(csnb, name)(*arguments)


def margins_of(here: Path, **changes: Any) -> object:
    """Of a finished run, in whose folder nothing is left where they are refused."""
    try:
        return csnb.read_margins(finished(), attack="FGSM", **changes)
    finally:
        kept = [path.name for path in finished().glob("margins-*")]
        for name in kept:
            (finished() / name).unlink()
        assert not kept or changes["protected"] in RIGHT_CLASSES, kept


def write_costs(here: Path, **changes: Any) -> object:
    given = {"file": "costs.csv", "costs": csnb.protect(3, 0), "names": STRIPES}
    return csnb.costs.write_costs(**given | changes)


def npz(here: Path, **arrays: Any) -> object:
    """A data set of three classes with other arrays; None takes one away."""
    stripes(here / "whole.npz", train=12, test=6)
    with np.load(here / "whole.npz") as whole:
        kept = {k: v for k, v in (dict(whole) | arrays).items() if v is not None}
    np.savez(here / "stripes.npz", **kept)
    return csnb.load_dataset("stripes.npz")


def labelled(here: Path, **arrays: Any) -> Run:
    """A run, protecting the first class, on such a data set."""
    npz(here, **arrays)
    return run(here)


def file(here: Path, content: bytes) -> object:
    (here / "stripes.npz").write_bytes(content)
    return csnb.load_dataset("stripes.npz")


def load(here: Path, *arguments: Any) -> object:
    return csnb.load_dataset(*arguments)


def csv(here: Path, text: str | bytes, classes: tuple[str, ...] = STRIPES) -> np.ndarray:
    (here / "costs.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return csnb.read_costs("costs.csv", classes)


def costs(here: Path, name: Any) -> np.ndarray:
    return csnb.read_costs(name, STRIPES)


def protect(here: Path, *arguments: Any) -> np.ndarray:
    found = csnb.protect(*arguments)
    assert np.isfinite(found).all()
    return found


def pairs(here: Path, *arguments: Any, **default: Any) -> np.ndarray:
    return csnb.costs_from_pairs(*arguments, **default)


def folder(here: Path, harm: Callable[[Path], object]) -> object:
    """A finished run, harmed, and everybody who reads it."""
    place = shutil.copytree(finished(), here / "runs" / finished().name)
    harm(place)
    before = files(here)
    frame = status(here / "runs")
    assert len(frame) <= 1 and not set(frame["state"]) & {"done", "running"}
    assert shell(here, "status", "runs") in (0, 1)
    try:
        csnb.load_model(place)
    except InputError as error:
        assert str(error).isprintable()
    else:
        raise AssertionError("a harmed run is believed")
    assert files(here) == before
    return csnb.read_run(place)


def source(here: Path, text: str, **parameters: Any) -> object:
    (here / "mine.py").write_text(text)
    return run(here, **parameters)


def call(way: str, here: Path, arguments: dict | tuple) -> object:
    """Bring it in; what takes memory is made at the last moment."""
    if isinstance(arguments, dict):
        return WAYS[way](here, **arguments)
    return WAYS[way](here, *(bomb() if value is bomb else value for value in arguments))


WAYS = {way.__name__: way for way in (
    experiment, identity, run, papermill, params, sweep_file, sweep_text, sweep, shell, swept,
    threat, recipe, perturb, evaluate, fit, npz, labelled, file, load, csv, costs, protect, pairs,
    folder, source, worst, certified, score, curve, audit, build, read, margins_of, write_costs,
)}  # fmt: skip


# --- what comes


def cases(way: str, name: str, *values: Any, says: str | None = "{}: ") -> list[tuple]:
    """The same for each value of one argument, which the line names first."""
    return [(way, {name: value}, says and says.format(name)) for value in values]


NO_NUMBER = (
    1e308, 1e39, -1e39, math.nan, math.inf, -math.inf, 10**400, 10**5000, -(10**5000), True, None,
    1j, [0.3], {}, (1, 2), b"\xff", object(), date(2024, 1, 1), decimal.Decimal("NaN"),
    np.arange(2),
    np.complex64(1), np.float64("nan"), np.float32("inf"), np.bool_(True), torch.ones(2), len,
)  # fmt: skip
NO_TEXT = (
    "1e39", "nan", "inf", "-Infinity", "1e400", "8/0", "0/0", "1/2/3", "/", "8/", "/8", "0x1F", "",
    " ", "1 000", "0,3", "1+2j", "9" * 5000, f"1/{'9' * 5000}", "1e" + "9" * 40, "\0", "0.3\x1b[2J",
    "ten", "8/1e-400", f"{'9' * 400}/1", "True",
)  # fmt: skip
NO_COUNT = (
    10**30, 2**63, -1, 2.5, 1e300, math.nan, -math.inf, "2.5", "1e30", "-1", "3/2", "many", None,
    True, [3], 3j, np.float64(2.5), 10**5000, b"\x00",
)  # fmt: skip
NO_CLASS = (
    1.5,
    True,
    None,
    [],
    [0, 1.5],
    [[0]],
    ["a, b", 1],
    {"a": 1},
    b"0",
    10**30,
    math.nan,
    np.float64(1),
)
NO_INDEX = (  # of some of four classes or three
    [-1], [99], [1.5], [True], [0, 10**30], ["0"], [None], [[0]], "0", "top", 1.5, True, {0}, 8,
    np.array([0.0]), math.nan,
)  # fmt: skip
RIGHT_CLASSES = ([0], 1, (2, 0, 2), [np.int64(1)])
NO_PATH = ("\0", LONG, "~nouser/x", "a" * 5000, "x/" + LONG)
DEEP = "a: " + "[" * 5000 + "]" * 5000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)
)
Y = np.arange(12) % 3  # of `npz`
PIXELS = np.linspace(0, 1, 12 * 144, dtype=np.float32).reshape(12, 12, 12)
GOOD = ",top,middle,bottom\ntop,0,1,2\nmiddle,1,0,1\nbottom,1,1,0\n"
MODEL = """
import csnb, torch
@csnb.model
def mine(image_shape, classes, *, logits: int = 1):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, logits))
"""


def header(size: int) -> bytes:
    """An .npz that says it holds more than any memory does."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size}, 12, 12), }}".ljust(117)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + text.encode() + b"\n"


def bomb() -> bytes:
    path = Path("bomb.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{key}.npy", header(10**12))
    content = path.read_bytes()
    path.unlink()
    return content


def edited(**changes: Any) -> Callable[[Path], None]:
    """Harm: result.json says something else, and its digest is right."""

    def harm(place: Path) -> None:
        from csnb.runs.folder import write_result

        result = json.loads((place / "result.json").read_text())
        write_result(place, {k: v for k, v in (result | changes).items() if v is not ...})

    return harm


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda place: (place / name).write_bytes(content)


def instead(name: str) -> Callable[[Path], None]:
    """Harm: a folder where a file was."""

    def harm(place: Path) -> None:
        (place / name).unlink()
        (place / name).mkdir()

    return harm


TABLE: list[tuple[str, dict | tuple, str | None]] = [
    # Python: parameters
    *cases("experiment", "eps", *NO_NUMBER, *NO_TEXT),
    *cases("experiment", "lr", 1e39, 0, -0.0, "1e39", math.nan, 10**5000),
    *cases("experiment", "momentum", 1, 1.0, "1", -1e-9, 1e308),
    *cases("experiment", "miss_cost", 1e39, -1, "1e39", 1e308, math.inf),
    *cases("experiment", "batch_size", 0, *NO_COUNT),
    *cases("experiment", "epochs", 0, 100_001, "0", 10**30),
    *cases("experiment", "threads", 10**9, -1, 1025, "1e9"),
    *cases("experiment", "seed", -1, 2**63, 10**30, "18446744073709551616"),
    *cases("experiment", "monitor_images", 0, 10**30),
    *cases("experiment", "halve_every", -1, 10**30),
    *cases("experiment", "norm", "Linf", "inf", math.inf, "", None, 2, ["linf"], says="linf, l2"),
    *cases("experiment", "space", "pixels", says="did you mean pixel?"),
    *cases("experiment", "bounded", "perhaps", 2, None, [], says="True or False"),
    *cases("experiment", "robust", "best", "LAST", 0),
    *cases("experiment", "protected_class", *NO_CLASS),
    *cases("experiment", "dataset", None, 3, ["digits"], Path("x") / "y"),
    *cases("experiment", "attacks", None, 3, ["FGSM"], "PGD(", "PGD(steps=0)", "PGD(steps=1e39)"),
    *cases("experiment", "attacks", "PGD(step_size=1e39)", "MIA(decay=1e39)", "PGD(steps=1+2j)"),
    *cases("experiment", "attacks", "FGSM, FGSM", "FGSM\0", LONG, "PGD(" + "[" * 5000),
    *cases("experiment", "attacks", f"PGD(step_size={'9' * 4000}/3)", "PGD(**{})", "PGD(40)"),
    *cases("experiment", "attacks", "CW(searches=1e30)", "CW(steps=-1)", "\x1b[2J", "../x.py:A"),
    *cases("experiment", "method", "CSE(gamma=1e39)", "CSE(gamma=nan)", "CSE(convs=-1)", None),
    *cases("experiment", "model", "lenet(kernels=0)", "lenet(kernels=513)", "lenet(kernels=1e30)"),
    *cases("experiment", "adversary", "", "PGD, FGSM", "/dev/zero:A", "~nouser/a.py:A", "\0.py:A"),
    ("experiment", {"protected_clas": 0}, "did you mean protected_class?"),
    ("experiment", {"eps": 5e-324}, RIGHT),
    ("experiment", {"eps": LARGEST}, RIGHT),
    *cases("experiment", "eps", "0.5/255", " 8/255 ", "1e-3", np.float16(0.5), Fraction(1, 2),
           decimal.Decimal("0.5"), np.array(0.5), "2", says=RIGHT),
    *cases("experiment", "epochs", "7", "7.0", np.uint8(7), 7.0, "010", says=RIGHT),
    ("experiment", {"seed": 2**63 - 1}, RIGHT),
    # Python: what can be known before work
    *cases("identity", "protected_class", 99, -1, "cat", "-1", "3", "", "0\0", LONG, 2**62),
    *cases("identity", "dataset", *NO_PATH, "nothing.npz", "imagenet", "", "mine.py:f", ".npz"),
    *cases("identity", "dataset", *(f"{name}.npz" for name in NO_PATH[:3]), "a:b"),
    *cases("identity", "data_root", *NO_PATH[:3], says="data_root: "),
    *cases("identity", "cost_matrix", *NO_PATH, "nothing.csv", ".", "/dev/zero", "/dev/null"),
    *cases("identity", "cost_matrix", "http://127.0.0.1:9/c.csv", "s3://a/b", "file:///etc/passwd"),
    *cases("identity", "init_from", *NO_PATH, "nowhere", "/dev/zero"),
    *cases("identity", "image_size", -1, 5000, 1.5, "x", True, 16),  # 16: no folder
    ("identity", {"dataset": "digits", "data_root": "~nouser"}, "data_root: "),
    ("identity", {"dataset": "mnist", "data_root": LONG}, "data_root: "),
    ("identity", {"protected_class": "bottom"}, RIGHT),
    ("identity", {"protected_class": np.int8(2)}, RIGHT),
    *cases("run", "runs", *NO_PATH),
    ("run", {"device": "cuda:99"}, "device: "),
    ("run", {"model": "resnet18"}, "model: "),
    ("run", {"lr": 1e38, "optimizer": "adam"}, "lr: "),
    ("run", {"attacks": "CW(step_size=1e38)"}, "attacks: "),
    # papermill -p
    *cases("papermill", "eps", 1e39, math.nan, "0,3", True, None, [1], np.arange(3), len),
    *cases("papermill", "batch_size", 10**30, "32.5", -1),
    *cases("papermill", "protected_class", 1.5, None, [0, None], {3}),
    *cases("experiment", "protected_class", [0], [0, "b"], ("a", 1), "0, 1", says=RIGHT),
    *cases("experiment", "offset", 0, 1, -0.1, "costs", True, None, math.nan, [0.1], "1e-400"),
    *cases("experiment", "offset", "cost", "", 0.05, "1e-3", np.float32(0.5), says=RIGHT),
    *cases("experiment", "validation", 0, 1, -0.1, "1", math.nan, None),
    *cases("identity", "cost_matrix", "[[0, 1], [1", "[" * 9000, "{}", [[0, 1], [1, 0]], [1], {},
           -np.ones((3, 3)), np.full((3, 3), math.nan), [[0, 1e39, 1], [1, 0, 1], [1, 1, 0]],
           says="cost"),
    *cases("identity", "cost_matrix", "[[0,1,2],[1,0,1],[1,1,0]]", 1 - np.eye(3), says=RIGHT),
    *cases("papermill", "params", ["a"], 3, None, "mnits", *NO_PATH, "/dev/zero", says=""),
    ("papermill", {"epoch": 3}, "did you mean epochs?"),
    *(("papermill", {"cost_matrx": value}, "did you mean cost_matrix?") for value in (
        np.ones((3, 3)), torch.ones(3), Path("c.csv"), Fraction(1, 2), {1}, b"3", 1j)),
    *(("papermill", {"protect_class": value}, RIGHT) for value in (
        len, Path, math, np, lenet, csnb.protect, STRIPES.__len__, ThreatModel(0.3))),
    ("papermill", {"figure": np.ones(3), "_eps": {1}, "data": np.ones(3)}, RIGHT),
    ("papermill", {"eps": "0.5/255", "batch_size": np.int64(3)}, RIGHT),
    ("papermill", {"params": "mnist", "epochs": 1}, RIGHT),
    # a params file
    *(("params", (text,), says) for text, says in (
        ("eps: 0.1\neps: 0.2", "line 2: 'eps' stands twice"),
        ("epochs: 010", "line 1: 010 is a number in base 8"),
        ("epochs: 1:30", "base 8 or 60"),
        ("eps: 1:30.5", "base 8 or 60"),
        (DEEP, "own.yaml: cannot be read"),
        ("{" * 5000, "own.yaml: cannot be read"),
        (BOMB, "a0: no such parameter"),
        (BOMB.replace("a11:", "eps:"), "eps: ["),
        ("3: a", "3 is no name"), ("null: a", "None is no name"), ("[a]: b", "cannot be read"),
        ("? {a: b}\n: c", "cannot be read"), ("[a]", "holds list"), ("", "holds NoneType"),
        ("a", "holds str"), ("3", "holds int"), ("a: [", "cannot be read"),
        (b"\xff\xfe\x00", "read"),
        ("\0", "cannot be read"), ("eps: .nan", "eps: nan"), ("eps: .inf", "eps: inf"),
        ("eps: 1e39", "eps: '1e39'"), ("eps: 1.0e+39", "eps: 1e+39"), ("eps:", "eps: None"),
        ("eps: yes", "eps: True"), ("batch_size: 1" + "0" * 30, "batch_size: "),
        ("batch_size: " + "9" * 5000, "cannot be read"), ("runs: 2024-01-01", "runs: "),
        ("seed: 2024-99-99", "cannot be read"), ("eps: !!python/object/apply:os.getcwd []", "read"),
        ("eps: !!binary ====", "eps: "), ("eps: *x", "cannot be read"),
        ("protected_class: no", "protected_class: False"), ("norm: Linf", "did you mean linf?"),
        ("eps: 0.1\n---\neps: 0.2", "cannot be read"), ("dataset: 3", "dataset: 3"),
        ("a: &a [*a]", "a: no such parameter"), ("eps: 0.1, epochs: 3", "cannot be read"),
        ("x: &x {eps: 0.1}\n<<: *x", "x: no such parameter"),
        ("eps: 0.5/255\nepochs: '010'\nbounded: yes", RIGHT),
        ("eps: 1_0.5\nseed: 0x10\nbatch_size: 1_000", RIGHT),
        ("<<: {eps: 0.1, epochs: 3}\neps: 0.2", RIGHT),
    )),
    # a sweep file
    *(("sweep_file", {"grid": grid}, says) for grid, says in (
        ({3: [0]}, "grid: "), ({None: [0]}, "grid: "), ({"seed": list(range(1000)), "epochs": list(
            range(1, 1001))}, "1000000 runs"), ({"eps": [0.1, 1e39]}, "eps: 1e+39"),
        ({"dataset": ["minst"]}, "did you mean mnist?"), ({"protected_class": [99]}, "99"),
        ({"cost_matrix": ["nowhere.csv"]}, "nowhere.csv"), ({"init_from": ["nowhere"]}, "nowhere"),
        ({"cost_matrix": ["http://127.0.0.1:9/c.csv"]}, "cost_matrix: "),
        ({"seed": []}, "leaves no"),
        ({"threads": [10**9]}, "threads: "), ({"batch_size": [10**30]}, "batch_size: "),
        ({"runs": ["x"]}, "runs: "), ({"seed": None}, "seed: None"), ({"seed": [[1]]}, "seed: [1]"),
        ({"seed": {"a": 1}}, "seed: {'a': 1}"), ({"params": ["a"]}, "cannot be read"),
        ({"params": "/dev/zero"}, "cannot be read"), ({"params": "\0"}, "params: "),
        ({"params": LONG}, "params: "), (["a"], "grid: ['a']"), (3, "grid: 3"),
        ({"threads": ["1e0"], "eps": ["0.5/255"]}, RIGHT),
    )),
    *(("sweep_file", {name: value}, says) for name, value, says in (
        ("notebook", 3, "notebook: 3"), ("notebook", None, "notebook: None"),
        ("notebook", "\0", "notebook: "), ("notebook", LONG, "notebook: "),
        ("notebook", "/dev/zero", "notebook: "), ("notebook", ".", "notebook: "),
        ("notebook", "stripes.npz", "notebook: "), ("notebook", ["a"], "notebook: "),
        ("params", ["a"], "params: ['a']"), ("params", 3, "params: 3"),
        ("params", "nowhere.yaml", "nowhere.yaml"), ("timeout", 10**30, "timeout: "),
        ("timeout", 0, "timeout: 0"), ("timeout", "1h", "timeout: '1h'"),
        ("timeout", True, "timeout: True"), ("also", {"a": 1}, "also: "), ("also", ["a"], "also: "),
        ("also", [{3: 1}], "also: "), ("grids", {}, "did you mean grid?"),
        ("also", [{"seed": list(range(60_000))}] * 2, "120001 runs"),
    )),
    ("sweep_text", ("notebook: quick.ipynb\n3: a",), "3 is no name"),
    ("sweep_text", ("notebook: quick.ipynb\nnotebook: b.ipynb",), "stands twice"),
    ("sweep_text", ("notebook: quick.ipynb\ngrid: {eps: [1], eps: [2]}",), "'eps' stands twice"),
    ("sweep_text", ("notebook: quick.ipynb\ngrid: {epochs: [010]}",), "base 8"),
    ("sweep_text", ("notebook: quick.ipynb\ngrid: {eps: " + "[" * 5000,), "cannot be read"),
    ("sweep_text", (f"{BOMB}\nnotebook: quick.ipynb\ngrid: *a11",), "grid: ["),
    *cases("sweep", "file", "nowhere.yaml", 3, None, *NO_PATH, "/dev/zero", says=""),
    *cases("sweep", "jobs", 0, -1, 2.0, True, "2", 10**5000),
    *cases("sweep", "only", "x", 3, ["seed"], {"eps": 1e39}, {"sed": 1}, {3: 1}, {"seed": 9},
    says=""),
    *cases("sweep", "runs", *NO_PATH, 3),
    # the shell
    *(("shell", words, says) for words, says in (
        ((), "required"), (("swep",), "sweep"), (("sweep",), "file"), (("sweep", "mnist_tabel2"),
         "did you mean mnist_table2?"), (("sweep", "\0"), "file: "), (("sweep", LONG), "file: "),
        (("status", "nowhere"), "nowhere"), (("status", "\0"), "runs: "),
        (("status", LONG), "runs: "),
        (("status", "~nouser"), "runs: "), (("status", "stripes.npz"), "stripes.npz"),
        (("demo",), "folder"), (("demo", "\0"), "folder: "), (("demo", LONG), "folder: "),
        (("list", "attack"), "attacks"), (("list", "attacks", "PDG"), "did you mean PGD?"),
        (("list", "models", "lenet(kernels=0)"), "kernels: 0"),
        (("list", "datasets", "\x1b[2J"), ""),
        (("list", "attacks", "PGD"), RIGHT), (("--frob",), "required"),
    )),
    *(("swept", words, says) for words, says in (
        (("--jobs", "0"), "jobs: 0"), (("--jobs", "two"), "--jobs"),
        (("--jobs", "9" * 5000), "--jobs"),
        (("--jobs", "1.5"), "--jobs"), (("--only", "eps=1e39"), "eps: '1e39'"),
        (("--only", "CSA"), "only: 'CSA'"), (("--only", "sed=1"), "did you mean seed?"),
        (("--only", "seed=9"), "fits no run"), (("--only", "\0=1"), "only: "),
        (("--frob",), "--frob"),
        (("--only", "protected_class=" + "9" * 5000), "protected_class: "),
        (("--only", "seed=0"), RIGHT), (("--jobs", "1000000000"), "jobs: "),
    )),
    # Python: functions
    *cases("threat", "eps", *NO_NUMBER, "0.3", "8/255"),
    *cases("threat", "norm", "Linf", "inf", math.inf, None, ["l2"], says="linf, l2"),
    *cases("threat", "space", "pixels", 1, says="normalized, pixel"),
    *cases("threat", "bounded", 1, "yes", None, says="True or False"),
    ("threat", {"eps": np.float32(0.5), "bounded": np.bool_(True)}, RIGHT),
    ("threat", {"eps": 1}, RIGHT),
    *cases("recipe", "lr", 0, -1, "1e-3", 1e39, math.nan, True, None),
    *cases("recipe", "epochs", 0, 2.5, 10**6, "3", True), *cases("recipe", "batch_size", 0, 10**30),
    *cases("recipe", "momentum", 1, -0.1), *cases("recipe", "halve_every", -1, None),
    *cases("recipe", "augment", "turn", "crop flip", None, 1),
    *cases("recipe", "schedule", "thirds", None), *cases("recipe", "optimizer", "rmsprop", 1),
    *cases("recipe", "adversary", 3, None),
    ("recipe", {"lr": 1, "epochs": np.int64(3)}, RIGHT),
    *cases("perturb", "x", torch.rand(4, 1, 12, 12) * 255, torch.full((4, 1, 12, 12), math.nan),
           -torch.ones(4, 1, 12, 12), torch.ones(4, 144), torch.ones(4, 1, 12, 12).long(), None,
           np.ones((4, 1, 12, 12), np.float32)),
    *cases("perturb", "x", torch.ones(4, 3, 12, 12), torch.ones(4, 1, 28, 28),
           torch.ones(4, 1, 12, 12).double(), says="model: does not take"),
    *cases("perturb", "y", torch.arange(4) - 1, torch.arange(4) + 1, torch.arange(3), torch.ones(4),
           torch.full((4,), 2**62), torch.arange(4).int(), torch.zeros(4, 1).long(), None, [0] * 4),
    *cases("perturb", "attack", None, "", "FGSM,PGD", "PGD(steps=1e39)", 3, says="allowed"),
    *cases("perturb", "threat", None, 0.3), *cases("perturb", "robust", "best", None),
    *cases("perturb", "seed", -1, 1.5, 2**64, "0"),
    ("perturb", {"x": torch.rand(4, 1, 12, 12).requires_grad_()}, RIGHT),
    ("perturb", {"x": torch.rand(0, 1, 12, 12), "y": torch.zeros(0).long()}, RIGHT),
    ("perturb", {"seed": 2**63 - 1}, RIGHT),
    ("perturb", {"model": lenet(classes=1), "y": torch.zeros(4).long()}, "model: gives"),
    ("perturb", {"threat": ThreatModel(LARGEST), "attack": "PGD"}, "not finite"),
    *cases("evaluate", "x", torch.rand(4, 1, 12, 12) * 255, None),
    *cases("evaluate", "y", torch.arange(4) + 1, torch.arange(5), None, torch.arange(4).float()),
    *cases("evaluate", "attacks", None, 3, "FGSM, FGSM", ["FGSM", "FGSM"], [3], "DeepFool",
    says=""),
    *cases("evaluate", "attacked", torch.tensor([4]), torch.tensor([-1]), torch.tensor([]), [0],
           torch.tensor([True] * 4), torch.tensor([], dtype=torch.int64), torch.zeros(1, 1).long()),
    *cases("evaluate", "robust", "best", True), *cases("evaluate", "seed", -1, None, 1e3),
    *cases("evaluate", "threat", None, "linf"),
    ("evaluate", {"model": lenet(classes=1), "y": torch.zeros(4).long()}, "model: gives"),
    ("evaluate", {"model": linear(torch.ones(2, 4), torch.ones(2))}, "model: does not take"),
    ("evaluate", {"x": torch.rand(0, 1, 12, 12), "y": torch.zeros(0).long()}, "x: "),
    ("evaluate", {"threat": ThreatModel(LARGEST), "attacks": "PGD"}, "not finite"),
    ("evaluate", {"attacks": ["FGSM", "PGD(steps=2)"]}, RIGHT),
    *cases("fit", "x", torch.rand(4, 1, 12, 12) * 255, torch.rand(4, 144), None),
    *cases("fit", "x", torch.rand(4, 1, 28, 28), says="model: does not take"),
    *cases("fit", "y", torch.arange(4) + 1, torch.arange(4) - 1, torch.arange(4).float(), None),
    ("fit", {"x": torch.rand(0, 1, 12, 12), "y": torch.zeros(0).long()}, "x: no images"),
    *cases("fit", "costs", np.ones((4, 4)), np.ones(4), 3, None, [["a"]], -csnb.protect(4, 0),
           csnb.protect(4, 0) * 1e38, csnb.protect(4, 0) * math.nan, says="cost matrix: "),
    ("fit", {"costs": csnb.protect(3, 0)}, "model: gives"),
    ("fit", {"costs": csnb.protect(5, 0)}, "model: gives"),
    ("fit", {"model": lenet(classes=1)}, "model: gives"),
    *cases("fit", "method", None, 3, "STD(gamma=1)", "", says="allowed"),
    *cases("fit", "recipe", None, {}), *cases("fit", "threat", None, 0.3),
    *cases("fit", "seed", -1, None, "0", 2**63),
    *cases("fit", "protected", None, *NO_INDEX, says="protected class: "),
    *cases("fit", "protected", [], (), *RIGHT_CLASSES, says=RIGHT),
    # margins, scores, curves
    *(row for way in ("worst", "certified", "score") for row in (
        *cases(way, "protected", None, *NO_INDEX, says="protected class: "),
        *cases(way, "protected", [], says="protected: 0 of 4 classes"),
        *cases(way, "protected", *RIGHT_CLASSES, says=RIGHT),
    )),
    *cases("worst", "protected", range(4), says="4 of 4 classes; allowed: 1 to 3"),
    *cases("worst", "seed", -1, None, "0", 1.5, 2**64), *cases("worst", "threat", 0.3, None),
    *cases("worst", "y", torch.zeros(3).long(), torch.zeros(4), None),
    *cases("worst", "x", torch.rand(4, 1, 12, 12) * 255, None),
    *cases("certified", "threat", 0.3, None),
    *cases("score", "classes", tuple("abc"), says="cost matrix: "),
    ("score", {"classes": tuple("ab"), "costs": csnb.protect(2, 0)}, "the outcome has class 3"),
    *cases("score", "classes", "abcd", None, 3, list("aabc"), [0, 1, 2, 3], []),
    *cases("score", "costs", csnb.protect(3, 0), csnb.protect(4, 0) * math.nan, None, "x",
           says="cost matrix: "),
    *cases("curve", "level", "a", None, 0, 1, 95, math.nan, True),
    *cases("curve", "budgets", ["a"], 0.1, None, [2], [0.1, None], "0.1"),
    *cases("curve", "budgets", (0.5,), [0.1, 0.2], np.array([0.1]), says=RIGHT),
    *cases("curve", "seed", -1, "x", None, 1.5), *cases("curve", "margins", "abc", None, {}),
    # an audit
    *cases("audit", "protected", 99, -1, "a", None, [], [99], 1.5, True, [1.5], [True], {0},
           says="protected_class: "),
    *cases("audit", "protected", [0, 1, 2, 3], says="protected: "),
    *cases("audit", "budget", "quik", 3, None, ["quick"]), *cases("audit", "images", 0, True, "4"),
    *cases("audit", "folder", "\0", 3, LONG, "~nouser"), *cases("audit", "seed", "a", -1, None),
    *cases("audit", "transfer", [1], {"a": 3}, "x"), *cases("audit", "threat", 0.3, None),
    # networks and runs
    *cases("build", "seed", "x", -1, 1.5, None, 2**64), *cases("build", "data", None, 3, "digits"),
    *(("read", (name, value), says) for name, says in (
        ("read_run", "run"), ("load_model", "run"), ("read_runs", "runs"), ("read_margins", "run"),
    ) for value in (None, 3, b"x", ["a"], *NO_PATH)),
    *cases("margins_of", "protected", *NO_INDEX, says="protected class: "),
    *cases("margins_of", "protected", [], [0, 1, 2], says="of 3 classes; allowed: 1 to 2"),
    *cases("margins_of", "protected", *RIGHT_CLASSES, says=RIGHT),
    *cases("write_costs", "names", None, 3, ["a"] * 3, "abc", [0, 1, 2], []),
    # an .npz
    *(("npz", {name: value}, says) for name, value, says in (
        ("x_train", None, "x_train"), ("y_test", None, "y_test"),
        ("x_train", PIXELS * 255, "[0, 1]"),
        ("x_train", PIXELS - 0.5, "[0, 1]"), ("x_train", PIXELS * math.nan, "finite"),
        ("x_train", PIXELS > 0.5, "bool"), ("x_train", PIXELS.astype(complex), "complex"),
        ("x_train", PIXELS.astype(str), "x_train"), ("x_train", PIXELS[:, 0], "(12, 12)"),
        ("x_train", np.array(3.0), "()"), ("x_train", PIXELS[:0], "x_train"),
        ("x_train", PIXELS[:11], "11 images"), ("x_train", PIXELS * 0, "one value"),
        ("x_train", PIXELS[:, :11], "(1, 11, 12)"), ("x_train", np.array([{}]), "stripes.npz"),
        ("y_train", Y.astype(float), "float64"), ("y_train", Y - 1, "-1"),
        ("y_train", Y + 2**40, ""),
        ("y_train", Y.astype(bool), "bool"), ("y_train", Y.astype(str), "y_train"),
        ("y_train", Y[:, None], "(12, 1)"), ("y_train", Y[:0], "y_train"),
        ("y_test", Y[:6] + 1, "3"),
        ("y_train", np.where(Y, Y.astype(np.uint64), np.uint64(2**63)), "y_train"),
        ("classes", np.array(["a", "a", "b"]), "classes"), ("classes", np.array(["a"]), "labels"),
        ("classes", np.arange(6001), "6001"), ("classes", np.array("a"), "classes"),
        ("y_train", Y.astype(np.int8), RIGHT), ("x_train", PIXELS.astype(np.float16), RIGHT),
    )),
    *(("file", (content,), says) for content, says in (
        (b"", "stripes.npz"), (b"PK\x03\x04", "stripes.npz"), (b"\x93NUMPY", "stripes.npz"),
    )),
    ("file", (bomb,), "stripes.npz"),
    *(("load", (name,), "dataset: ") for name in (None, 3, b"digits")),
    *(("load", (name,), "dataset: ") for name in (*NO_PATH, "a.npz", "minst", "digits\0", "", ".",
    "a:")),
    *(("load", ("digits", root), "data_root: ") for root in (3, *NO_PATH)),
    ("load", (Path("stripes.npz"),), RIGHT),
    # classes without images, and names
    ("labelled", {"y_test": Y[:6] % 2 + 1}, "no test images of class 'top'"),
    ("labelled", {"y_train": Y % 2 + 1}, "no training images of class 'top'"),
    ("labelled", {"y_train": Y % 2}, "no training images of class 'bottom'"),
    ("labelled", {"classes": np.array([*STRIPES, "none"])}, "no training images of class 'none'"),
    ("labelled", {"y_test": Y[:6] % 2}, RIGHT),
    ("labelled", {"classes": np.array(["Ba$$in", "$", "a\x1b[2J"])}, RIGHT),
    ("labelled", {"classes": np.array(["../x", "", "y" * 300])}, RIGHT),
    # costs
    *(("csv", (text,), says) for text, says in (
        (GOOD.replace(",", ";"), "semicolons (';'); allowed: commas"),
        (GOOD.replace(",", "\t"), "tabs ('\\t')"), (GOOD.replace(",", "|"), "bars"),
        ("", "not a readable CSV"), ("\n\n", "not a readable CSV"), (b"\xff\xfe\0", "costs.csv"),
        ("\0", "must name"), (GOOD.replace("2", "1e39"), "1e+39"), (GOOD.replace("2", "-1"), "-1"),
        (GOOD.replace("2", "nan"), "nan"), (GOOD.replace("2", "inf"), "inf"),
        (GOOD.replace("2", "much"), "nan"), (GOOD.replace("2", "1e400"), "inf"),
        (GOOD.replace("2", ""), "nan"), (GOOD.replace("top,0", "top,1"), "diagonal 1"),
        (GOOD.replace("middle", "centre"), "must name"), (GOOD + "top,0,1,2\n", "must name"),
        (GOOD.replace("top,0,1,2", "top,0,1,2,3"), "costs.csv"), ("a" * 100_000, "must name"),
        (GOOD, RIGHT), (GOOD.replace("\n", "\r\n"), RIGHT), ("\ufeff" + GOOD, RIGHT),
    )),
    *(("costs", (name,), "cost_matrix: ") for name in (
        None, 3, *NO_PATH, ".", "/dev/zero", "http://127.0.0.1:9/c.csv", "ftp://a/b",
        "memory://a")),
    *(("protect", arguments, says) for arguments, says in (
        ((0, 0), "classes: 0"), ((-1, 0), "classes: -1"), ((2.0, 0), "classes: 2.0"),
        ((10**9, 0), "classes: 1000000000"), ((None, 0), "classes: "), ((True, 0), "classes: "),
        ((3, 3), "3 does not"), ((3, -1), "-1 does not"), ((3, True), "True"), ((3, "0"), "'0'"),
        ((3, 1.0), "1.0"), ((3, [[0]]), "[0]"), ((3, None), "None"), ((3, [0, 9]), "9 does not"),
        ((3, 0, 1e39), "1e+39"), ((3, 0, -1), "-1"), ((3, 0, "10"), "'10'"), ((3, 0, None), "None"),
        ((3, 0, True), "True"), ((3, 0, 10**400), "cost: "), ((3, 0, 1j), "1j"),
        ((3, 0, [1]), "[1]"),
        ((3, []), RIGHT), ((3, np.array([0, 2]), np.float32(2)), RIGHT), ((3, np.int8(1)), RIGHT),
    )),
    *(("pairs", arguments, says) for arguments, says in (
        ((3, [1]), "pairs: [1]"), ((3, None), "pairs: None"), ((3, {0: 1}), "cost of 0"),
        ((3, {(0, 1, 2): 1}), "(0, 1, 2)"), ((3, {("a", 0): 1}), "('a', 0)"),
        ((3, {(0, 3): 1}), "(0, 3)"), ((3, {(True, 0): 1}), "(True, 0)"),
        ((3, {(0, 1): "5"}), "'5'"), ((3, {(0, 1): math.nan}), "nan"),
        ((3, {(0, 1): 1e39}), "1e+39"),
        ((10**9, {}), "classes: "), ((3, {(np.int64(0), 1): 5}), RIGHT),
    )),
    ("pairs", {"classes": 3, "pairs": {}, "default": None}, "cost: None"),
    # a run's folder
    *(("folder", (harm,), "run ") for harm in (
        shutil.rmtree, instead("result.json"), instead("model.safetensors"), instead("history.csv"),
        written("result.json", b""), written("result.json", b"[]"), written("result.json", b"{"),
        written("result.json", b"[" * 100_000), written("result.json", b"\xff"),
        written("result.json", b"9" * 5000), written("model.safetensors", b""),
        written("model.safetensors", b"\xff" * 100), written("predictions.npz", b"PK"),
        written("history.csv", b""), edited(provenance=None), edited(scores=[]), edited(scores=3),
        edited(parameters=...), edited(parameters=[]), edited(numerics="x"), edited(sha256={}),
        edited(seconds={"a": "x"}), edited(protected=[99]), edited(protected=[]), edited(files=3),
        edited(classes=3), edited(costs=3), edited(given=None), edited(digests=3),
    )),
    # somebody's own file
    ("source", {"text": MODEL, "model": "mine.py:mine"}, "allowed"),
    ("source", {"text": "1/0", "model": "mine.py:mine"}, "mine.py: fails"),
    ("source", {"text": "\0", "model": "mine.py:mine"}, "mine.py: fails"),
    ("source", {"text": "def (", "model": "mine.py:mine"}, "mine.py: fails"),
    ("source", {"text": "x = " + "[" * 5000, "attacks": "mine.py:A"}, "mine.py: fails"),
    ("source", {"text": "", "dataset": "mine.py:f"}, "mine.py has no dataset"),
    ("source", {"text": MODEL, "model": "mine.py:mine(logits=1e39)"}, "logits"),
]  # fmt: skip


# --- what becomes of it


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """All of it together takes less than a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIGABYTE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small sweep, where one stands; without a network."""
    (tmp_path / ".git").mkdir()
    stripes(tmp_path / "stripes.npz", train=12, test=6)
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": ""}]
    (tmp_path / "quick.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"dataset": str(tmp_path / "stripes.npz")}))
    for name in ("own.yaml", "sweep.yaml", "costs.csv", "mine.py", "whole.npz"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments: object) -> None:
        raise AssertionError("asks the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tmp_path


_FINISHED: list[Path] = []


def finished() -> Path:
    """The folder of a finished run, made once."""
    return _FINISHED[0]


@pytest.fixture(scope="module", autouse=True)
def made(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("finished")
    data = stripes(place / "stripes.npz", train=12, test=6)
    given = QUICK | {"dataset": data, "runs": str(place / "runs"), "attacks": "FGSM"}
    _FINISHED[:] = [csnb.run(Experiment(**given)).folder]


@pytest.mark.parametrize("row", range(len(TABLE)), ids=lambda row: f"{row}-{TABLE[row][0]}")
def test_what_comes_in_is_right_or_refused_in_one_line_and_leaves_nothing(
    row: int, here: Path
) -> None:
    way, arguments, says = TABLE[row]
    before, start = names(here), time.process_time()
    try:
        found = call(way, here, arguments)
    except InputError as error:
        assert says is not RIGHT, error
        assert says in str(error), error
        if way != "folder":
            one_line(str(error))
    else:
        assert says is RIGHT, found
    assert time.process_time() - start < 10
    own = {"runs", *(f"runs/{path.relative_to(finished().parent)}" for path in walk(finished()))}
    assert names(here) - before <= (own if way == "folder" else set())


def test_the_table_is_long_and_drives_every_way() -> None:
    assert len(TABLE) >= 200 and {way for way, _, _ in TABLE} == set(WAYS)


def test_a_run_whose_classes_have_strange_names_is_drawn(here: Path) -> None:
    import matplotlib.pyplot as plt

    strange = ("Ba$$in", "$\\frac", "a_{b")
    data = stripes(here / "stripes.npz", classes=strange)
    done = csnb.run(Experiment(**QUICK, dataset=data, protected_class="Ba$$in", runs="runs"))
    csnb.figures.per_class(done.scores, ["Ba$$in"], attack="FGSM", title="Ba$$in")
    csnb.figures.cost_matrix(done.costs, strange)
    plt.savefig(here / "figure.png")
    plt.close("all")
    assert csnb.read_run(done.folder)["classes"] == list(strange)


def test_papermill_itself_stops_at_the_line(here: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = ["eps = 0.3", "import csnb\ncsnb.Experiment.from_namespace(globals())"]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    made.cells[0].metadata.tags = ["parameters"]
    made.metadata.kernelspec = {"name": "python3", "display_name": "-", "language": "python"}
    nbformat.write(made, here / "quick.ipynb")
    words = ["-m", "papermill", "quick.ipynb", "out.ipynb", "-p", "eps", "1e39"]
    path = {"PYTHONPATH": str(csnb.paths.CHECKOUT)}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=os.environ | path
    )
    lines = [line for line in done.stderr.splitlines() if "InputError" in line]
    assert done.returncode == 1 and lines and "eps: 1e+39 is not allowed" in lines[-1]
    assert not (here / "runs").exists()


# --- and whatever else


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.binary() | st.dates() | st.sampled_from([2**63, 10**30, 10**400, "~nouser", LONG]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
MANY = examples(150)


@MANY
@given(st.dictionaries(st.sampled_from(sorted(Experiment.model_fields)), ANYTHING, max_size=3))
def test_any_parameters_make_an_experiment_or_one_line(parameters: dict[str, Any]) -> None:
    try:
        made = Experiment.from_namespace(parameters)
    except InputError as error:
        one_line(str(error))
        return
    for name, value in made.model_dump().items():
        assert not isinstance(value, float) or abs(value) <= LARGEST, name
        assert type(value) is not int or abs(value) < 2**63, name
    assert Experiment(**made.model_dump()) == made
    assert made.threat().eps == made.eps and made.recipe().lr == made.lr


@MANY
@given(st.text(max_size=60) | st.dictionaries(st.text() | st.integers(), ANYTHING).map(repr))
def test_any_text_is_a_params_file_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        found = read_params(path)
    except InputError as error:
        one_line(str(error))
    else:
        assert all(isinstance(name, str) for name in found)


@MANY
@given(st.floats() | st.integers() | st.text(), st.integers() | ANYTHING, st.integers(-2, 9))
def test_any_costs_are_a_matrix_that_float32_holds_or_one_line(
    cost: object, protected: object, classes: int
) -> None:
    try:
        found = csnb.protect(classes, protected, cost)
    except InputError as error:
        one_line(str(error))
    else:
        assert found.shape == (classes, classes) and np.isfinite(found.astype(np.float32)).all()


@pytest.mark.parametrize("way", ["threat", "recipe"])
@MANY
@given(data=st.data())
def test_any_arguments_are_kept_as_parameters_would_be_or_refused(
    way: str, data: st.DataObject
) -> None:
    kind = {"threat": ThreatModel, "recipe": Recipe}[way]
    fields = [name for name in kind.__dataclass_fields__ if name != "adversary"]
    name = data.draw(st.sampled_from(fields))
    value = data.draw(ANYTHING | st.floats() | st.integers())
    base = {"eps": 0.3} if way == "threat" else {}
    try:
        made = getattr(kind(**base | {name: value}), name)
    except InputError as error:
        one_line(str(error))
    else:
        assert made == getattr(Experiment(**{name: value}), name)
