"""From a lab's source to its two editions: a pure function, nothing executed.

The source is a Python file in jupytext's percent format. A cell's header
carries its id, `# %% id="setup" tags=["nbval-ignore-output"]`, which becomes
nbformat's cell id: a diff of two builds then shows only what changed.
"""

from __future__ import annotations

import hashlib
import json
import re

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labsupport.build.names import Edition
from labsupport.build.rules import violations
from labsupport.build.solutions import split
from labsupport.errors import LabError

CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # nbformat 4.5's own rule
HEADER = re.compile(r"\s*#\s*%%(%*)(\s|\[|$)")
# Everything else in a cell's header is a slip of the pen ("tag=", "name=").
KEPT_METADATA = {"tags", "nbgrader", "jupyter", "jp-MarkdownHeadingCollapsed"}
# Jupytext's own bookkeeping about blank lines.
DROPPED_METADATA = {"lines_to_next_cell", "lines_to_end_of_cell_marker"}
NOTEBOOK_METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    # No version: the notebook must not change with the Python that built it.
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}


def render(source: str, edition: Edition, name: str = "lab") -> NotebookNode:
    """Render one edition of a lab, without outputs.

    Args:
        source: the text of `labs/src/NAME.py`.
        edition: "reader" (stubs) or "solved".
        name: the lab's name, for messages only.

    Returns:
        An nbformat 4.5 notebook. Its metadata holds the kernel, the language
        and `labs: {edition, source_hash}`.

    Raises:
        LabError: every missing, repeated or invalid cell id, unbalanced
            solution marker and broken rule (`rules.py`), each with its cell.
    """
    problems: list[str] = []
    cells = []
    seen: set[str] = set()
    for place, raw in _raw_cells(source):
        cell_id = raw.metadata.get("id")
        where = f"cell {cell_id} ({place})" if cell_id else place
        problem = _id_problem(cell_id, seen)
        if problem:
            problems.append(f"{where}: {problem}")
            continue
        seen.add(cell_id)
        try:
            cells.append(_rendered_cell(raw, edition))
        except LabError as error:
            problems.append(f"{where}: {error}")
    notebook = new_notebook(cells=cells, metadata=json.loads(_NOTEBOOK_METADATA_JSON))
    notebook.nbformat_minor = 5
    problems += violations(notebook)
    if problems:
        listed = "\n  ".join(problems)
        raise LabError(f"{name} cannot be built:\n  {listed}")
    notebook.metadata["labs"] = NotebookNode(
        edition=edition, source_hash=source_hash(notebook)
    )
    return notebook


def source_hash(notebook: NotebookNode) -> str:
    """SHA-256 over what a person wrote: ids, types, sources, cell metadata."""
    written = [
        [cell.id, cell.cell_type, cell.source, cell.metadata] for cell in notebook.cells
    ]
    text = json.dumps(written, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def solution_lines(source: str) -> list[str]:
    """Every line between solution markers, stripped, in order."""
    return [
        line
        for _, raw in _raw_cells(source)
        for line in split(raw.source).solution_lines
    ]


_NOTEBOOK_METADATA_JSON = json.dumps(NOTEBOOK_METADATA)


def _raw_cells(source: str) -> list[tuple[str, NotebookNode]]:
    """Jupytext's cells, each with a phrase that says where it begins."""
    cells = jupytext.reads(source, fmt="py:percent").cells
    lines = source.splitlines()
    starts = [n for n, line in enumerate(lines, start=1) if HEADER.match(line)]
    if len(starts) == len(cells):
        return [(f"line {n}", cell) for n, cell in zip(starts, cells, strict=True)]
    return [(f"cell number {n}", cell) for n, cell in enumerate(cells, start=1)]


def _id_problem(cell_id: object, seen: set[str]) -> str | None:
    if cell_id is None:
        return 'the header has no id; write # %% id="a-name"'
    if not isinstance(cell_id, str) or not CELL_ID.fullmatch(cell_id):
        return "an id has 1 to 64 letters, digits, hyphens or underscores"
    if cell_id in seen:
        return "the id is used twice"
    return None


def _rendered_cell(raw: NotebookNode, edition: Edition) -> NotebookNode:
    metadata = {k: v for k, v in raw.metadata.items() if k not in DROPPED_METADATA}
    cell_id = metadata.pop("id")
    unknown = sorted(set(metadata) - KEPT_METADATA)
    if unknown:
        raise LabError(f"unknown key in the header: {', '.join(unknown)}")
    if raw.cell_type == "markdown":
        return new_markdown_cell(raw.source, id=cell_id, metadata=metadata)
    if raw.cell_type != "code":
        raise LabError(f"a lab has code and markdown cells, not {raw.cell_type}")
    source = getattr(split(raw.source), edition)
    return new_code_cell(source, id=cell_id, metadata=metadata)
