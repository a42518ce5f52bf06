"""Recipes are found by name from anywhere, or by path; what is not there is refused in one line."""

from pathlib import Path

import pytest

from csnb import Experiment, InputError
from csnb.params import read_params

ROOT = Path(__file__).resolve().parents[1]


def test_a_recipe_is_found_by_name_in_any_folder_and_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_params("mnist") == read_params(ROOT / "params" / "mnist.yaml")
    assert read_params("mnist")["dataset"] == "mnist"
    Path("own.yaml").write_text("dataset: digits\nepochs: 3\n")
    assert read_params("own.yaml") == {"dataset": "digits", "epochs": 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "mnits",
            None,
            "params: no file 'mnits'; allowed: cifar10, cifar100, cifar100_narrow, "
            "cifar10_certified, cifar10_pixel, digits, fashion_mnist, fashion_mnist_certified, "
            "fashion_mnist_pixel, mnist, ..., or a path; did you mean mnist?",
        ),
        ("own.yaml", "[1, 2]", "own.yaml: holds list; allowed: names with values"),
        ("own.yaml", "a: [", "own.yaml: cannot be read (while parsing"),
    ],
)
def test_no_recipe_is_refused_in_one_line(
    name: str, content: str | None, message: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_params(name)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_namespace_s_recipe_holds_where_the_namespace_gives_nothing() -> None:
    experiment = Experiment.from_namespace(
        {"params": "mnist", "epochs": 2, "__name__": "notebook", "In": []}
    )
    assert experiment == Experiment(**read_params("mnist") | {"epochs": 2})
    with pytest.raises(InputError, match=r"^epoch: no such parameter"):
        Experiment.from_namespace({"params": "mnist", "epoch": 2})
