"""One run: why it failed, what is left of it, whose GPU it has; and the bars that people see."""

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import psutil
import pytest
from batches import END, ROOT, SLEEP, START, alive, csnb_sweep, stamps, wait_for, write_sweep

from csnb import figures, progress, runs, sweep
from csnb.__main__ import _as_text, main
from csnb.batch import child, execute, make_plan
from csnb.batch.child import Failure
from csnb.batch.execute import gpu_slot, run_one, try_lock

TROUBLE = """
import os, signal, sys, time
from pathlib import Path
_broken = not Path(dataset).with_name("repaired").exists()
if _broken and seed == 1: raise ValueError("two\\nlines")
if _broken and seed == 2: sys.exit(0)
if _broken and seed == 3: time.sleep(600)
if _broken and seed == 4: os.kill(os.getpid(), signal.SIGKILL)
if _broken and seed == 5: open("/dev/full", "w").write("x" * 100_000)
if _broken and seed == 6: os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)
"""
AFTER = """
_new = run.folder.with_name(f".{run.folder.name}.new")
if _broken and seed == 7: (_new / "model.safetensors").write_bytes(b"x")
if _broken and seed == 8: (_new / "result.json").write_text("{}")
if _broken and seed == 9: sys.exit(0)
"""
REASONS = {
    1: "raised: ValueError: two lines",
    2: "sys.exit: a cell called sys.exit(0)",
    3: "time-out: more than 20 s",
    4: "kernel killed: ",
    5: "disk full: ",
    6: "killed: its process ended with SIGKILL",
    7: "incomplete: model.safetensors has changed",
    8: "result.json",
    9: "sys.exit: ",
    10: "raised: InputError: init_from",
}


def test_failures_have_names_and_leave_no_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that need no run; see the slow one below for all."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    file = write_sweep(tmp_path, TROUBLE, seed=[1, 2, 4, 5, 6, 0])
    before, others = psutil.Process().num_fds(), {*psutil.Process().children(recursive=True)}
    frame = sweep(file, runs=tmp_path / "runs", jobs=2)
    assert list(frame["state"]) == ["failed"] * 6
    for seed, reason in zip([1, 2, 4, 5, 6], frame["reason"], strict=False):
        assert reason.startswith(REASONS[seed]) and "\n" not in reason
    assert frame["reason"].iloc[5] == "incomplete: the notebook wrote no result of this run"
    for job, _ in make_plan(file, tmp_path / "runs"):
        assert sorted(path.name for path in job.folder.iterdir()) == ["failed.ipynb", "failed.json"]
    assert not list((tmp_path / "tmp").iterdir()) and psutil.Process().num_fds() <= before + 1
    wait_for(lambda: not {*psutil.Process().children(recursive=True)} - others, 10)
    assert capsys.readouterr().out.count("\nFAILED  stripes-CSA-p0-s") == 6
    assert main(["status", str(tmp_path / "runs")]) == 1


def test_a_run_that_takes_too_long_ends_with_its_kernel(tmp_path: Path) -> None:
    cell = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {SLEEP}"
    file = write_sweep(tmp_path, cell, timeout=8, seed=[0])
    ((job, _),) = make_plan(file, tmp_path / "runs")
    assert run_one(job).reason == "time-out: more than 8 s"
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.slow
def test_failures_are_reported_by_name_and_the_next_call_repeats_just_those(tmp_path: Path) -> None:
    garbage = tmp_path / "weights"
    garbage.mkdir()
    (garbage / "model.safetensors").write_bytes(b"garbage")
    unreadable = {"seed": 10, "init_from": str(garbage)}
    cells = (TROUBLE, START, END, AFTER)
    file = write_sweep(tmp_path, *cells, timeout=20, seed=list(range(10)), also=[unreadable])
    folder = tmp_path / "runs"
    code, output = csnb_sweep(file, folder, "--jobs", "2")
    assert code == 1 and output.endswith("\n10 failed, 1 done\n"), output
    for job, found in make_plan(file, folder):
        seed = job.parameters["seed"]
        assert found.state == ("failed" if seed else "done"), job
        assert REASONS.get(seed, "") in found.reason and "\n" not in found.reason
        assert (f"FAILED  {job.run_id}: " in output) == bool(seed)
    assert Counter(runs.status(folder)["state"]) == {"failed": 10, "done": 1}

    before = {job.run_id for job, found in make_plan(file, folder) if found.state == "done"}
    before = {name: stamp for name, stamp in stamps(folder).items() if name in before}
    (tmp_path / "repaired").touch()
    assert csnb_sweep(file, folder, "--jobs", "2", "--only", "seed=0")[0] == 0
    code, output = csnb_sweep(file, folder, "--jobs", "2", "--retry-failed")
    assert code == 1 and output.endswith("\n10 done, 1 failed\n"), output  # still garbage
    assert before.items() <= stamps(folder).items() and output.count("\ndone ") == 9


