"""What a relative path is relative to, wherever a notebook or a shell stands."""

from pathlib import Path

import pytest

from csnb.paths import CHECKOUT, NOTEBOOKS, PARAMS, RESULTS, project, resolve


@pytest.mark.parametrize("mark", [".git", "pyproject.toml"])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("here", ["", "notebooks", "notebooks/deeper/still"])
def test_a_project_is_the_nearest_folder_upwards_with_a_mark(
    mark: str, kind: str, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "project"
    (root / here).mkdir(parents=True)
    (root / mark).touch() if kind == "file" else (root / mark).mkdir()
    monkeypatch.chdir(root / here)
    assert project() == root
    assert resolve("runs") == resolve(Path("runs")) == root / "runs"


def test_the_nearest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder in (tmp_path / "outer", inner):
        (folder / "pyproject.toml").touch()
    monkeypatch.chdir(inner)
    assert project() == inner


def test_without_a_mark_it_is_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any((f / m).exists() for f in tmp_path.parents for m in (".git", "pyproject.toml")):
        pytest.skip("the temporary folder lies in a project")
    monkeypatch.chdir(tmp_path)
    assert resolve("runs") == tmp_path / "runs"


def test_absolute_paths_and_the_home_folder_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve(tmp_path / "x") == tmp_path / "x"
    assert resolve("~/runs") == tmp_path / "home" / "runs"


def test_csnbs_own_folders_are_where_they_are_said_to_be() -> None:
    assert Path(__file__).resolve().parents[1] == CHECKOUT
    assert (NOTEBOOKS / "protect.ipynb").is_file() and (PARAMS / "mnist.yaml").is_file()
    assert RESULTS == CHECKOUT / "results" / "runs"
