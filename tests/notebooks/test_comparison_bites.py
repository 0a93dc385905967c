"""nbval, called as `labs test` calls it, notices what it is there to notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from labsupport.build import NBVAL
from labsupport.build.editions import as_text
from labsupport.build.execute import execute
from labsupport.build.render import render
from labsupport.paths import ROOT
from tests.small_lab import SOURCE

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The small lab, executed once."""
    notebook = render(SOURCE, "reader")
    execute(notebook, tmp_path_factory.mktemp("built"))
    return notebook


def nbval(
    folder: Path, notebook: NotebookNode, *options: str
) -> subprocess.CompletedProcess[str]:
    """Put the notebook into a folder laid out like the course and compare it."""
    (folder / "labs").mkdir()
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "labs" / "00_small.ipynb").write_text(as_text(notebook))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LABS_")}
    return subprocess.run(
        [sys.executable, "-m", *(options or (*NBVAL, "labs"))],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def cell(notebook: NotebookNode, cell_id: str) -> NotebookNode:
    return next(cell for cell in notebook.cells if cell.id == cell_id)


def test_what_was_built_passes(tmp_path: Path, built: NotebookNode):
    done = nbval(tmp_path, built)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


@pytest.mark.parametrize("mode", ["--nbval", "--nbval-lax"])
def test_what_was_built_passes_without_any_other_option(
    tmp_path: Path, built: NotebookNode, mode: str
):
    done = nbval(tmp_path, built, "pytest", mode, "labs")
    assert done.returncode == 0, done.stdout


def test_a_changed_stored_line_is_noticed(tmp_path: Path, built: NotebookNode):
    changed = nbformat.from_dict(built)
    cell(changed, "squares").outputs[0].text = "shape (2, 3)\nsquares [0, 1, 4, 8]\n"
    done = nbval(tmp_path, changed)
    assert done.returncode == 1
    assert "1 failed, 5 passed" in done.stdout
    assert "squares [0, 1, 4, 8]" in done.stdout


def test_code_that_computes_something_else_is_noticed(
    tmp_path: Path, built: NotebookNode
):
    changed = nbformat.from_dict(built)
    squares = cell(changed, "squares")
    squares.source = squares.source.replace("n * n", "n + n")
    assert "1 failed, 5 passed" in nbval(tmp_path, changed).stdout


def test_a_cell_that_fails_is_noticed_though_its_output_is_ignored(
    tmp_path: Path, built: NotebookNode
):
    changed = nbformat.from_dict(built)
    cell(changed, "where").source = "1 / 0"
    assert "1 failed, 5 passed" in nbval(tmp_path, changed).stdout


def test_an_ignored_cell_may_print_something_else(tmp_path: Path, built: NotebookNode):
    changed = nbformat.from_dict(built)
    cell(changed, "use").outputs = [new_output("stream", text="double 8\n")]
    done = nbval(tmp_path, changed)
    assert done.returncode == 0, done.stdout


def test_a_plain_nbval_run_is_small_and_touches_no_progress(
    tmp_path: Path, built: NotebookNode
):
    """conftest.py: scale ci, and a home that is gone afterwards."""
    changed = nbformat.from_dict(built)
    squares = cell(changed, "squares")
    squares.source = (
        "import os, pathlib\n"
        "home = pathlib.Path(os.environ['LABS_HOME'])\n"
        "print(os.environ['LABS_SCALE'], home.is_dir(), 'my_labs' in home.parts)\n"
        "_ = pathlib.Path('home.txt').write_text(str(home))"
    )
    squares.outputs = [new_output("stream", text="ci True False\n")]
    done = nbval(tmp_path, changed, "pytest", "--nbval", "labs")
    assert done.returncode == 0, done.stdout
    assert not Path((tmp_path / "labs" / "home.txt").read_text()).exists()