def test_a_failing_rerun_leaves_the_finished_run_whole(tmp_path: Path) -> None:
    """Whatever it held: only a run that is done takes its place."""
    file = write_sweep(tmp_path, TROUBLE, seed=[1])
    ((job, _),) = make_plan(file, tmp_path / "runs")
    job.folder.mkdir(parents=True)
    (job.folder / "result.json").write_text("an older result")
    assert run_one(job).reason == "raised: ValueError: two lines"
    assert (job.folder / "result.json").read_text() == "an older result"


COUNTED = """
import csnb.runner
from pathlib import Path
_fit, _place = csnb.runner.fit, Path(dataset).parent
def _counted(*given, **named):
    with (_place / "trained").open("a") as file:
        file.write("once ")
    return _fit(*given, **named)
csnb.runner.fit = _counted
"""
FULL = 'if not (_place / "room").exists(): raise OSError(28, "No space left on device")'


def test_a_disk_that_is_full_at_the_end_does_not_cost_the_training(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, COUNTED, START, FULL, END, seed=[0])
    ((job, _),) = make_plan(file, tmp_path / "runs")
    assert run_one(job).reason.startswith("disk full: ")
    assert runs.inspect(job.folder).state == "failed"
    (tmp_path / "room").touch()
    assert run_one(job).state == "done"
    assert (tmp_path / "trained").read_text() == "once "
    assert [path.name for path in job.runs.iterdir() if path.name != ".locks"] == [job.run_id]


def test_inputs_that_change_after_the_plan_fail_the_run(tmp_path: Path) -> None:
    file = write_sweep(tmp_path, TROUBLE, seed=[0])
    ((job, _),) = make_plan(file, tmp_path / "runs")
    (tmp_path / "stripes.npz").write_bytes(b"")
    found = run_one(job)
    assert found.state == "failed" and re.match("raised: .*stripes.npz", found.reason)


def test_a_run_that_somebody_is_at_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "_execute", lambda *_: pytest.fail("executed"))
    file = write_sweep(tmp_path, TROUBLE, seed=[0])
    ((job, _),) = make_plan(file, tmp_path / "runs")
    stop = threading.Event()
    stop.set()  # so that it does not wait
    for name in (job.run_id, f"{job.run_id}.claim"):  # of a notebook's kernel; of another sweep
        (job.runs / ".locks").mkdir(parents=True, exist_ok=True)
        with try_lock(job.runs / ".locks" / name) as mine:
            assert mine and run_one(job, stop=stop).state == "running"
    assert not job.folder.exists()


def test_a_kernel_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ipykernel_launcher.py").write_text("raise OSError('no kernel today')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    file = write_sweep(tmp_path, TROUBLE, seed=[0])
    ((job, _),) = make_plan(file, tmp_path / "runs")
    found = run_one(job)
    assert found.reason.startswith("no kernel: ") and "no kernel today" in found.reason


def test_what_a_child_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, folder; a backend in the environment does not cost the figures."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    names = ("CSNB_HOLD", "CSNB_QUIET", "OMP_NUM_THREADS", "MPLBACKEND")
    cell = f"import os\nraise ValueError([os.environ.get(n) for n in {names}], os.getcwd())"
    file = write_sweep(tmp_path, cell, threads=3)
    monkeypatch.chdir(tmp_path)
    ((job, _),) = make_plan(file, tmp_path / "runs")
    known = [job.run_id, "1", "3", "module://matplotlib_inline.backend_inline"]
    assert run_one(job).reason == f"raised: ValueError: ({known}, {str(tmp_path)!r})"


# --- GPUs


