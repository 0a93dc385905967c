"""The reader's own copy of a lab: made once, never overwritten.

A copy has no outputs, so that nothing below a "Predict" is spoiled. The
version it was made from is kept in my_labs/.base/, which lets `update` say
what has changed in the course since.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.build.names import edition_path, find_lab, lab_names, source_path
from labsupport.errors import LabError
from labsupport.paths import my_labs

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = [
    "copy_path",
    "find_lab",
    "lab_titles",
    "newest_copy",
    "open_copy",
    "start_jupyter",
    "update",
]


def lab_titles() -> dict[str, str]:
    """Every lab's name and title (the first heading of its source)."""
    titles = {}
    for name in lab_names():
        text = source_path(name).read_text(encoding="utf-8")
        heading = re.search(r"^# # +(.+)$", text, re.MULTILINE)
        titles[name] = heading.group(1).strip() if heading else ""
    return titles


def copy_path(name: str, number: int = 1) -> Path:
    """Where a lab's working copy lies: my_labs/NAME.ipynb, NAME-2.ipynb, ..."""
    suffix = "" if number == 1 else f"-{number}"
    return my_labs() / f"{name}{suffix}.ipynb"


def base_path(copy: Path) -> Path:
    """Where the version that a copy was made from is kept."""
    return my_labs() / ".base" / copy.relative_to(my_labs())


def copies(name: str) -> list[Path]:
    """The reader's copies of a lab, oldest first.

    A copy that the reader deleted leaves a gap, and its number is not used
    again: its base may still be wanted.
    """
    pattern = re.compile(re.escape(copy_path(name).stem) + r"(?:-(\d+))?\.ipynb")
    folder = copy_path(name).parent
    found = {}
    for path in folder.glob("*.ipynb") if folder.exists() else ():
        match = pattern.fullmatch(path.name)
        if match:
            found[int(match.group(1) or 1)] = path
    return [found[number] for number in sorted(found)]


def newest_copy(name: str) -> Path | None:
    """The copy made last, or None when the lab was never opened."""
    return next(reversed(copies(name)), None)


def open_copy(lab: str, new: bool = False) -> Path:
    """The reader's working copy of a lab, made now if there is none.

    Args:
        lab: as `find_lab` understands it.
        new: make one more from the course's current version, NAME-2.ipynb.

    Returns:
        The path of the notebook in my_labs/.

    Raises:
        LabError: unknown lab, a lab that was not built, or a folder that
            cannot be written.
    """
    name = find_lab(lab)
    newest = newest_copy(name)
    if newest is not None and not new:
        return newest
    text = _without_outputs(name)
    number = 1
    while (path := copy_path(name, number)).exists() or base_path(path).exists():
        # A first copy that was deleted is made again under its own name.
        if newest is None and not path.exists():
            break
        number += 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The base first: a copy without its base could not be compared later.
        base = base_path(path)
        base.parent.mkdir(parents=True, exist_ok=True)
        base.write_text(text, encoding="utf-8")
        # "x" refuses a file that has appeared meanwhile.
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise LabError(
            f"The working copy {path} could not be written: {error.strerror}. "
            "LABS_HOME=/another/folder puts your work elsewhere."
        ) from None
    return path


def update(lab: str) -> str:
    """Say, cell by cell, what changed in the course since a copy was made.

    The copy itself is not read: what the reader wrote in it is theirs.

    Raises:
        LabError: unknown lab, or one without a working copy.
    """
    import nbformat

    name = find_lab(lab)
    copy = newest_copy(name)
    if copy is None:
        raise LabError(f"You have no copy of {name} yet; `labs open {lab}` makes one.")
    base = base_path(copy)
    if not base.exists():
        return (
            f"{copy.name}: the version it was made from is not in {base.parent}, so "
            f"there is nothing to compare. `labs open {lab} --new` makes a new copy."
        )
    before = nbformat.read(base, as_version=4)
    now = nbformat.reads(_without_outputs(name), as_version=4)
    changes = "\n".join(_cell_changes(before, now))
    if not changes:
        return f"{copy.name} is up to date with the course."
    return (
        f"Changed in the course since {copy.name} was made (- then, + now):\n\n"
        f"{changes}\n\n"
        f"Your copy stays as it is. `labs open {lab} --new` puts the new version "
        "beside it."
    )


def start_jupyter(
    lab: str = "00", new: bool = False, open_browser: bool | None = None
) -> int:
    """Open the working copy in JupyterLab; returns when JupyterLab ends.

    See `labsupport.jupyter.server.serve`.
    """
    from labsupport.jupyter.server import refuse_second, serve

    find_lab(lab)  # a name that does not exist is the first thing to say
    # Before a copy is made: a second start leaves everything as it is.
    refuse_second()
    return serve(open_copy(lab, new=new), open_browser)


def _without_outputs(name: str) -> str:
    """The reader's edition as text, with outputs and counts removed."""
    import nbformat

    path = edition_path(name, "reader")
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError) as error:
        raise LabError(
            f"{os.path.relpath(path)} cannot be read ({type(error).__name__}): "
            "`labs build` makes it from labs/src."
        ) from None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return nbformat.writes(notebook) + "\n"


def _cell_changes(before: NotebookNode, now: NotebookNode) -> Iterator[str]:
    """A unified diff of each cell that is new, gone or different."""
    old = {cell.id: cell for cell in before.cells}
    new = {cell.id: cell for cell in now.cells}
    for cell_id in [*new, *(key for key in old if key not in new)]:
        then = old[cell_id].source.splitlines() if cell_id in old else []
        later = new[cell_id].source.splitlines() if cell_id in new else []
        if then == later and cell_id in old and cell_id in new:
            continue
        what = "changed" if cell_id in old else "new"
        what = what if cell_id in new else "removed"
        lines = list(difflib.unified_diff(then, later, lineterm="", n=1))
        # The first two lines name files; a cell has none.
        yield "\n".join([f"cell {cell_id} ({what})", *lines[2:], ""])
