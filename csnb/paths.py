"""Where things lie: csnb's own checkout, and what a relative path of a run is relative to."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]  # of an editable installation
NOTEBOOKS, PARAMS, RESULTS = (
    CHECKOUT / "notebooks",
    CHECKOUT / "params",
    CHECKOUT / "results/runs",
)
MARKS = (".git", "pyproject.toml")


def project() -> Path:
    """The nearest folder upwards that is a project's root (it holds .git or pyproject.toml), else
    the working directory.

    JupyterLab starts a notebook in the notebook's folder, papermill where it was called: both find
    the same root.
    """
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if any((f / m).exists() for m in MARKS)), here)


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one is taken from `project`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project() / path