def test_a_gpu_is_one_run_s_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delattr(os, "getuid")  # as on Windows
    taken, stop = [], threading.Event()

    def third() -> None:
        with gpu_slot(["0", "MIG-1/2"], stop, wait=0.01) as slot:
            taken.append(slot["CUDA_VISIBLE_DEVICES"])

    with gpu_slot(["0", "MIG-1/2"], stop) as first:
        with gpu_slot(["0", "MIG-1/2"], stop) as second:
            names = [slot["CUDA_VISIBLE_DEVICES"] for slot in (first, second)]
            assert names == ["0", "MIG-1/2"]
            waiting = threading.Thread(target=third)
            waiting.start()
            time.sleep(0.3)
            assert taken == []
        waiting.join(10)
        assert taken == ["MIG-1/2"]
    with gpu_slot([], stop) as none:
        assert none == {}
    with gpu_slot(["0"], stop):
        stop.set()
        with pytest.raises(Failure), gpu_slot(["0"], stop, wait=10):
            pass


def test_gpus_are_those_that_the_environment_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert execute.devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert execute.devices() == ["3", "5"]


def test_a_run_takes_a_gpu_unless_it_is_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(execute, "devices", lambda: ["7"])
    seen = {}

    def run_child(job, folder, slot, stop) -> None:
        seen[job.parameters["device"]] = slot
        raise Failure("raised", "no more than that")

    monkeypatch.setattr(execute, "_run_child", run_child)
    file = write_sweep(tmp_path, device="cpu", seed=0, also=[{"device": "auto", "seed": 1}])
    for job, _ in make_plan(file, tmp_path / "runs"):
        run_one(job)
    assert seen == {"cpu": {}, "auto": {"CUDA_VISIBLE_DEVICES": "7"}}


# --- where a run's process and its kernel meet


def test_kernel_and_client_talk_through_files_in_the_given_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def execute_notebook(notebook: str, target: str, parameters: dict, **options: object):
        given.update(options)
        return nbformat.v4.new_notebook()

    monkeypatch.setattr(papermill, "execute_notebook", execute_notebook)
    child.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {}, tmp_path)
    kernel = given["config"]["KernelManager"]
    assert kernel["transport"] == "ipc" and Path(kernel["ip"]).parent == tmp_path
    assert Path(kernel["connection_file"]).parent == tmp_path


