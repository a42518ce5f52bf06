"""``csnb demo``: the quickstart notebook, run headlessly. ``csnb sweep``: a batch of runs. ``csnb status``: how far it is."""

import argparse
import sys
from pathlib import Path

from csnb.errors import InputError
from csnb.plan import parse_only
from csnb.status import status
from csnb.sweep import BACKENDS, sweep

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def demo(folder: Path) -> None:
    """Execute quickstart.ipynb into ``folder``, write an HTML page beside it, print its tables and both paths."""
    import nbconvert
    import nbformat
    import papermill

    source, target = NOTEBOOKS / "quickstart.ipynb", folder / "quickstart.ipynb"
    if not source.is_file():
        raise InputError(f"demo: no {source}; allowed: a checkout of csnb, installed with pip install -e")
    folder.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(str(source), str(target), {"runs": str(folder.resolve() / "runs")}, log_output=False)
    page, _ = nbconvert.HTMLExporter().from_filename(str(target))
    target.with_suffix(".html").write_text(page, encoding="utf-8")
    for cell in nbformat.read(target, as_version=4).cells:
        if "summary" in cell.metadata.get("tags", []):
            print("\n" + "".join(output.get("text", "") for output in cell.outputs), end="")
    print(f"\nnotebook  {target.resolve()}\npage      {target.with_suffix('.html').resolve()}")


def batch(options: argparse.Namespace) -> int:
    """Execute or plan a sweep; returns 1 if a run failed."""
    names = ("file", "jobs", "runs", "dry_run", "retry_failed", "backend", "address")
    frame = sweep(**{name: getattr(options, name) for name in names}, only=parse_only(options.only))
    counts = frame["state"].value_counts()
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    return int(frame["state"].isin(["failed", "broken"]).any())


def report(folder: Path) -> int:
    """Print how far the runs in a folder are; returns 1 if one failed or is broken."""
    frame = status(folder)
    counts = frame["state"].value_counts()
    print(f"{len(frame)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for row in frame[frame["state"] != "done"].itertuples():
        print(f"{row.state:11} {row.run}{': ' if row.now else ''}{row.now}")
    return int(frame["state"].isin(["failed", "broken"]).any())


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="csnb", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("demo", help="run the quickstart notebook on the embedded data set")
    command.add_argument("folder", type=Path, help="where the notebook, its page and its runs go")
    command.set_defaults(call=lambda options: demo(options.folder))
    command = commands.add_parser("sweep", help="execute the runs of a sweep file that are not done")
    command.add_argument("file", type=Path, help="a sweep file, or the name of one in params/sweeps, such as mnist_table2")
    command.add_argument("--jobs", type=int, help="runs at once; default: cores divided by threads, or one for each GPU")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs' folders (default: runs)")
    command.add_argument("--dry-run", action="store_true", help="print what is done, to do and failed, and the time left")
    command.add_argument("--retry-failed", action="store_true", help="execute only what failed before")
    command.add_argument("--only", default="", metavar="NAME=VALUE,...", help="only the runs with these parameters")
    command.add_argument("--backend", choices=BACKENDS, default="loky", help="loky: this machine; dask, ray: a cluster")
    command.add_argument("--address", default="", help="of the cluster, such as tcp://host:8786")
    command.set_defaults(call=batch)
    command = commands.add_parser("status", help="how far the runs in a folder are")
    command.add_argument("folder", type=Path, help="folder of the runs' folders")
    command.set_defaults(call=lambda options: report(options.folder))
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if a run failed, 2 for bad input, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        return options.call(options) or 0
    except InputError as error:
        print(f"csnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
