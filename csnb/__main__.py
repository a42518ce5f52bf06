"""``python -m csnb demo FOLDER``: the quickstart notebook, run headlessly, with its table on the terminal."""

import argparse
import sys
from pathlib import Path

from csnb.errors import InputError

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


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="csnb", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("demo", help="run the quickstart notebook on the embedded data set")
    command.add_argument("folder", type=Path, help="where the notebook, its page and its runs go")
    command.set_defaults(call=lambda options: demo(options.folder))
    options = parser.parse_args(arguments)
    try:
        options.call(options)
    except InputError as error:
        print(f"csnb: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
