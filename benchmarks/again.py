"""Committed runs made again from scratch, twice, beside what is committed.

    python benchmarks/again.py RUN...

RUN: names of folders in results/runs. Are the two the same to the bit, is the first what was
committed, and how many of its accuracies - of every class and attack - lie in the 95 % intervals
of the committed ones? Writes these runs' rows of results/again.csv.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import csnb
from csnb.runs import RESULTS, read_weights

KEPT = RESULTS.parent / "again.csv"


def left(folder: Path) -> dict[str, np.ndarray]:
    """What a run learned and answered: its weights and predictions by name."""
    with np.load(folder / "predictions.npz") as predictions:
        return read_weights(folder) | dict(predictions)


def same(one: Path, other: Path) -> bool:
    """Whether two runs left the same, to the bit."""
    first, second = left(one), left(other)
    alike = first.keys() == second.keys()
    return alike and all(np.array_equal(first[name], second[name]) for name in first)


def accuracies(folder: Path) -> pd.DataFrame:
    """Of every class and attack."""
    scores = csnb.read_runs(folder.parent, [folder.name])
    rows = scores[scores["measure"] == "accuracy"]
    return rows.astype({"attack": str, "class": str}).set_index(["attack", "class"])


def row(name: str, scratch: Path) -> dict[str, object]:
    """A run, made twice."""
    place = RESULTS / name
    result = csnb.read_run(place)
    experiment = csnb.Experiment.of_result(result)
    first, second = (
        csnb.run(experiment.model_copy(update={"runs": str(scratch / turn)})).folder
        for turn in ("first", "second")
    )
    committed, again = accuracies(place), accuracies(first)["value"]
    inside = again.between(committed["low"], committed["high"])
    return {
        "run": name,
        "bit-equal": same(first, second),
        "as committed": same(place, first),
        "accuracies": len(inside),
        "within": int(inside.sum()),
        "most apart": float((again - committed["value"]).abs().max()),
        "committed by": result["provenance"]["machine"],
        "machine": csnb.read_run(first)["provenance"]["machine"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="+")
    for name in parser.parse_args().run:
        with tempfile.TemporaryDirectory() as scratch:
            made = pd.DataFrame([row(name, Path(scratch))])
        kept = pd.read_csv(KEPT) if KEPT.exists() else made[:0]
        frame = pd.concat([kept[kept["run"] != name], made]).sort_values("run")
        frame.to_csv(KEPT, index=False, float_format="%.3g")
        print(made.T.to_string(header=False))


if __name__ == "__main__":
    main()
