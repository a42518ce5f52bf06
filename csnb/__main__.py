"""csnb from the shell: a demonstration; sweeps of many runs; how far they are; what there is."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

from csnb.errors import InputError

if TYPE_CHECKING:
    from concurrent.futures import Executor

KINDS = ("attacks", "methods", "models", "datasets")
DEMO = ("quickstart", "protect_best", "certified_protection")


def demo(options: argparse.Namespace) -> None:
    """Execute three notebooks into a folder, HTML pages beside them; print what they found.

    The paper's idea, what of it protects a class, and what no attack can undo.
    """
    from csnb.locks import scratch
    from csnb.paths import NOTEBOOKS, expand

    folder = expand(options.folder, "folder").resolve()
    sources = [NOTEBOOKS / f"{name}.ipynb" for name in DEMO]
    missing = [source for source in sources if not source.is_file()]
    if missing:
        raise InputError(
            f"demo: no {missing[0]}; allowed: a checkout of csnb, installed with pip install -e"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder):  # it can be written, too
            pass
    except OSError as error:
        raise InputError(
            f"folder: {folder} cannot be written ({error.strerror}); allowed: a writable folder"
        ) from None
    with scratch() as sockets:
        for source in sources:
            _demonstrate(source, folder, sockets)


def _demonstrate(source: Path, folder: Path, sockets: Path) -> None:
    """Execute one notebook, print its summary cells."""
    import nbconvert
    import nbformat

    from csnb.batch.child import execute
    from csnb.progress import say

    target = folder / source.name
    page = target.with_suffix(".html")
    execute(source, target, {"runs": str(folder / "runs")}, sockets)
    page.write_text(nbconvert.HTMLExporter().from_filename(str(target))[0], encoding="utf-8")
    for cell in nbformat.read(target, as_version=4).cells:
        if "summary" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                say(_as_text(output.get("data", {})))
    say(f"\nnotebook  {target}\npage      {page}\n")


def _as_text(data: Mapping[str, str]) -> str:
    """What a terminal can show of a cell's output: Markdown as it is, a table in columns."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(data.get("text/html", ""), "html.parser")
    rows = [[" ".join(c.get_text(" ").split()) for c in row(["th", "td"])] for row in page("tr")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=False)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    captions = [caption.get_text() for caption in page("caption")]
    return "\n".join(["", data.get("text/markdown", ""), *captions, *lines])


def sweep(options: argparse.Namespace) -> int:
    """Execute, plan or print the runs of a sweep file; returns 1 if a run failed."""
    from csnb.batch import make_plan, sweep
    from csnb.batch.plan import parse_only
    from csnb.progress import say

    only = parse_only(options.only)
    if options.commands:
        for job, found in make_plan(options.file, options.runs, only):
            if found.state != "done":
                say(job.command())
        return 0
    names = ("file", "jobs", "runs", "dry_run", "retry_failed")
    with _executor(options.dask) as executor:
        chosen = {name: getattr(options, name) for name in names}
        frame = sweep(**chosen, only=only, executor=executor)
    counts = frame["state"].value_counts()
    say(", ".join(f"{count} {state}" for state, count in counts.items()))
    return int(frame["state"].isin(["failed", "broken"]).any())


def status(options: argparse.Namespace) -> int:
    """Print how far the runs in a folder are; returns 1 if one failed or is broken."""
    from csnb.paths import resolve
    from csnb.progress import say
    from csnb.runs import status

    frame = status(resolve(options.folder, "runs"))
    counts = frame["state"].value_counts()
    say(f"{len(frame)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for row in frame[frame["state"] != "done"].itertuples():
        say(f"{row.state:11} {row.run}{': ' if row.now else ''}{row.now}")
    return int(frame["state"].isin(["failed", "broken"]).any())


def show(options: argparse.Namespace) -> None:
    """Print what there is to run; of one attack, method, model or data set, its options."""
    import csnb
    from csnb.progress import say

    if options.name:
        say(getattr(csnb, options.kind.upper()).explained(options.name).to_string())
        return
    for kind in [options.kind] if options.kind else KINDS:
        say(f"{kind}:")
        for row in getattr(csnb, kind.upper()).table().itertuples():
            say(f"  {row.Index}{row.options and f'({row.options})'}")
            say(f"      {row.what} ({row.source})")
        if kind == "models":
            _show_trained()


def _show_trained() -> None:
    """Print the networks that are trained already, and where there are more untrained ones."""
    import csnb
    from csnb.progress import say

    say("  any classifier of torchvision, such as mobilenet_v3_small; torchvision.resnet18")
    say('  a class of your own file: "mine.py:Net(width=32)"')
    say("trained, by csnb.load_pretrained(...):")
    for row in csnb.pretrained.pretrained().itertuples():
        say(f"  {row.Index}\n      {row.scores} ({row.run})")


def export(options: argparse.Namespace) -> None:
    """Write a finished run's network as torch.export and ONNX, with a model card."""
    import csnb

    csnb.export(options.run, options.folder)


@contextmanager
def _executor(address: str) -> Iterator["Executor | None"]:
    """A dask cluster's, at ``address``; None without."""
    if not address:
        yield None
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise InputError(
            "dask: not installed; allowed: after pip install 'csnb[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise InputError(
            f"dask: {address!r} does not answer ({error}); allowed: tcp://host:8786"
        ) from None
    with client:
        yield client.get_executor(pure=False)


class Parser(argparse.ArgumentParser):
    """Refuses as csnb does everywhere: in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message}; allowed: see {self.prog} --help")


def parser() -> Parser:
    """The commands and their options."""
    parser = Parser(prog="csnb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="demo | sweep | status | list | export")

    command = commands.add_parser(
        "demo", help="run the quickstart notebook on the embedded data set"
    )
    command.add_argument("folder", help="where the notebook, its page and its runs go")
    command.set_defaults(call=demo)

    command = commands.add_parser(
        "sweep", help="execute the runs of a sweep file that are not done"
    )
    option = command.add_argument
    option("file", help="a sweep file, or the name of one in params/sweeps, such as mnist_table2")
    option("--jobs", type=int, help="runs at once; default: cores by threads, or one for each GPU")
    option(
        "--runs", default="runs", help="folder of the runs' folders (default: the project's runs)"
    )
    option("--dry-run", action="store_true", help="print how far the runs are, and the time left")
    option("--retry-failed", action="store_true", help="execute only what failed before")
    option("--only", default="", metavar="NAME=VALUE,...", help="only runs with these parameters")
    option("--dask", default="", metavar="ADDRESS", help="execute on this dask cluster")
    option("--commands", action="store_true", help="print a papermill line for each open run only")
    command.set_defaults(call=sweep)

    command = commands.add_parser("status", help="how far the runs in a folder are")
    command.add_argument("folder", nargs="?", default="runs", help="default: the project's runs")
    command.set_defaults(call=status)

    command = commands.add_parser("list", help="the attacks, methods, models and data sets")
    command.add_argument("kind", nargs="?", choices=KINDS)
    command.add_argument("name", nargs="?", help="one of them: its options")
    command.set_defaults(call=show)

    command = commands.add_parser("export", help="a run's network without csnb, and a model card")
    command.add_argument("run", help="a finished run's folder")
    command.add_argument("folder", help="a new folder")
    command.set_defaults(call=export)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line.

    Returns the exit status: 1 if a run failed, 2 for bad input, 130 after Ctrl-C.
    """
    try:
        options = parser().parse_args(arguments)
        return options.call(options) or 0
    except InputError as error:
        print(f"csnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
