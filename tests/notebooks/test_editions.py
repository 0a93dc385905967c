"""The committed notebooks: built from their source, whole, small and clean.

What is stored is compared here with the source and with the rules; nbval
compares it with a new run (`labs test` calls it by itself), and
test_comparison_bites.py shows that nbval would notice a difference.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from labsupport import run
from labsupport.build import check_built, lab_names
from labsupport.build.editions import MAX_BYTES, as_text, rendered
from labsupport.build.execute import KERNEL_ARGUMENTS, kernel_environment
from labsupport.build.names import EDITIONS, Edition, edition_path, source_path
from labsupport.build.pictures import LIVE
from labsupport.build.render import solution_lines
from labsupport.build.rules import CHECK, tags
from labsupport.paths import LABS, ROOT

LAB_NAMES = lab_names()
FEWEST_COMPARED = 6
IN_CI = (("primers/triton", "reader"), ("primers/triton", "solved"))
# Folders that only one machine has, and those that this one has.
MACHINE_PATH = re.compile(r"(?<![\w./])/(home|root|tmp|Users|var/folders)/|[A-Z]:\\")
HERE = (str(ROOT), f"{Path.home()}/", tempfile.gettempdir())

every_lab = pytest.mark.parametrize("name", LAB_NAMES)
every_notebook = pytest.mark.parametrize(
    ("name", "edition"), [(name, edition) for name in LAB_NAMES for edition in EDITIONS]
)


def stored(name: str, edition: Edition) -> NotebookNode:
    return nbformat.read(edition_path(name, edition), as_version=nbformat.NO_CONVERT)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(output: NotebookNode) -> str:
    """Everything in an output that a person reads."""
    data = output.get("data", {})
    words = [output.get("text", ""), *output.get("traceback", [])]
    return "\n".join(words + [v for k, v in data.items() if k.startswith("text/")])


def test_there_is_a_lab():
    assert LAB_NAMES, "labs/src is empty: every test below would pass unseen"


@every_lab
def test_the_committed_notebooks_are_what_their_source_gives(name: str):
    assert check_built(name) == [], "run `labs build`"


def test_no_notebook_is_left_over_from_a_lab_that_is_gone():
    found = {path for path in LABS.rglob("*.ipynb") if ".ipynb_" not in str(path)}
    expected = {edition_path(name, e) for name in LAB_NAMES for e in EDITIONS}
    assert found == expected


@every_notebook
def test_a_notebook_is_valid_small_and_in_its_one_spelling(name: str, edition: Edition):
    text = edition_path(name, edition).read_text(encoding="utf-8")
    assert len(text.encode()) <= MAX_BYTES
    assert text == as_text(stored(name, edition))
    assert "widgets" not in stored(name, edition).metadata


@every_notebook
def test_every_code_cell_ran_in_order_and_none_failed(name: str, edition: Edition):
    cells = code_cells(stored(name, edition))
    counts = [cell.execution_count for cell in cells if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    failed = [c.id for c in cells for o in c.outputs if o.output_type == "error"]
    assert failed == []


@every_notebook
def test_compared_cells_are_many_and_store_plain_output(name: str, edition: Edition):
    compared = [c for c in code_cells(stored(name, edition)) if CHECK in tags(c)]
    assert len(compared) >= FEWEST_COMPARED
    empty = [c.id for c in compared if not "".join(map(text_of, c.outputs)).strip()]
    assert empty == [], "nbval would compare nothing with nothing"
    kinds = {(c.id, o.get("name", o.output_type)) for c in compared for o in c.outputs}
    assert [pair for pair in sorted(kinds) if pair[1] != "stdout"] == []


@every_lab
def test_the_editions_agree_in_what_is_compared(name: str):
    outputs = [
        {c.id: c.outputs for c in code_cells(stored(name, e)) if CHECK in tags(c)}
        for e in EDITIONS
    ]
    assert outputs[0] == outputs[1]


@every_notebook
def test_pictures_are_stored_as_png_and_nothing_is_live(name: str, edition: Edition):
    pictures = 0
    for cell in code_cells(stored(name, edition)):
        for output in cell.outputs:
            data: dict[str, Any] = output.get("data", {})
            assert not set(LIVE) & set(data), f"cell {cell.id} stores a live figure"
            if "image/png" in data:
                pictures += 1
                png = base64.b64decode(data["image/png"])
                assert png.startswith(b"\x89PNG\r\n"), cell.id
                assert output.metadata["image/png"]["width"] > 0, cell.id
                assert data.get("text/plain"), f"cell {cell.id}: no sentence"
    assert pictures, "a lab shows what it teaches"


@every_notebook
def test_no_output_knows_this_machine(name: str, edition: Edition):
    telling = []
    for cell in code_cells(stored(name, edition)):
        for line in "\n".join(map(text_of, cell.outputs)).splitlines():
            if MACHINE_PATH.search(line) or any(word in line for word in HERE):
                telling.append(f"{cell.id}: {line}")
    assert telling == []


@every_lab
def test_the_readers_edition_holds_no_solution_line(name: str):
    source = source_path(name).read_text(encoding="utf-8")
    answers = {line for line in solution_lines(source) if len(line) >= 12}
    assert answers or "BEGIN SOLUTION" not in source
    reader = rendered(name, "reader")
    given = Counter(
        line.strip() for cell in reader.cells for line in cell.source.splitlines()
    )
    # What the source itself shows outside its solution markers is no secret.
    outside = Counter(
        line.strip(" #\t") for line in re.sub(SOLUTION, "", source).splitlines()
    )
    leaked = [line for line in answers if given[line] and not outside[line]]
    assert leaked == []
    stored_text = "\n".join(
        cell.source + "\n".join(map(text_of, cell.get("outputs", [])))
        for cell in stored(name, "reader").cells
    )
    assert [a for a in answers if a in stored_text and not outside[a]] == []


SOLUTION = re.compile(r"### BEGIN SOLUTION.*?### END SOLUTION", re.DOTALL)
CHECK_CALL = re.compile(r"^lab\.check\((['\"])(?P<number>[\d.a-zA-Z]+)\1", re.MULTILINE)
EXERCISE = re.compile(r"@lab\.exercise\((['\"])(?P<number>[\d.a-zA-Z]+)\1")


def unsolved(notebook: NotebookNode) -> set[str]:
    """The exercises whose function is still a stub."""
    return {
        match["number"]
        for cell in code_cells(notebook)
        if "raise NotImplementedError" in cell.source
        for match in EXERCISE.finditer(cell.source)
    }


def of_exercises(cell: NotebookNode) -> bool:
    """Whether an exercise cannot be defined and checked without this cell."""
    number = EXERCISE.search(cell.source) or CHECK_CALL.search(cell.source)
    return bool(number) or cell.id == "parameters" or cell.id.endswith("setup")


def failing_cells(
    name: str, edition: Edition, home: Path, whole: bool = True
) -> list[str]:
    """Run a notebook to its end under LABS_STRICT=1; the cells that raise.

    Args:
        whole: False leaves out what exercises do without: trainings, pictures.
    """
    notebook = rendered(name, edition)
    if not whole:
        notebook.cells = [cell for cell in code_cells(notebook) if of_exercises(cell)]
    client = NotebookClient(
        notebook,
        timeout=180,
        kernel_name="python3",
        allow_errors=True,
        store_widget_state=False,
        extra_arguments=list(KERNEL_ARGUMENTS),
        resources={"metadata": {"path": str(edition_path(name, edition).parent)}},
    )
    client.execute(env=kernel_environment(home) | {"LABS_STRICT": "1"})
    return [
        cell.id
        for cell in code_cells(notebook)
        if any(output.output_type == "error" for output in cell.outputs)
    ]


@pytest.mark.notebook
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@every_notebook
def test_strict_runs_fail_at_the_checks_of_unsolved_exercises_only(
    name: str, edition: Edition, whole: bool, tmp_path: Path
):
    notebook = rendered(name, edition)
    stubs = unsolved(notebook)
    assert bool(stubs) == (edition == "reader")
    expected = [
        cell.id
        for cell in code_cells(notebook)
        if stubs & {match["number"] for match in CHECK_CALL.finditer(cell.source)}
    ]
    assert len(expected) >= len(stubs), "an exercise is never checked"
    assert failing_cells(name, edition, tmp_path, whole) == expected


@pytest.mark.notebook
@pytest.mark.parametrize(
    ("name", "edition"),
    [
        # The quickest notebook in both editions; the rest belong to test-all.
        pytest.param(
            name,
            edition,
            marks=[] if (name, edition) in IN_CI else [pytest.mark.slow],
        )
        for name in LAB_NAMES
        for edition in EDITIONS
    ],
)
@pytest.mark.parametrize("scale", ["ci", pytest.param("cpu", marks=pytest.mark.slow)])
def test_papermill_runs_a_lab(
    name: str,
    edition: Edition,
    scale: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    code = run.run_labs([name], scale=scale, edition=edition)
    assert code == 0, capsys.readouterr().out
    done = nbformat.read(tmp_path / "runs" / edition / f"{name}.ipynb", as_version=4)
    cells = code_cells(done)
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    ran = {cell.id for cell in cells}
    assert {cell.id for cell in code_cells(rendered(name, edition))} <= ran
