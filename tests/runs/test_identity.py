"""A run is what it contains: faults 1, 2, 5, 19, 23 and 25, and what must make no difference."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import QUICK, STRIPES, contents, costs_csv, identity, stripes
from pictures import CLASSES, photos
from test_structure import GRAPH

import csnb
from csnb import Experiment, InputError, Run, find_or_run, load_dataset, read_run, run
from csnb.experiment import PLACE
from csnb.runs import inspect, read_weights, run_folders, status
from csnb.runs.folder import HOLD
from csnb.runs.identity import NUMERICS, Identity, changed_inputs, costs_digest, weights_digest

ROOT = Path(__file__).resolve().parents[2]
MINE = """
import csnb
from csnb.methods import Method, on_examples
from csnb.losses import cross_entropy_sum

@csnb.attack
def Brighten(target, x, y, *, by: float = 0.1):
    \"\"\"Adds the same to every pixel.\"\"\"
    return x + by

@csnb.method
def Half(task):
    \"\"\"half of cross-entropy\"\"\"
    return Method(on_examples(lambda z, y: cross_entropy_sum(z, y) / 2 / len(y)), ("half",))

@csnb.model
def flat(image_shape, classes):
    \"\"\"one layer\"\"\"
    from math import prod
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape), classes))

@csnb.dataset
def few(root, *, images: int = 12):
    \"\"\"dark and bright\"\"\"
    import numpy as np
    y = np.arange(images) % 2
    x = np.zeros((images, 12, 12), np.uint8) + (200 * y + 20)[:, None, None].astype(np.uint8)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:4], "y_test": y[:4]}
    return csnb.Dataset.from_arrays("few", arrays, ["dark", "bright"])
