"""Torchrun cells under papermill and nbval: plain text, and errors that count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from tests.torchrun_notebook import Notebook, below, until

pytestmark = [pytest.mark.distributed, pytest.mark.notebook]
TALK = """%%torchrun --nproc 2 --name dp
import os, time
log(1, loss=0.5)
log(2, loss=0.25)
print("rank", os.environ["RANK"])
"""
BREAK = """%%torchrun --nproc 2
import os
if os.environ["RANK"] == "1":
    raise ValueError("boom")
"""
HANG = """%%torchrun --nproc 2 --timeout 1 --may-fail
while True:
    pass
"""


def write(path: Path, *cells: str) -> Path:
    cells = ("%load_ext labsupport.distributed", *cells)
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)
    return path


def execute(path: Path) -> None:
    papermill.execute_notebook(path, path, execution_timeout=120, progress_bar=False)


def texts(path: Path) -> list[str]:
    """What each cell has shown, as text."""
    return [
        "".join(
            output.get("text") or output.get("data", {}).get("text/plain", "")
            for output in cell.get("outputs", [])
        )
        for cell in nbformat.read(path, as_version=4).cells
    ]


def test_papermill(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain lines and one figure; a failing cell ends the run with its report."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    path = write(notebook.home / "lab.ipynb", TALK, BREAK)
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(
            path, path, execution_timeout=120, progress_bar=False
        )
    assert "rank 1 of 2: ValueError: boom" in str(caught.value)
    shown = texts(path)
    talk = next(text for text in shown if "rank 0\n" in text)
    assert "rank 0\n[rank 1] rank 1\n" in talk
    assert talk.endswith(
        "loss went from 0.5 to 0.25 on rank 0, from 0.5 to 0.25 on rank 1."
    )
    stored = path.read_text()
    assert "application/vnd.plotly.v1+json" in stored
    assert "widget-view" not in stored
    until(lambda: not below(notebook.home))


@pytest.mark.slow  # in CI nbval runs over the labs, whose cells have ranks, too
def test_nbval(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    """It compares the ranks' output, which a child's own stdout would not allow."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    quiet = TALK.replace("log(1, loss=0.5)\nlog(2, loss=0.25)\n", "")
    path = write(notebook.home / "lab.ipynb", "print(1)", quiet, quiet, HANG)
    execute(path)
    assert "rank 1 was here:\n  cell line" in texts(path)[-1]
    stored = nbformat.read(path, as_version=4)
    stored.cells = [stored.cells[0], *stored.cells[2:-1]]
    nbformat.write(stored, path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "-q",
        "-p",
        "no:cacheprovider",
    ]

    def compare() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, path], cwd=notebook.home, capture_output=True, text=True
        )

    assert compare().returncode == 0, compare().stdout
    path.write_text(path.read_text().replace("[rank 1] rank 1", "[rank 1] rank 7"))
    assert "[rank 1] rank 7" in compare().stdout
    until(lambda: not below(notebook.home))
