"""Build the notebooks in labs/ and labs/solved/, and compare them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from labsupport import paths
from labsupport.build.execute import execute
from labsupport.build.names import (
    EDITIONS,
    Edition,
    edition_path,
    find_lab,
    lab_names,
    source_path,
)
from labsupport.build.pictures import Painter, still_pictures
from labsupport.build.render import render
from labsupport.errors import LabError

MAX_BYTES = 400_000


def build_labs(
    names: Iterable[str] | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write both editions of the named labs, or of all.

    A notebook is executed only where its source changed since it was last
    built; otherwise its stored outputs are kept.

    Args:
        names: labs, as `find_lab` understands them; None is every lab.
        force: execute again although nothing changed.
        say: called with one line for each notebook.

    Returns:
        The notebooks that were written; unchanged ones are not among them.

    Raises:
        LabError: a source that breaks a rule, a cell that fails, a notebook
            over its size. A notebook that fails leaves its old file in place.
    """
    wanted = lab_names() if names is None else [find_lab(name) for name in names]
    written: list[Path] = []
    # Every source is rendered before the first minute of execution is spent.
    plans = [
        (name, edition, rendered(name, edition))
        for name in wanted
        for edition in EDITIONS
    ]
    with Painter() as painter:
        for name, edition, notebook in plans:
            path = edition_path(name, edition)
            stored = None if force else stored_notebook(path)
            label = path.relative_to(paths.LABS.parent)
            if stored is not None and same_source(stored, notebook):
                adopt_outputs(notebook, stored)
            else:
                say(f"Executing {label} ...")
                execute_in(path.parent, notebook, f"{name} ({edition})")
                still_pictures(notebook, painter)
            if write(notebook, path):
                written.append(path)
            else:
                say(f"Unchanged {label}")
    return written


def rendered(name: str, edition: Edition) -> NotebookNode:
    """Render one edition from labs/src; see `render`."""
    source = source_path(name)
    return render(source.read_text(encoding="utf-8"), edition, source.name)


def execute_in(folder: Path, notebook: NotebookNode, name: str) -> None:
    """Execute in the notebook's folder, which may not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    execute(notebook, folder, name)


def stored_notebook(path: Path) -> NotebookNode | None:
    """The notebook as it was built last, or None when it cannot be read."""
    try:
        return nbformat.read(path, as_version=nbformat.NO_CONVERT)
    except (OSError, ValueError, nbformat.ValidationError):
        return None


def same_source(stored: NotebookNode, fresh: NotebookNode) -> bool:
    """Whether the stored notebook was executed, whole, from this very source."""
    labs = stored.metadata.get("labs", {})
    ran = all(
        cell.get("execution_count") is not None
        for cell in stored.cells
        if cell.cell_type == "code" and cell.source.strip()
    )
    return bool(ran and labs.get("source_hash") == fresh.metadata.labs.source_hash)


def adopt_outputs(notebook: NotebookNode, stored: NotebookNode) -> None:
    """Copy outputs and counts from the stored notebook, cell by cell id."""
    by_id = {cell.id: cell for cell in stored.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in by_id:
            cell.outputs = by_id[cell.id].outputs
            cell.execution_count = by_id[cell.id].execution_count


def as_text(notebook: NotebookNode) -> str:
    """A notebook's one spelling: nbformat's, keys sorted, one newline last."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook, version=nbformat.NO_CONVERT).rstrip("\n") + "\n"


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write the notebook whole or not at all; False when it was the same.

    Raises:
        LabError: when it is larger than `MAX_BYTES`.
    """
    text = as_text(notebook)
    size = len(text.encode())
    if size > MAX_BYTES:
        largest = sorted(_sizes(notebook), reverse=True)[:3]
        cells = ", ".join(f"{cell} ({size // 1000} kB)" for size, cell in largest)
        raise LabError(
            f"{path.name} has {size // 1000} kB; at most {MAX_BYTES // 1000} kB. "
            f"Largest outputs: {cells}."
        )
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_whole(path, text)
    return True


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(part).chmod(0o644)  # mkstemp's own mode hides it from others
        Path(part).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(part).unlink()
        raise


def check_built(name: str) -> list[str]:
    """Where the committed notebooks differ from what the source gives.

    Outputs are not compared: running them again is nbval's part.

    Returns:
        One line for each difference, naming notebook and cell; empty when
        both editions are up to date.
    """
    found: list[str] = []
    for edition in EDITIONS:
        path = edition_path(name, edition)
        fresh = rendered(name, edition)
        stored = stored_notebook(path)
        if stored is None:
            found.append(f"{edition}: {path.name} is missing or not a notebook")
            continue
        found += [f"{edition}: {text}" for text in differences(stored, fresh)]
    return found


def differences(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """Compare two notebooks in everything but outputs and counts."""
    found = [
        f"metadata {key!r} differs"
        for key in sorted({*stored.metadata, *fresh.metadata})
        if stored.metadata.get(key) != fresh.metadata.get(key)
    ]
    if (stored.nbformat, stored.nbformat_minor) != (4, 5):
        found.append("the notebook is not in format 4.5")
    before = {cell.get("id"): cell for cell in stored.cells}
    after = {cell.id: cell for cell in fresh.cells}
    found += [f"cell {key} is gone from the source" for key in before.keys() - after]
    found += [f"cell {key} is new in the source" for key in after.keys() - before]
    for key in after.keys() & before.keys():
        for field in ("cell_type", "source", "metadata"):
            if before[key].get(field) != after[key].get(field):
                found.append(f"cell {key}: {field} differs")
    if not found and list(before) != list(after):
        found.append("the cells are in another order")
    return sorted(found)


def _sizes(notebook: NotebookNode) -> list[tuple[int, str]]:
    return [
        (len(nbformat.writes(nbformat.v4.new_notebook(cells=[cell]))), cell.id)
        for cell in notebook.cells
    ]
