"""Audits of a run, kept in its folder: tidy rows as CSV, what each attack found as npz.

They are no part of what the run is: they come from its weights, whenever somebody asks. The rows
name the weights; those of others are left aside. The last row is a digest of what is above it.
"""

import hashlib
import io
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from csnb.paths import read_file, write_atomically
from csnb.runs.identity import NUMERICS
from csnb.runs.result import weights_digest

NUMBERS = ["value", "low", "high", "n"]  # that readers need; blank: unknown
TEXTS = ["part", "name", "class", "flagged", "text", "claim", "weights", "numerics"]
LEVELS = ("audited", "certified")  # that stand beside scores
MOST = 1e9  # images: more than any test set has
DIGEST = "digest"  # part of the last row, whose name it is
Known = dict[str, dict[str, tuple[float, int]]]  # by level and class: accuracy, of how many images


def audit_file(folder: Path, protected: Sequence[int], key: str) -> Path:
    """Where an audit's arrays lie; its rows beside, as .csv."""
    return folder / f"audit-p{'+'.join(map(str, protected))}-{key}.npz"


def keep_audit(file: Path, rows: pd.DataFrame) -> None:
    """Keep an audit's rows, ``part`` and ``name`` in front. Raises OSError."""
    content = rows.to_csv(index=False, lineterminator="\n").encode()
    blank = "," * (rows.shape[1] - 2)
    row = f"{DIGEST},{hashlib.sha256(content).hexdigest()}{blank}\n"
    write_atomically(file, content + row.encode())


def read_audits(folder: Path, weights: str) -> list[pd.DataFrame]:
    """The rows of each finished audit in a run's folder, of these weights (digest).

    What is no whole audit, for whatever reason, is left aside.
    """
    found = []
    for file in sorted(folder.glob("audit-p*.csv")):
        with suppress(OSError, ValueError, KeyError):
            rows = _rows(file)
            if (rows[["weights", "numerics"]] == [weights, str(NUMERICS)]).all(axis=None):
                found.append(rows.assign(file=file.name))
    return found


def _rows(file: Path) -> pd.DataFrame:
    """An audit's rows; text is as it stands there: a class may be called NA, or nothing at all.

    Raises OSError; ValueError or KeyError for what is none.
    """
    content, mark, digest = read_file(file).rpartition(f"{DIGEST},".encode())
    if not mark or not digest.startswith(hashlib.sha256(content).hexdigest().encode()):
        raise ValueError(f"{file.name} is damaged")
    rows = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    rows = rows.assign(**{name: rows[name].replace("", "nan").astype(float) for name in NUMBERS})
    counted = rows[rows["part"].eq("accuracy") & rows["name"].isin(LEVELS)]
    verdict = rows[rows["part"] == "verdict"]
    of_verdict = counted["name"].eq("audited") & counted["class"].isin(verdict["class"])
    counts = pd.concat([counted["n"], verdict["n"]])
    sound = counted["value"].between(0, 1).all() and counts.between(0, MOST).all()
    once = len(verdict) == 1 and not counted.duplicated(["name", "class"]).any()
    if not (sound and once and of_verdict.any()) or rows[TEXTS].isna().any(axis=None):
        raise ValueError(f"{file.name} is no whole audit")
    return rows


def audited(folder: Path, result: Mapping[str, Any]) -> Known:
    """Accuracy of each audited class under the worst of all attacks ("audited") and, where bounds
    know the network, under any ("certified"); and of how many images.

    By level, then by the class's name. Of several audits the one of the most images; of these the
    lowest.
    """
    best: dict[str, dict[str, tuple[int, float]]] = {}
    for rows in read_audits(folder, weights_digest(result)):
        part = rows[(rows["part"] == "accuracy") & rows["name"].isin(LEVELS)]
        for level, name, n, value in part[["name", "class", "n", "value"]].itertuples(index=False):
            if name in result["classes"]:
                known = best.setdefault(level, {})
                known[name] = max(known.get(name, (0, 0.0)), (int(n), -float(value)))
    return {
        level: {name: (-value, n) for name, (n, value) in known.items()}
        for level, known in best.items()
    }


def add_audited(frame: pd.DataFrame, known: Mapping[str, Known]) -> pd.DataFrame:
    """Scores with ``audited`` and ``audited_n`` after ``high`` where there is an audit, and with
    ``certified`` and ``certified_n`` where one has bounds.

    ``known``: by run, of `audited`. They stand beside every accuracy of the class under attack.
    """
    if not known:
        return frame
    rows = (frame["measure"] == "accuracy") & (frame["attack"] != "clean")
    places = list(zip(frame["run"].astype(str), frame["class"].astype(str), rows, strict=True))
    columns = {}
    for level in LEVELS:
        if any(level in levels for levels in known.values()):
            found = np.full((len(frame), 2), np.nan)
            for place, (run, name, fit) in enumerate(places):
                if fit:
                    found[place] = known.get(run, {}).get(level, {}).get(name, np.nan)
            columns[level] = found[:, 0]
            columns[f"{level}_n"] = pd.array(found[:, 1]).astype("Int64")
    added = frame.assign(**columns)
    added.attrs = frame.attrs
    return added


def carry(source: Path, target: Path, weights: str) -> None:
    """Copies a run's audits to the folder that takes its place, if the weights are the same."""
    for rows in read_audits(source, weights):
        for suffix in (".csv", ".npz"):
            with suppress(OSError):
                shutil.copy2((source / rows["file"][0]).with_suffix(suffix), target)
