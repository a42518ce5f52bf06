"""Hours and machines of sweeps: of committed runs whose seconds and machines are made up."""

import shutil
from pathlib import Path

import csnb
from csnb.batch.plan import SWEEPS as SWEEP_FILES
from csnb.batch.plan import make_plan
from csnb.pages.hours import OTHERS, SWEEPS, of_sweeps
from csnb.runs import RESULTS
from csnb.runs.folder import write_result


def test_every_sweep_has_a_row_or_is_among_the_others() -> None:
    others = {"calibration", "certified_tuning", "protection_tuning", "digits_table"}
    assert set(SWEEPS) | others == {file.stem for file in SWEEP_FILES.glob("*.yaml")}
    assert not set(SWEEPS) & others


def made(folder: Path, seconds: dict[str, float], **machine: object) -> None:
    result = csnb.read_run(folder)
    provenance = result["provenance"] | {"machine": "A", "device": "cpu", "threads": 1} | machine
    write_result(folder, result | {"seconds": seconds, "provenance": provenance})


def test_hours_are_of_finished_runs_alone(tmp_path: Path) -> None:
    one, two, three, _ = (job.run_id for job, _ in make_plan("threat_model", RESULTS))
    digits = next(folder.name for folder in sorted(RESULTS.glob("digits-*")))
    for name in (one, two, three, digits):
        shutil.copytree(RESULTS / name, tmp_path / name)
    made(tmp_path / one, {"train": 3600, "clean": 1800})
    made(tmp_path / two, {"train": 1800}, machine="B", threads=2)
    (tmp_path / three / "history.csv").write_text("edited")
    made(tmp_path / digits, {"train": 360})
    rows = {row[0]: row[1:] for row in of_sweeps(tmp_path)}
    assert rows.pop("sweep") == ["runs", "hours", "machines"]
    assert rows.pop("threat_model") == [
        "2 of 4",
        "2.0",
        "A, cpu, 1 thread: 1; B, cpu, 2 threads: 1",
    ]
    assert rows.pop(OTHERS) == ["1 of 1", "0.1", "A, cpu, 1 thread: 1"]
    assert rows.keys() == set(SWEEPS) - {"threat_model"}
    assert all(row[0].startswith("0 of ") and row[1:] == ["-", "-"] for row in rows.values())