@pytest.mark.parametrize("length", [0, execute.LONG])
def test_a_runs_own_folder_is_the_systems_unless_that_leaves_no_room_for_sockets(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp")) / ("x" * length)
    place.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    seen = []

    def run_child(job, folder, slot, stop) -> None:
        seen.append(folder.parent)
        raise Failure("raised", "no more than that")

    monkeypatch.setattr(execute, "_run_child", run_child)
    file = write_sweep(tmp_path, seed=0)
    for job, _ in make_plan(file, tmp_path / "runs"):
        run_one(job)
    assert seen == [Path("/tmp") if length else place]
    shutil.rmtree(place.parent if length else place)


# --- a full disk


def tmpfs(folder: Path, size: str, option: str = "") -> bool:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"{option}size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    if shutil.which("mount") is None or not tmpfs(folder, "150k"):
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        file = write_sweep(tmp_path, seed=[0, 1, 2])
        code, output = csnb_sweep(file, folder, "--jobs", "1")
        assert code == 1 and "disk full" in output, output
        done = stamps(folder)
        states = [found.state for _, found in make_plan(file, folder)]
        assert states.count("done") == len(done) < 3
        assert tmpfs(folder, "10m", "remount,")
        assert csnb_sweep(file, folder, "--jobs", "2")[0] == 0
        assert {found.state for _, found in make_plan(file, folder)} == {"done"}
        assert done.items() <= stamps(folder).items()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# --- bars

BARS = """
import sys, time
from csnb.progress import bar, say
with bar(3, "training") as shown:
    for epoch in range(3):
        shown.step(f"loss {epoch}")
        say(f"line {epoch}\\x1b[31m")
        time.sleep(0.15)
    shown.note("at the end")
"""


def on_terminal(**environment: str) -> str:
    """What a terminal is sent."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    process = subprocess.Popen([sys.executable, "-c", BARS], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


def test_a_terminal_has_a_bar_with_the_time_left_and_lines_above_it() -> None:
    said = on_terminal(CSNB_QUIET="0")
    assert "training: 2 of 3 " in said and " left, loss 1" in said and "at the end" in said
    assert [
        line for line in said.splitlines() if line.startswith("line")
    ] or "\rline 0 [31m" in said
    assert "\x1b[31m" not in said  # somebody else's control characters
    assert on_terminal(CSNB_QUIET="1").splitlines() == [f"line {n} [31m" for n in range(3)]


def test_nobody_s_output_has_no_bar() -> None:
    command = [sys.executable, "-c", BARS]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.splitlines() == [f"line {n} [31m" for n in range(3)]
    assert process.stderr == ""


def test_a_notebook_keeps_the_last_state_of_a_bar_as_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BARS)])
    nbformat.write(notebook, tmp_path / "bars.ipynb")
    options = {"kernel_name": "python3", "progress_bar": False}
    for quiet in ("0", "1"):
        monkeypatch.setenv("CSNB_QUIET", quiet)
        done = papermill.execute_notebook(str(tmp_path / "bars.ipynb"), None, **options)
        kinds = Counter(output.output_type for output in done.cells[0].outputs)
        assert kinds["display_data"] == (quiet == "0") and "widgets" not in done.metadata
        assert all(output.get("name") != "stderr" for output in done.cells[0].outputs)
        for output in done.cells[0].outputs:
            if output.output_type == "display_data":
                assert set(output.data) == {"text/plain"}
                assert output.data["text/plain"].startswith("training: 3 of 3 ")


def test_say_survives_a_reader_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with io.TextIOWrapper(os.fdopen(write, "wb"), write_through=True) as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        for _ in range(3):
            progress.say("nobody hears this")


# --- the shell


def test_help_takes_less_than_a_second() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "csnb", "--help"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 0 and "sweep" in process.stdout
    assert time.perf_counter() - start < 1
    assert not any(name in process.stderr for name in ("torch", "numpy", "pandas"))


def test_a_child_imports_neither_torch_nor_csnb() -> None:
    code = f"import runpy, sys; runpy.run_path({child.__file__!r}); print(*sys.modules)"
    process = subprocess.run([sys.executable, "-Sc", code], capture_output=True, text=True)
    assert process.returncode == 0 and "csnb" not in process.stdout, process.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["PGD", "CSE", "lenet", "digits"]),
        (["attacks"], ["PGD", "steps=40"]),
        (["methods"], ["CSA", "CSE+ADV"]),
        (["models"], ["lenet", "kernels=6"]),
        (["datasets"], ["digits", "cifar100"]),
        (["attacks", "PGD"], ["restarts", "whole number"]),
    ],
)
def test_list_shows_what_there_is(
    arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", *arguments]) == 0
    output = capsys.readouterr().out
    assert all(part in output for part in parts)


def test_list_of_an_unknown_name_says_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "attacks", "PDG"]) == 2
    assert "did you mean PGD" in capsys.readouterr().err


def test_status_reports_whatever_lies_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    content = {"reason": "raised", "message": "\x1b[31mred", "seconds": 1}
    (tmp_path / "a" / "failed.json").write_text(json.dumps(content))
    assert main(["status", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert output.startswith("1 runs: 1 failed\nfailed      a: raised: ") and "\x1b" not in output
    assert main(["status", str(tmp_path / "nowhere")]) == 2


def test_what_a_terminal_shows_of_a_summary_is_text_in_columns() -> None:
    frame = pd.DataFrame({"clean": ["0.95\n[0.9, 1]", "1"], "PGD": [0.25, None]}, ["STD", "A"])
    html = figures.table(frame, caption="digits & p", precision=2).to_html()
    assert _as_text({"text/html": html}).splitlines() == [
        "", "", "digits & p", "     clean          PGD", "STD  0.95 [0.9, 1]  0.25", "A    1",
    ]  # fmt: skip
    assert _as_text({"text/markdown": "**so**"}).strip() == "**so**"


@pytest.mark.parametrize("place", ["/dev/null", "/proc/x", "/dev/null/x", "{}/file", "{}/file/x"])
def test_demo_onto_what_is_no_folder_is_refused_in_one_line(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    folder = place.format(tmp_path)
    assert main(["demo", folder]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"csnb: folder: {folder} cannot be written (")
    assert line.endswith("); allowed: a writable folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_demo_without_a_checkout_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("csnb.paths.NOTEBOOKS", tmp_path)
    assert main(["demo", str(tmp_path / "demo")]) == 2
    assert capsys.readouterr().err.startswith("csnb: demo: no ")
    assert not (tmp_path / "demo").exists()
