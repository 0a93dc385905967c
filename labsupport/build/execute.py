"""Run a rendered notebook once, from top to bottom, and keep its outputs.

Nothing is injected and nothing is timed: two runs of the same source give
notebooks that differ only where an output does.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import (
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
)
from nbformat import NotebookNode

from labsupport.errors import LabError

CELL_TIMEOUT = 180.0  # seconds; a lab at scale ci takes 25 in all
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# A kernel warns on stderr that its ports are not encrypted, in every run.
KERNEL_ARGUMENTS = ("--IPKernelApp.log_level=ERROR",)
# The builder's own session must not show in a stored output: a person's
# JupyterLab, a strict grading run, a pytest around the build.
FOREIGN = ("JPY_SESSION_NAME", "LABS_STRICT", "PYTEST_CURRENT_TEST")


def kernel_environment(home: Path, scale: str = "ci") -> dict[str, str]:
    """The environment of a kernel that nobody sits in front of.

    Args:
        home: takes the place of my_labs/, so that the progress of whoever
            builds does not leak into the notebook.
        scale: LABS_SCALE of the kernel.
    """
    kept = {k: v for k, v in os.environ.items() if k not in FOREIGN}
    return kept | {"LABS_SCALE": scale, "LABS_HOME": str(home)}


def execute(
    notebook: NotebookNode,
    folder: Path,
    name: str = "lab",
    timeout: float = CELL_TIMEOUT,
) -> None:
    """Execute `notebook` in place, at scale ci, with `folder` as directory.

    Args:
        notebook: as rendered; receives outputs and execution counts.
        folder: where the kernel runs: the notebook's own folder, as in
            JupyterLab and nbval.
        name: the lab's name, for messages only.
        timeout: seconds that one cell may take.

    Raises:
        LabError: naming the first cell that fails, and how.
    """
    # The kernel's answer overwrites both; they would change with its version.
    language = dict(notebook.metadata["language_info"])
    started: list[str] = []
    with tempfile.TemporaryDirectory(prefix="labs-build-") as home:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name=notebook.metadata["kernelspec"]["name"],
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            store_widget_state=False,
            extra_arguments=list(KERNEL_ARGUMENTS),
            on_cell_execute=lambda cell, cell_index: started.append(cell.id),
        )
        try:
            client.execute(env=kernel_environment(Path(home)))
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            cell = started[-1] if started else "(none started)"
            what = failure(notebook, error)
            raise LabError(f"{name}: cell {cell}: {what}") from None
    notebook.metadata["language_info"] = language
    notebook.metadata.pop("widgets", None)
    merge_streams(notebook)


def failure(notebook: NotebookNode, error: Exception) -> str:
    """What stopped a run, in a few lines."""
    if isinstance(error, CellTimeoutError):
        return "it ran longer than its time limit"
    if isinstance(error, DeadKernelError):
        return "its kernel died (killed, or out of memory)"
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return short_error(output)
    return str(error)


def short_error(output: NotebookNode, lines: int = 4) -> str:
    """An error output as text: its name and message, then the last frames."""
    frames = ANSI.sub("", "\n".join(output.traceback)).rstrip().splitlines()
    tail = [line for line in frames[-lines - 1 : -1] if line.strip()]
    text = f"{output.ename}: {output.evalue}".rstrip(": ")
    return "\n    ".join([text, *tail])


def merge_streams(notebook: NotebookNode) -> None:
    """Join neighbouring outputs of one stream: how they were cut is chance."""
    for cell in notebook.cells:
        merged: list[NotebookNode] = []
        for output in cell.get("outputs", []):
            last = merged[-1] if merged else None
            if (
                last is not None
                and output.output_type == last.output_type == "stream"
                and output.name == last.name
            ):
                last.text += output.text
            else:
                merged.append(output)
        if cell.cell_type == "code":
            cell.outputs = merged