"""


def quick(folder: Path, **changes: Any) -> Experiment:
    """A short run of the stripes; its folder goes to ``folder/runs``."""
    return Experiment(**{"runs": str(folder / "runs")} | QUICK | changes)


def ids(folder: Path) -> set[str]:
    return {f.name for f in run_folders(folder / "runs")}


def test_the_order_of_what_is_named_makes_no_other_run() -> None:
    one = identity(seed=4)
    turned = {
        name: dict(reversed(getattr(one, name).items())) for name in ("digests", "parameters")
    }
    assert replace(one, **turned).key == one.key


def test_an_identity_is_what_its_json_says() -> None:
    one = identity(seed=4)
    assert Identity.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_only_runs_of_the_same_parameters_differ_by_their_inputs() -> None:
    edited = {"digests": {"train": "4" * 16, "test": "2" * 16, "costs": "3" * 16}}
    one, same, other = identity(seed=1), identity(seed=1), identity(seed=2)
    assert one.differs(same) == one.differs(other) == []
    assert one.differs(replace(same, **edited)) == ["digits"]
    assert one.differs(replace(other, **edited)) == []
    assert one.differs(replace(same, protected=(0,), **edited)) == []
    begun = {"digests": same.digests | {"init_from": "5" * 16}}
    assert one.differs(replace(same, **begun)) == ["init_from"]
    assert replace(same, **begun).differs(one) == ["init_from"]


def test_each_input_is_looked_at_whether_or_not_those_before_it_are_still_there(
    data: str, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()  # without any
    for name in ("mine.py", "unknown.py"):
        (tmp_path / name).write_text("")
    lay = {
        "cost_matrix": str(tmp_path / "gone.csv"),
        "dataset": data,
        "init_from": str(tmp_path / "weights"),
        "mine.py": str(tmp_path / "mine.py"),
        "unknown.py": str(tmp_path / "unknown.py"),  # a digest of which the run does not hold
    }
    digests = {"train": "1", "test": "2", "costs": "3", "init_from": "4", "mine.py": "5"}
    found = changed_inputs(replace(identity(), digests=digests, files=lay))
    assert found == ["stripes.npz", "weights", "mine.py"]


def test_a_folder_of_pictures_is_known_by_its_pixels_at_the_size_of_the_run(tmp_path: Path) -> None:
    root = photos(tmp_path / "pets")
    for size in (0, 8):
        named = {"image_size": size} if size else {}
        read = load_dataset(root, image_size=size)
        made = replace(identity(**named), classes=CLASSES, files={"dataset": str(root)})
        made = replace(made, digests=read.digests())
        assert changed_inputs(made) == []
        assert changed_inputs(replace(made, classes=CLASSES[::-1])) == ["pets"]
    first, second, *_ = sorted((root / CLASSES[0]).iterdir())
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert changed_inputs(made) == ["pets"]
    first.write_bytes(content)
    assert changed_inputs(made) == []
    for name in CLASSES[1:]:  # one class is no data set
        shutil.rmtree(root / name)
    assert changed_inputs(made) == ["pets"]


def test_of_another_users_file_nobody_knows_whether_it_has_changed(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = replace(identity(), files={"dataset": data})
    assert changed_inputs(made) == ["stripes.npz"]

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    assert changed_inputs(made) == []


def test_weights_are_known_by_the_sha_256_of_their_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert weights_digest(tmp_path) == "ba7816bf8f01cfea"
    assert weights_digest(tmp_path / "model.safetensors") == "ba7816bf8f01cfea"


def test_costs_are_known_by_their_numbers_however_they_lie_in_memory() -> None:
    costs = np.array([[0.0, 2], [3, 0]])
    same = (costs.astype(int), np.asfortranarray(costs), costs.T.copy().T)
    assert {costs_digest(c) for c in same} == {costs_digest(costs)}
    assert costs_digest(costs.T) != costs_digest(costs) and len(costs_digest(costs)) == 16


def test_a_runs_folder_is_named_after_data_method_classes_and_seed() -> None:
    method = "CSE(gamma=2.0)"
    made = replace(identity(dataset="X.rays.npz", method=method, seed=3), protected=(0, 1))
    assert made.run_id == f"X.rays-CSE-p0+1-s3-{made.key}"
    assert len(made.key) == 10 and int(made.key, 16) >= 0
    odd = identity(dataset=".my pets!" + 80 * "x" + ".npz", method="STD")
    assert odd.run_id == f"my_pets_{71 * 'x'}-{odd.key}"


# --- fault 1: an edited input is noticed, whatever it is


def edited_pixels(file: Path) -> None:
    arrays = dict(np.load(file))
    arrays["x_train"][0, 0, 0] += 0.01
    np.savez(file, **arrays)


def edited_test_labels(file: Path) -> None:
    arrays = dict(np.load(file))
    arrays["y_test"][0] = 2
    np.savez(file, **arrays)


def more_images(file: Path) -> None:
    stripes(file, train=121)


def other_names(file: Path) -> None:
    stripes(file, classes=("top", "middle", "low"))


@pytest.mark.parametrize("edit", [edited_pixels, edited_test_labels, more_images, other_names])
def test_an_edited_npz_makes_its_run_stale_and_a_new_one_beside_it(
    edit: Any, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = find_or_run(quick(tmp_path, dataset=data))
    assert inspect(old).state == "done"
    edit(Path(data))
    found = inspect(old)
    assert (found.state, found.reason) == ("stale", "stripes.npz has changed")
    wanted = quick(tmp_path, dataset=data).identity()
    found = inspect(tmp_path / "runs" / wanted.run_id, wanted)
    assert (found.state, found.reason) == ("stale", "stripes.npz has changed")
    with pytest.raises(InputError, match=r"stale: stripes\.npz has changed"):
        read_run(old)
    with pytest.warns(UserWarning, match=r"stale: stripes\.npz has changed"):
        assert not len(csnb.read_runs(tmp_path / "runs"))
    capsys.readouterr()
    new = find_or_run(quick(tmp_path, dataset=data))
    assert capsys.readouterr().out == f"ran {new.name}\n"
    assert inspect(new).state == "done" and inspect(new, wanted).state == "done"
    if edit is other_names:  # the same training: the new result takes the old one's place
        assert new == old
    else:
        assert new != old and inspect(old).state == "stale"


def test_an_edited_cost_matrix_makes_its_run_stale(data: str, tmp_path: Path) -> None:
    csv = tmp_path / "costs.csv"
    old = find_or_run(quick(tmp_path, dataset=data, cost_matrix=costs_csv(csv)))
    assert read_run(old)["costs"] == (3 * (1 - np.eye(3))).tolist()
    costs_csv(csv, 4)
    assert inspect(old).reason == "costs.csv has changed"
    wanted = quick(tmp_path, dataset=data, cost_matrix=str(csv)).identity()
    assert inspect(tmp_path / "runs" / wanted.run_id, wanted).reason == "costs.csv has changed"
    new = find_or_run(quick(tmp_path, dataset=data, cost_matrix=str(csv)))
    assert new != old and read_run(new)["costs"] == (4 * (1 - np.eye(3))).tolist()


@pytest.mark.parametrize("content", ["", "no costs", "a,b\n"])
def test_a_cost_matrix_that_is_none_any_more_is_a_change(
    content: str, data: str, tmp_path: Path
) -> None:
    csv = tmp_path / "costs.csv"
    old = find_or_run(quick(tmp_path, dataset=data, cost_matrix=costs_csv(csv)))
    csv.write_text(content)
    assert inspect(old).reason == "costs.csv has changed"


def test_a_data_set_that_is_none_any_more_is_a_change(data: str, tmp_path: Path) -> None:
    old = find_or_run(quick(tmp_path, dataset=data))
    Path(data).write_text("no longer")
    assert inspect(old).reason == "stripes.npz has changed"


def test_changed_first_weights_make_their_run_stale(data: str, tmp_path: Path) -> None:
    first = run(quick(tmp_path, dataset=data, method="STD")).folder
    shutil.copytree(first, tmp_path / "start")
    parameters = {"dataset": data, "init_from": str(tmp_path / "start")}
    old = find_or_run(quick(tmp_path, **parameters))
    other = run(quick(tmp_path, dataset=data, method="STD", seed=1)).folder
    shutil.copy(other / "model.safetensors", tmp_path / "start")
    assert inspect(old).reason == "start has changed"
    new = find_or_run(quick(tmp_path, **parameters))
    assert new != old and inspect(new).state == "done"


@pytest.mark.parametrize(
    "parameters",
    [
        {"attacks": "FGSM, {}:Brighten(by=0.2)"},
        {"method": "{}:Half"},
        {"model": "{}:flat"},
        {"adversary": "{}:Brighten"},
        {"monitor": "{}:Brighten"},
        {"dataset": "{}:few"},
    ],
    ids=str,
)
def test_an_edited_file_of_ones_own_makes_its_run_stale(
    parameters: dict[str, str], data: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    parameters = {name: text.format(mine) for name, text in parameters.items()}
    asked = {"dataset": data} | parameters
    old = find_or_run(quick(tmp_path, **asked))
    assert read_run(old)["digests"]["mine.py"] and inspect(old).state == "done"
    assert find_or_run(quick(tmp_path, **asked)) == old
    mine.write_text(MINE + "# another thought\n")
    assert inspect(old).reason == "mine.py has changed"
    wanted = quick(tmp_path, **asked).identity()
    assert inspect(tmp_path / "runs" / wanted.run_id, wanted).reason == "mine.py has changed"
    assert find_or_run(quick(tmp_path, **asked)) != old


@pytest.fixture
def of_a_notebook() -> Iterator[Callable[..., None]]:
    """Registers an attack as a cell of a notebook does."""
    before = dict(csnb.ATTACKS)

    def define(function: Callable[..., Any]) -> None:
        function.__name__, function.__module__ = "Cell", "__main__"
        csnb.attack(function)

    yield define
    csnb.ATTACKS._entries = before


def test_an_edited_cell_makes_its_run_stale(
    data: str, tmp_path: Path, of_a_notebook: Callable[..., None]
) -> None:
    def one(target: Any, x: Any, y: Any, *, by: float = 0.1) -> Any:
        return x + by

    def two(target: Any, x: Any, y: Any, *, by: float = 0.1) -> Any:
        return x - by

    of_a_notebook(one)
    asked = {"dataset": data, "attacks": "Cell(by=0.2)"}
    old = find_or_run(quick(tmp_path, **asked))
    assert find_or_run(quick(tmp_path, **asked)) == old and inspect(old).state == "done"
    of_a_notebook(two)
    wanted = quick(tmp_path, **asked).identity()
    assert inspect(tmp_path / "runs" / wanted.run_id, wanted).state == "stale"
    assert find_or_run(quick(tmp_path, **asked)) != old
    of_a_notebook(one)
    assert find_or_run(quick(tmp_path, **asked)) == old


def test_a_function_without_source_is_no_part_of_a_run(
    data: str, tmp_path: Path, of_a_notebook: Callable[..., None]
) -> None:
    space: dict[str, Any] = {}
    exec("def f(target, x, y): return x", space)
    of_a_notebook(space["f"])
    with pytest.raises(InputError, match=r"'Cell' has no source .* allowed: a function of a note"):
        Run(quick(tmp_path, dataset=data, attacks="Cell"))


def test_a_file_that_is_edited_while_a_run_is_under_way_does_not_get_into_it(
    data: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    asked = {"dataset": data, "attacks": f"{mine}:Brighten", "method": f"{mine}:Half"}
    whole = run(quick(tmp_path / "a", **asked))
    begun = Run(quick(tmp_path / "b", **asked))
    mine.write_text(MINE.replace("x + by", "x - 5").replace("/ 2", "* 7"))
    begun.train()
    begun.evaluate()
    begun.write()
    assert begun.identity.digests == whole.identity.digests
    assert begun.folder.name == whole.folder.name
    predictions = [np.load(r.folder / "predictions.npz")["Brighten"] for r in (whole, begun)]
    np.testing.assert_array_equal(*predictions)
    assert read_weights(whole.folder).keys() == read_weights(begun.folder).keys()
    assert all(np.array_equal(v, read_weights(begun.folder)[k]) for k, v in weights(whole).items())


def weights(made: Run) -> dict[str, np.ndarray]:
    return read_weights(made.folder)


def test_another_copy_of_a_built_in_data_set_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Experiment(dataset="mnist", data_root=str(tmp_path / "nowhere"))
    from csnb.data.sources import FOLDERS

    raw = tmp_path / "data" / FOLDERS["mnist"] / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, n in (("train", 20), ("t10k", 10)):
        x, y = rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n).astype(np.uint8) % 10
        header = np.array([0x803, n, 28, 28], ">u4").tobytes()
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + x.tobytes())
        header = np.array([0x801, n], ">u4").tobytes()
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(header + y.tobytes())
    own = Experiment(dataset="mnist", data_root=str(tmp_path / "data"))
    assert own.identity().key != published.identity().key
    assert own.identity().differs(published.identity()) == ["mnist"]


# --- the same content is the same run, wherever it lies


def test_the_same_content_elsewhere_is_the_same_run(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs_csv(tmp_path / "costs.csv")
    (tmp_path / "mine.py").write_text(MINE)
    names = {"cost_matrix": "costs.csv", "attacks": "FGSM, mine.py:Brighten"}
    monkeypatch.chdir(tmp_path)
    asked = {"runs": str(tmp_path / "runs"), "dataset": "stripes.npz"} | names
    first = find_or_run(Experiment(**QUICK | asked))
    made = (first / "result.json").read_bytes()

    there = tmp_path / "a" / "copy, of (it)"
    there.mkdir(parents=True)
    for name in ("stripes.npz", "costs.csv", "mine.py"):
        shutil.copy(name, there)
    (there / "stripes.npz").rename(there / "other.npz")
    (there / "costs.csv").rename(there / "prices.csv")
    absolute = {
        "dataset": str(there / "stripes.npz"),
        "cost_matrix": str(there / "prices.csv"),
        "attacks": f"FGSM, '{there}/mine.py':Brighten",
    }
    shutil.copy(there / "other.npz", there / "stripes.npz")
    again = [asked | absolute]  # other paths, another name of the costs' file
    again += [asked | {"dataset": "stripes", "data_root": str(there)}]  # by name in a folder
    again += [asked | {"dataset": str(there / "other.npz")}]  # another name of the data's file
    for parameters in again:
        assert find_or_run(Experiment(**QUICK | parameters)) == first
    monkeypatch.setenv("CSNB_DATA", str(there))
    assert find_or_run(Experiment(**QUICK | asked | {"dataset": "stripes"})) == first
    monkeypatch.chdir(there)
    assert find_or_run(Experiment(**QUICK | asked | {"cost_matrix": "prices.csv"})) == first
    assert (first / "result.json").read_bytes() == made


def test_a_data_set_by_name_leaves_no_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a run of it another one than that by path; another content is noticed all the same."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    file = stripes(here / "letters.npz")
    monkeypatch.setenv("CSNB_DATA", str(here))
    asked = QUICK | {"dataset": "letters", "runs": str(tmp_path / "runs")}
    folder = find_or_run(Experiment(**asked))
    assert read_run(folder)["files"] == {"dataset": "letters"}
    assert str(tmp_path) not in (folder / "result.json").read_text()
    for by_path in ({"dataset": file}, {"data_root": str(here)}):
        found = Experiment(**asked | by_path).identity()
        assert found.run_id == folder.name and found.files == {"dataset": file}

    here.rename(there)  # as on another machine
    monkeypatch.setenv("CSNB_DATA", str(there))
    assert inspect(folder).state == "done" and not csnb.load_model(folder).training
    stripes(there / "letters.npz", train=60)
    assert inspect(folder).reason == "letters has changed"
    (there / "letters.npz").unlink()
    assert inspect(folder).state == "done"  # what is gone cannot have changed


def test_repacked_arrays_are_the_same_data(data: str, tmp_path: Path) -> None:
    key = quick(tmp_path, dataset=data).identity().key
    arrays = dict(np.load(data))
    np.savez_compressed(data, **dict(reversed(arrays.items())))
    assert quick(tmp_path, dataset=data).identity().key == key
    arrays["x_train"] = np.asfortranarray(arrays["x_train"])[:, None]
    arrays["y_train"] = arrays["y_train"].astype(np.uint8)
    np.savez(data, **arrays)
    assert quick(tmp_path, dataset=data).identity().key == key


def test_the_costs_of_eq_3_from_a_file_are_those_of_eq_3(data: str, tmp_path: Path) -> None:
    rows = [["", *STRIPES], ["top", 0, 10, 10], ["middle", 10, 0, 1], ["bottom", 10, 1, 0]]
    (tmp_path / "costs.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    from_file = quick(tmp_path, dataset=data, cost_matrix=str(tmp_path / "costs.csv"))
    assert from_file.identity().key == quick(tmp_path, dataset=data).identity().key
    assert quick(tmp_path, dataset=data, alarm_cost=5).identity().key != from_file.identity().key


@pytest.mark.parametrize("here", ["", "notebooks", "notebooks/deeper"])
def test_jupyterlab_and_the_shell_find_the_same_runs(
    here: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks" / "deeper").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    asked = QUICK | {"dataset": "stripes", "data_root": "."}
    folder = find_or_run(Experiment(**asked))
    assert folder.parent == tmp_path / "runs"
    monkeypatch.chdir(tmp_path / here)
    assert Run(Experiment(**asked)).folder == folder
    made = (folder / "result.json").stat().st_mtime_ns
    assert find_or_run(Experiment(**asked)) == folder
    assert (folder / "result.json").stat().st_mtime_ns == made
    start = Experiment(**asked | {"init_from": f"runs/{folder.name}"})
    assert start.identity().digests["init_from"]


# --- what a run is not


def test_what_is_drawn_said_tabulated_or_batched_is_not_known_where_an_id_is_made() -> None:
    known, new = set(), {"experiment", "runs"}
    while new:
        known |= new
        new = set().union(*(GRAPH[room] for room in new)) - known
    assert {"data", "attacks", "methods", "models", "costs"} <= known
    assert not known & {"figures", "paper", "batch", "runner", "progress", "__main__"}


def test_csnbs_own_sources_are_no_part_of_an_identity(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    read = Path.read_bytes

    def watched(path: Path) -> bytes:
        opened.append(str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", watched)
    quick(tmp_path, dataset=data).identity()
    assert not [file for file in opened if file.startswith(str(ROOT / "csnb"))]


def test_numerics_are_recorded_and_no_part_of_the_key(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_or_run(quick(tmp_path, dataset=data))
    assert read_run(folder)["numerics"] == NUMERICS
    for module in ("csnb.experiment", "csnb.runs.state"):
        monkeypatch.setattr(f"{module}.NUMERICS", NUMERICS + 1)
    raised = quick(tmp_path, dataset=data).identity()
    assert raised.run_id == folder.name and raised.numerics == NUMERICS + 1
    assert inspect(folder, raised).state == "stale"
    assert "csnb's numbers have changed" in inspect(folder, raised).reason
    assert find_or_run(quick(tmp_path, dataset=data)) == folder  # made again, in its place
    assert read_run(folder)["numerics"] == NUMERICS + 1


def test_a_new_parameter_with_its_default_changes_no_run(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = find_or_run(quick(tmp_path, dataset=data))

    class Later(Experiment):
        brightness: float = 0.0

    asked = QUICK | {"dataset": data, "runs": str(tmp_path / "runs")}
    later = Later(**asked)
    assert later.identity().run_id == folder.name
    assert inspect(folder, later.identity()).state == "done"
    changed = Later(**asked, brightness=0.5)
    assert changed.identity().key != later.identity().key
    assert (
        inspect(tmp_path / "runs" / changed.identity().run_id, changed.identity()).state == "todo"
    )


def test_a_new_attack_or_method_changes_no_run(tmp_path: Path) -> None:
    before = Experiment().identity().run_id
    (tmp_path / "mine.py").write_text(MINE)
    csnb.ATTACKS.parse(f"{tmp_path}/mine.py:Brighten")
    assert Experiment().identity().run_id == before


def test_the_notation_of_a_parameter_is_no_part_of_it(data: str, tmp_path: Path) -> None:
    one = quick(
        tmp_path, dataset=data, eps="3/10", protected_class="top", epochs="1",
        method="CSE( gamma = 1.0, regulariser='fuzziness' )", attacks="FGSM,LinfBIA( steps = 2 )",
    )  # fmt: skip
    same = quick(tmp_path, dataset=data, method="CSE")
    assert one.identity().key == same.identity().key
    assert one.identity().protected == same.identity().protected == (0,)


@pytest.mark.parametrize("label", ["top", "0", 0])
def test_an_edit_is_noticed_however_the_class_is_named(
    label: int | str, data: str, tmp_path: Path
) -> None:
    find_or_run(quick(tmp_path, dataset=data, protected_class="top"))
    edited_pixels(Path(data))
    wanted = quick(tmp_path, dataset=data, protected_class=label).identity()
    found = inspect(tmp_path / "runs" / wanted.run_id, wanted)
    assert (found.state, found.reason) == ("stale", "stripes.npz has changed")


# --- fault 2: a finished run stays whole until another takes its place


def test_making_a_run_of_a_finished_one_touches_nothing(data: str, tmp_path: Path) -> None:
    folder = run(quick(tmp_path, dataset=data)).folder
    before = contents(tmp_path / "runs")
    for _ in range(2):
        Run(quick(tmp_path, dataset=data))
    assert contents(tmp_path / "runs") == before and inspect(folder).state == "done"


def test_training_and_evaluating_again_leave_the_finished_run_until_it_is_written(
    data: str, tmp_path: Path
) -> None:
    folder = run(quick(tmp_path, dataset=data)).folder
    before = contents(folder)
    again = Run(quick(tmp_path, dataset=data))
    again.train()
    assert contents(folder) == before and inspect(folder).state == "done"
    again.evaluate()
    assert contents(folder) == before and inspect(folder).state == "done"
    assert again.write() == folder and inspect(folder).state == "done"
    assert contents(folder)["model.safetensors"] == before["model.safetensors"]
    assert contents(folder)["result.json"] != before["result.json"]  # its times
    assert ids(tmp_path) == {folder.name}


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("fit", InputError),
        ("fit", KeyboardInterrupt),
        ("evaluate", RuntimeError),
        ("evaluate", InputError),
        ("score", KeyboardInterrupt),
        ("provenance", MemoryError),
    ],
)
def test_a_failure_anywhere_leaves_the_finished_run(
    where: str, error: type[BaseException], data: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = run(quick(tmp_path, dataset=data)).folder
    before = contents(folder)

    def fail(*args: object, **kwargs: object) -> None:
        raise error("on purpose")

    monkeypatch.setattr(f"csnb.runner.{where}", fail)
    with pytest.raises(error, match="on purpose"):
        run(quick(tmp_path, dataset=data))
    assert contents(folder) == before and inspect(folder).state == "done"


def test_a_full_disk_costs_neither_the_old_run_nor_the_new_training(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(quick(tmp_path, dataset=data)).folder
    before = contents(folder)
    again = Run(quick(tmp_path, dataset=data))
    again.train()
    again.evaluate()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _disk_full)
        with pytest.raises(OSError, match="No space left"):
            again.write()
    assert contents(folder) == before and inspect(folder).state == "done"
    assert again.write() == folder and inspect(folder).state == "done"  # when there is room again


def _disk_full(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content[: len(content) // 2])
    raise OSError(28, "No space left on device", str(path))


def test_a_training_that_is_started_again_starts_from_the_first_weights(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = run(quick(tmp_path / "a", dataset=data))
    twice = Run(quick(tmp_path / "b", dataset=data))
    twice.train()
    twice.evaluate()
    twice.train()  # the cell is executed again
    with pytest.raises(InputError, match="not evaluated"):
        twice.write()
    twice.evaluate()
    twice.write()
    interrupted = Run(quick(tmp_path / "c", dataset=data))
    with monkeypatch.context() as patch:
        patch.setattr("csnb.training.Trainer.take_means", _stop)
        with pytest.raises(KeyboardInterrupt):
            interrupted.train()
    interrupted.train()
    interrupted.evaluate()
    interrupted.write()
    for other in (twice, interrupted):
        assert all(np.array_equal(v, weights(other)[name]) for name, v in weights(once).items())
        assert torch.equal(other.model(once.data.x_test), once.model(once.data.x_test))


def _stop(*args: object) -> None:
    raise KeyboardInterrupt


# --- fault 5: a class is a name before it is a number


def test_classes_called_by_numbers_are_protected_by_name(tmp_path: Path) -> None:
    file = stripes(tmp_path / "numbered.npz", classes=("1", "2", "3"))
    by_name, by_index, last = (
        run(quick(tmp_path, dataset=file, protected_class=p, attack_images="protected"))
        for p in ("1", 1, "3")
    )
    for made, index in ((by_name, 0), (by_index, 1), (last, 2)):
        result = read_run(made.folder)
        assert made.protected == (index,)
        assert load_dataset(file).class_index(made.experiment.protected_class) == index
        assert result["protected"] == [index]
        assert {row["class"] for row in result["scores"] if row["attack"] == "FGSM"} - {""} == {
            str(index + 1)
        }
        assert made.folder.name.startswith(f"numbered-CSA-p{index}-s0-")
        frame = csnb.runs.read_scores([made.folder])
        assert frame["protected_class"].unique().tolist() == [index]
        attacked = np.load(made.folder / "predictions.npz")["attacked"]
        assert (made.data.y_test[attacked] == index).all()
        costs = np.array(result["costs"])
        assert (costs[index].sum(), costs.sum()) == (20, 42)
    assert len({by_name.folder, by_index.folder, last.folder}) == 3


# --- fault 19: plain runs say how far they are (see test_state.py for live and killed ones)


def test_a_plain_run_is_running_until_it_is_written(data: str, tmp_path: Path) -> None:
    made = Run(quick(tmp_path, dataset=data, epochs=2))
    states = [inspect(made.folder).state]
    made.train()
    states += [inspect(made.folder).state]
    assert inspect(made.folder).reason.startswith("epoch 2 of 2, loss ")
    made.evaluate()
    states += [inspect(made.folder).state]
    assert inspect(made.folder).reason == "evaluated: LinfBIA(steps=2)"
    assert status(made.folder.parent)["state"].tolist() == ["running"]
    made.write()
    states += [inspect(made.folder).state]
    assert states == ["todo", "running", "running", "done"]


def test_a_plain_run_that_is_dropped_is_interrupted(data: str, tmp_path: Path) -> None:
    made = Run(quick(tmp_path, dataset=data))
    made.train()
    folder = made.folder
    del made
    import gc

    gc.collect()
    assert inspect(folder).state == "interrupted"
    assert run(quick(tmp_path, dataset=data)).folder == folder


def test_a_refused_training_leaves_nothing(data: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^training: loss "):
        run(quick(tmp_path, dataset=data, lr=1e9, epochs=5))
    assert not ids(tmp_path)


# --- fault 23: one process at a time; digests are of the bytes that were meant


def test_a_second_run_of_one_id_is_refused_while_the_first_is_at_it(
    data: str, tmp_path: Path
) -> None:
    first, second = (Run(quick(tmp_path, dataset=data)) for _ in range(2))
    first.train()
    with pytest.raises(InputError, match="it is under way"):
        second.train()
    first.evaluate()
    first.write()
    second.train()
    second.evaluate()
    second.write()
    assert inspect(first.folder).state == "done"


def test_many_at_one_id_at_once_leave_one_run_that_is_whole(data: str, tmp_path: Path) -> None:
    refused: list[str] = []

    def work(seed: int) -> None:
        try:
            run(quick(tmp_path, dataset=data))
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("it is under way" in message for message in refused)
    (name,) = ids(tmp_path)
    assert inspect(tmp_path / "runs" / name).state == "done"


def test_bytes_that_change_on_their_way_to_the_disk_are_noticed(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def elsewhere(path: Path, content: bytes) -> int:
        if path.name == "predictions.npz":  # as if another process had written there
            content = content.replace(b"labels", b"labelz")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", elsewhere)
    folder = run(quick(tmp_path, dataset=data)).folder
    found = inspect(folder)
    assert (found.state, found.reason) == ("broken", "predictions.npz has changed since the run")


# --- fault 25: exchanged folders and notebooks (see test_state.py for each file's damages)


def test_exchanged_runs_are_believed_by_nobody(data: str, tmp_path: Path) -> None:
    a, b = (run(quick(tmp_path, dataset=data, seed=seed)).folder for seed in (0, 1))
    aside = tmp_path / "aside"
    a.rename(aside), b.rename(a), aside.rename(b)
    for folder, seed in ((a, 0), (b, 1)):
        experiment = quick(tmp_path, dataset=data, seed=seed)
        assert inspect(folder).state == inspect(folder, experiment.identity()).state == "broken"
        for read in (read_run, csnb.load_model):
            with pytest.raises(InputError, match="holds the run"):
                read(folder)
        assert find_or_run(experiment) == folder and inspect(folder).state == "done"


@pytest.mark.parametrize("content", [b"", b'{"cells": []}', None])
def test_a_notebook_that_is_not_the_runs_is_noticed(
    content: bytes | None, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = quick(tmp_path, dataset=data)
    run_id = experiment.identity().run_id
    with monkeypatch.context() as sweep:
        sweep.setenv(HOLD, run_id)
        made = run(experiment)
        made._stage = None
        del made
    notebook = tmp_path / "out.ipynb"
    notebook.write_bytes(b'{"cells": [1]}')
    from csnb.runs import folder as room

    while room._HELD:  # the child of a sweep has ended
        room._HELD.pop().release()
    folder = csnb.runs.publish(tmp_path / "runs", run_id, notebook)
    assert inspect(folder).state == "done"
    if content is None:
        (folder / "notebook.ipynb").unlink()
    else:
        (folder / "notebook.ipynb").write_bytes(content)
    found = inspect(folder)
    assert found.state == "broken" and "notebook.ipynb" in found.reason
    with pytest.raises(InputError, match=r"notebook\.ipynb"):
        read_run(folder)


# --- what an identity says


def test_a_result_holds_all_that_a_run_is(data: str, tmp_path: Path) -> None:
    made = run(quick(tmp_path, dataset=data, protected_class="middle"))
    result = read_run(made.folder)
    e = made.experiment
    assert result["parameters"] == e.model_dump(exclude=PLACE) | {"dataset": "stripes.npz"}
    assert result["given"] == [
        name
        for name in Experiment.model_fields
        if name not in PLACE and getattr(e, name) != getattr(Experiment(), name)
    ]
    assert result["classes"] == list(STRIPES) and result["protected"] == [1]
    assert result["costs"] == made.costs.tolist()
    assert result["digests"] == load_dataset(data).digests() | {
        "costs": made.identity.digests["costs"]
    }
    assert result["files"] == {"dataset": data} and result["numerics"] == NUMERICS
    assert json.loads(json.dumps(result)) == result
    assert changed_inputs(made.identity) == []


def test_ids_are_names_of_folders_whatever_a_data_set_or_class_is_called(tmp_path: Path) -> None:
    for name in ("a b", "é", ".hidden", "x" * 150, "semi;colon"):
        file = stripes(tmp_path / f"{name}.npz", classes=("../up", "b/c", "d"))
        run_id = quick(tmp_path, dataset=file, protected_class="../up").identity().run_id
        assert run_id.isascii() and "/" not in run_id and not run_id.startswith(".")
        assert len(run_id) < 100
