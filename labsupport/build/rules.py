"""What a lab's cells must keep to, so that a stored notebook survives comparison.

Each rule stands for a failure seen in practice: an untagged cell is compared
by strict nbval and not by the lax one; `interact` and `Output` can hang
papermill for ever; `clear_output` and `tqdm` fail nbval; a long cell scrolls
away from the text that explains it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nbformat import NotebookNode

MAX_LINES = 25
MAX_COLUMNS = 79
CHECK, IGNORE = "nbval-check-output", "nbval-ignore-output"
PARAMETERS = ("scale", "seed", "world")
FORBIDDEN = {
    r"\binteract(ive|ive_output|_manual)?\(": "interact",
    r"\bOutput\(": "an Output widget",
    r"\bclear_output\b": "clear_output",
    r"\btqdm\b": "tqdm",
    r"^\s*!\w": "a shell command",
    r"^\s*%(?!%torchrun\b)%?[A-Za-z]": "a magic other than %%torchrun "
    "(jupytext uncomments a comment that starts with '# %' and a letter)",
}


def tags(cell: NotebookNode) -> list[str]:
    """The cell's tags; papermill and nbval read them."""
    return list(cell.metadata.get("tags", []))


def code_violations(cell: NotebookNode) -> Iterator[str]:
    """What is wrong with one code cell, a phrase each."""
    lines = cell.source.splitlines()
    if len(lines) > MAX_LINES:
        yield f"{len(lines)} lines of code; at most {MAX_LINES}"
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_COLUMNS:
            yield f"line {number} has {len(line)} columns; at most {MAX_COLUMNS}"
        if number > 1 and line.startswith("%%"):
            yield f"line {number}: %%torchrun has to be the first line"
    marked = [tag for tag in tags(cell) if tag in (CHECK, IGNORE)]
    if len(marked) != 1:
        yield f"needs exactly one of the tags {CHECK} and {IGNORE}"
    for pattern, name in FORBIDDEN.items():
        if re.search(pattern, cell.source, re.MULTILINE):
            yield f"{name} is not allowed in a lab"


def parameter_violations(cells: list[NotebookNode]) -> Iterator[str]:
    """Whether papermill finds the one cell whose values it replaces."""
    found = [cell for cell in cells if "parameters" in tags(cell)]
    if len(found) != 1:
        yield f"the lab has {len(found)} cells tagged 'parameters'; it needs one"
        return
    names = {
        target.id
        for node in ast.parse(found[0].source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    missing = [name for name in PARAMETERS if name not in names]
    if missing:
        yield f"cell {found[0].id}: the parameters lack {', '.join(missing)}"


def violations(notebook: NotebookNode) -> list[str]:
    """Every rule that the notebook breaks, naming the cell."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [f"cell {c.id}: {text}" for c in code for text in code_violations(c)]
    return found + list(parameter_violations(code))
