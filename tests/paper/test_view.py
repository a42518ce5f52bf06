"""A table as the notebooks show it: every section, of what is there."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_pairs import TESTED
from test_tables import ALL, scores

from csnb import paper
from csnb.figures import GREY
from csnb.paper import Table, readings, view
from csnb.runs import RESULTS

RUNS = [("mnist", "STD", 0, 0, ALL), ("mnist", "CSE", 3, 0, {"3": (909, 1010)})]


def table(frame: pd.DataFrame, dataset: str = "mnist") -> Table:
    """A table of 5 runs of which the frame holds some."""
    found = Table(dataset, "runs", [f"run{i}" for i in range(5)])
    found.__dict__["scores"] = frame
    found.__dict__["paired"] = paper.paired(TESTED if len(frame) else TESTED[:0], "mnist")
    found.__dict__["alarms"] = pd.DataFrame(
        [("STD", "3", 0, 0.01), ("CSE", "3", 0, 0.02)],
        columns=["method", "protected_class", "seed", "value"],
    )
    return found


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was displayed, as HTML or Markdown."""
    seen: list[str] = []

    def display(value: object) -> None:
        for name in ("_repr_html_", "_repr_markdown_"):
            if getattr(value, name, None):
                seen.append(getattr(value, name)())
                return
        raise AssertionError(value)

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(plt, "show", lambda: seen.append(plt.gcf().axes[0].get_title()))
    return seen


def test_all_sections_are_shown_in_order(shown: list[str]) -> None:
    found = table(scores(*RUNS))
    found.show()
    assert found.there == "2 of 5" and len(shown) == 2 * len(view.HEADINGS)
    assert shown[::2] == list(view.HEADINGS.values())
    page = dict(zip(view.HEADINGS, shown[1::2], strict=True))
    assert "0.9448" in page["printed"] and "0.900\n[0.880, 0.917]" in page["measured"]
    assert page["differences"] == "mnist, 2 of 5 runs: ours less the paper's accuracy"
    assert page["findings"].startswith("- **CSE > STD**, exact gradients: holds in 1, reversed in")
    assert "9.8e-04" not in page["orderings"] and "2.0e-03" in page["tests"]
    assert "+0.033 [-0.139, +0.206]" in page["trainings"]  # sqrt(1.39 / 20) 1.96 / 3 wide
    assert page["gradients"] == "*No run was attacked with both gradients.*"
    assert "higher" in page["cells"] and GREY not in page["cells"]


def test_where_the_numbers_come_from_is_said() -> None:
    folders = sorted(RESULTS.glob("mnist-CSE*-p3-s0-*"))
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    hours = sum(sum(result["seconds"].values()) for result in results) / 3600
    made = Table("mnist", RESULTS, [*(folder.name for folder in folders), "another"]).made()
    said = made.data.iloc[:, 0]
    assert len(folders) > 1 and said["runs"] == f"{len(folders)} of {len(folders) + 1}"
    assert float(said["hours, runs added up"]) == pytest.approx(hours, abs=0.051)
    assert all(result["provenance"]["machine"] in said["machine"] for result in results)


def test_false_alarms_of_who_knows_no_class_are_those_into_the_classes_that_others_protect(
    tmp_path: Path,
) -> None:
    labels = np.repeat([0, 1, 2], [4, 6, 10])
    answers = {"run0": labels * 0 + 2, "run1": labels.copy(), "run2": labels * 0}
    answers["run1"][:1] = 1
    for name, clean in answers.items():
        (tmp_path / name).mkdir()
        places = {"labels": labels, "attacked": np.arange(20), "clean": clean}
        np.savez(tmp_path / name / "predictions.npz", **places)
    runs = [("STD", 0, 0), ("CSE", 1, 0), ("CSA", "1+2", 1)]
    rows = [(f"run{k}", *run) for k, run in enumerate(runs)]
    frame = pd.DataFrame(rows, columns=["run", "method", "protected_class", "seed"])
    made = Table("mnist", tmp_path, list(answers))
    made.__dict__["scores"] = pd.concat([frame, frame], ignore_index=True)
    assert made.alarms.to_numpy().tolist() == [
        ["STD", "1", 0, 0.0], ["STD", "1+2", 0, 1.0],  # 4 of 4 images of 0 are called 2
        ["CSE", "1", 0, 1 / 14], ["CSA", "1+2", 1, 0.0],
    ]  # fmt: skip
    made.__dict__["scores"] = made.scores[:1]  # nobody else protects a class
    del made.__dict__["alarms"]
    assert made.alarms.to_numpy().tolist() == [["STD", "0", 0, 0.0]]


def test_chosen_sections_alone_are_shown(shown: list[str]) -> None:
    table(scores(*RUNS)).show("oddities", "cells")
    assert shown[::2] == [view.HEADINGS["oddities"], view.HEADINGS["cells"]]


def test_a_data_set_that_the_paper_does_not_have_has_no_published_section(shown: list[str]) -> None:
    found = table(scores(("digits", "STD", 0, 0, ALL)), "digits")
    found.show()
    assert not found.known and len(shown) == 2 * (len(view.HEADINGS) - len(view.OF_PUBLISHED))
    for section in (found.printed, found.differences, found.oddities):
        assert repr(section()) == "*The paper printed nothing for digits.*"


def test_a_table_without_runs_shows_what_was_published(shown: list[str]) -> None:
    frame = scores(*RUNS)
    table(frame[frame["seed"] == 1]).show()
    assert shown.count(view.NO_RUN) == 2 and len(shown) == 2 * len(view.HEADINGS)


def test_a_reading_belongs_to_the_runs_that_it_was_written_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readings, "READINGS", tmp_path)
    head = "<!-- written for: dataset = mnist; runs = 2 of 5 -->"
    (tmp_path / "table.md").write_text(f"{head}\nCSE is better.")
    assert repr(table(scores(*RUNS)).reading("table")) == "CSE is better."
    assert "CSE" not in repr(table(scores(RUNS[0])).reading("table"))
