"""Headless runs: progress, resuming, and what a failure says."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from labsupport import run
from labsupport.build.editions import write
from labsupport.build.names import edition_path
from labsupport.build.render import render
from labsupport.errors import LabError
from labsupport.run_memory import PeakMemory
from tests.small_lab import SOURCE, write_course

pytestmark = pytest.mark.notebook

# The parameter reaches the lab, the folder is the notebook's, nobody sits here.
PRINTS = SOURCE.replace(
    'print("shape", (2, 3))',
    'import os\nprint(scale, os.path.basename(os.getcwd()), "JPY_SESSION_NAME" in os'
    ".environ)",
)
FAILS = SOURCE.replace('print("shape", (2, 3))', 'print(1 / len(""))')


def course(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> Path:
    write_course(folder, monkeypatch, **sources)
    for name, source in sources.items():
        for edition in ("reader", "solved"):
            write(render(source, edition), edition_path(name, edition))
    return folder / "my_labs" / "runs"


def outputs(path: Path, cell_id: str) -> str:
    cells = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    return "".join(output.text for output in cells[cell_id].outputs)


def test_a_run_goes_on_after_a_failure_resumes_it_and_starts_over_once_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook that started us")
    runs = course(
        tmp_path, monkeypatch, **{"00_a": PRINTS, "01_b": FAILS, "02_c": SOURCE}
    )
    assert run.run_labs(scale="ci") == 1
    said = capsys.readouterr().out
    assert re.search(r"\[1/3\] 00_a  passed  \d", said)
    assert re.search(r"\[2/3\] 01_b  failed  \d", said)
    assert re.search(r"\[3/3\] 02_c  passed  \d", said)
    assert "01_b failed in cell squares: ZeroDivisionError" in said
    assert "2 of 3 passed" in said and "\x1b" not in said
    block = said[said.index("01_b failed in") :]
    assert len(block.splitlines()) < 10
    assert outputs(runs / "reader" / "00_a.ipynb", "squares").startswith(
        "ci labs False\n"
    )
    assert outputs(runs / "reader" / "00_a.ipynb", "use") == "using ours\n"
    # A failing run leaves its notebook to look at.
    assert (runs / "reader" / "01_b.ipynb").exists()
    assert "widgets" not in nbformat.read(runs / "reader" / "00_a.ipynb", 4).metadata

    # The lab is put right; only it runs again.
    write(render(SOURCE, "reader"), edition_path("01_b", "reader"))
    assert run.run_labs(scale="ci") == 0
    said = capsys.readouterr().out
    assert "[1/3] 00_a  passed before" in said
    assert re.search(r"\[2/3\] 01_b  passed  \d", said)
    assert "3 of 3 passed" in said

    # Nothing is left to resume, so the next run is a whole one.
    assert run.run_labs(["a"], scale="ci") == 0
    assert "passed before" not in capsys.readouterr().out


def test_a_resume_runs_what_changed_and_again_runs_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    course(tmp_path, monkeypatch, **{"00_a": SOURCE, "01_b": FAILS})
    assert run.run_labs(scale="ci") == 1
    changed = SOURCE.replace("range(4)", "range(5)")
    write(render(changed, "reader"), edition_path("00_a", "reader"))
    capsys.readouterr()
    assert run.run_labs(scale="ci") == 1
    assert "passed before" not in capsys.readouterr().out
    assert run.run_labs(scale="ci", again=True) == 1
    assert "passed before" not in capsys.readouterr().out
    # Another edition is another run.
    assert run.run_labs(["a"], scale="ci", edition="solved") == 0
    assert "passed before" not in capsys.readouterr().out


def test_a_lab_that_hangs_ends_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hangs = SOURCE.replace(
        'print("shape", (2, 3))', "import threading\n\nthreading.Event().wait()"
    )
    course(tmp_path, monkeypatch, **{"00_a": hangs})
    assert run.run_labs(scale="ci", timeout=2) == 1
    assert "cell squares: it ran longer than 2 seconds" in capsys.readouterr().out


def test_a_killed_kernel_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    dies = SOURCE.replace(
        'print("shape", (2, 3))', "import os\n\nos.kill(os.getpid(), 9)"
    )
    course(tmp_path, monkeypatch, **{"00_a": dies})
    assert run.run_labs(scale="ci") == 1
    assert "cell squares: its kernel died" in capsys.readouterr().out


def test_a_terminal_shows_which_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    course(tmp_path, monkeypatch, **{"00_a": SOURCE})
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run.run_labs(scale="ci") == 0
    said = capsys.readouterr().out
    # Six code cells and papermill's own.
    assert all(f"\r[1/1] 00_a  cell {k}/7" in said for k in range(1, 8))


def test_the_memory_of_children_and_their_children_is_seen():
    import subprocess
    import sys

    grandchild = (
        "import subprocess, sys; "
        "subprocess.run([sys.executable, '-c', "
        "'x = bytearray(80 * 2**20); print(1, flush=True); input()'])"
    )
    with PeakMemory() as memory:
        process = subprocess.Popen(
            [sys.executable, "-c", grandchild],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        while memory.peak < 80 * 2**20:  # the test's own limit ends a failure
            pass
        process.communicate(b"\n")
    assert 80 * 2**20 <= memory.peak < 300 * 2**20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labs": ["00", "99"]}, "no lab '99'"),
        ({"scale": "huge"}, "Unknown scale 'huge'"),
        ({"edition": "teacher"}, "Unknown edition 'teacher'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict, words: str
):
    runs = course(tmp_path, monkeypatch, **{"00_a": SOURCE})
    with pytest.raises(LabError, match=words):
        run.run_labs(**arguments)
    assert not runs.exists()


def test_a_lab_that_was_not_built_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = course(tmp_path, monkeypatch, **{"00_a": SOURCE, "01_b": SOURCE})
    edition_path("01_b", "reader").unlink()
    with pytest.raises(LabError, match=r"01_b\.ipynb is missing.*labs build"):
        run.run_labs(scale="ci")
    assert not runs.exists()
