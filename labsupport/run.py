"""Run labs without a browser, through papermill, and sum up how it went.

Each run has a time limit for a cell, and no widget state is stored. A run that
failed or was interrupted goes on where it stopped: labs that passed with the
same source, scale and edition are not run twice.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from labsupport.build.execute import KERNEL_ARGUMENTS, short_error
from labsupport.build.names import (
    EDITIONS,
    Edition,
    edition_path,
    find_lab,
    lab_names,
)
from labsupport.errors import LabError
from labsupport.paths import my_labs
from labsupport.run_memory import PeakMemory
from labsupport.run_state import Outcome, State

# Seconds for one cell. A whole lab takes 25 s at ci and 4 minutes at cpu.
CELL_TIMEOUT = {"ci": 180, "cpu": 900, "gpu": 3600}
MEBI = 2**20
# What a notebook or a test that started us has in its environment, and a kernel
# without a person must not have.
SOMEONE_ELSES = ("JPY_SESSION_NAME", "PYTEST_CURRENT_TEST")


def run_labs(
    labs: Iterable[str] | None = None,
    scale: str | None = None,
    edition: str = "reader",
    again: bool = False,
    timeout: float | None = None,
) -> int:
    """Run labs one after the other; one that fails does not stop the rest.

    The executed notebooks are written to my_labs/runs/EDITION/.

    Args:
        labs: as `find_lab` understands them; None or none is every lab.
        scale: "ci", "cpu" or "gpu"; None is LABS_SCALE, or "cpu".
        edition: "reader" or "solved".
        again: run labs too that passed in the run that failed or was stopped.
        timeout: seconds that one cell may take; None goes by the scale.

    Returns:
        The exit code: 0 when every lab passed, else 1.

    Raises:
        LabError: before anything runs, for an unknown lab, scale or edition,
            or a lab that was not built.
    """
    from labsupport.settings import choose_settings

    chosen = choose_settings(scale).scale
    if edition not in EDITIONS:
        raise LabError(f"Unknown edition {edition!r}: use {' or '.join(EDITIONS)}.")
    names = [find_lab(lab) for lab in labs or ()] or lab_names()
    notebooks = {name: _read(name, edition) for name in names}
    runs = my_labs() / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"The folder {runs.parent.name} cannot be written ({error.strerror}): "
            "LABS_HOME=/another/folder puts runs elsewhere."
        ) from None
    state = State(runs / "state.json", f"{edition} {chosen}")
    outcomes = []
    for place, (name, notebook) in enumerate(notebooks.items(), start=1):
        label = f"[{place}/{len(notebooks)}] {name}"
        done = None if again else state.passed(name, notebook)
        if done:
            print(f"{label}  passed before", flush=True)
        else:
            output = my_labs() / "runs" / edition / f"{name}.ipynb"
            done = run_one(
                name,
                notebook,
                output,
                folder=edition_path(name, edition).parent,
                scale=chosen,
                timeout=timeout or CELL_TIMEOUT[chosen],
                tell=Ticker(label),
            )
            state.note(done)
        outcomes.append(done)
    failed = [outcome for outcome in outcomes if outcome.state != "passed"]
    print(summary(outcomes, chosen, edition))
    for outcome in failed:
        print(f"\n{outcome.lab} failed in {outcome.error}", flush=True)
    if failed:
        print("\nThe same command goes on with what failed; --again runs all.")
        return 1
    state.forget(names)  # nothing is left to resume: the next run runs all
    return 0


def run_one(
    name: str,
    notebook: NotebookNode,
    output: Path,
    *,
    folder: Path,
    scale: str,
    timeout: float,
    tell: Callable[[str], None],
) -> Outcome:
    """Execute one notebook with papermill, watching time and memory.

    Args:
        name: the lab's name.
        notebook: as built; papermill adds the cell with the scale to a copy.
        output: where the executed notebook goes, also when a cell fails.
        folder: the kernel's working directory.
        scale: papermill's parameter.
        timeout: seconds for one cell.
        tell: called with a word of progress at each cell and once at the end.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    # One more code cell than was built: papermill's parameters.
    total = 1 + sum(cell.cell_type == "code" for cell in notebook.cells)
    started: list[str] = []

    def on_cell(cell: NotebookNode, cell_index: int) -> None:
        started.append(cell.get("id", "?"))
        tell(f"cell {len(started)}/{total}")

    begin = time.monotonic()
    error = ""
    with headless(), PeakMemory() as memory:
        try:
            papermill.execute_notebook(
                notebook,
                str(output),
                parameters={"scale": scale},
                cwd=str(folder),
                execution_timeout=timeout,
                progress_bar=False,
                log_output=False,
                store_widget_state=False,
                extra_arguments=list(KERNEL_ARGUMENTS),
                on_cell_execute=on_cell,
            )
        except PapermillExecutionError as problem:
            error = short_error(cast(NotebookNode, problem))
        except CellTimeoutError:
            error = f"it ran longer than {timeout:g} seconds"
        except DeadKernelError:
            error = "its kernel died (killed, or out of memory)"
    if error:
        cell = started[-1] if started else "(none started)"
        error = f"cell {cell}: {error}"
    outcome = Outcome(
        lab=name,
        source_hash=notebook.metadata["labs"]["source_hash"],
        state="failed" if error else "passed",
        seconds=round(time.monotonic() - begin, 1),
        cells=len(started),
        peak_mib=round(memory.peak / MEBI),
        error=error,
    )
    tell(f"{outcome.state}  {outcome.seconds:.1f} s\n")
    return outcome


class Ticker:
    """One line for a lab: rewritten on a terminal, written once elsewhere."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __call__(self, word: str) -> None:
        if sys.stdout.isatty():
            # "\x1b[K" clears what a longer word left behind.
            print(f"\r{self.label}  {word}\x1b[K", end="", flush=True)
        elif word.endswith("\n"):
            print(f"{self.label}  {word}", end="", flush=True)


@contextmanager
def headless() -> Iterator[None]:
    """Nobody sits in front: labs skip what waits for a person.

    The kernel inherits this process's environment, so what belongs to a
    notebook that started us must go while it runs.
    """
    taken = {name: os.environ.pop(name) for name in SOMEONE_ELSES if name in os.environ}
    home = os.environ.get("LABS_HOME")
    # Checkpoints and logs of these runs stay away from the reader's own.
    os.environ["LABS_HOME"] = str(my_labs() / "runs" / "home")
    loggers = [logging.getLogger(name) for name in ("papermill", "traitlets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # the summary says what failed
    try:
        yield
    finally:
        os.environ.update(taken)
        os.environ.pop("LABS_HOME")
        if home is not None:
            os.environ["LABS_HOME"] = home
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def summary(outcomes: list[Outcome], scale: str, edition: str) -> str:
    """The table at the end: one line a lab, then the sum."""
    width = max([len(outcome.lab) for outcome in outcomes] + [3])
    lines = ["", f"{'lab':{width}}  state   seconds  cells  peak MiB"]
    lines += [
        f"{row.lab:{width}}  {row.state:6}  {row.seconds:7.1f}  {row.cells:5}"
        f"  {row.peak_mib:8.0f}"
        for row in outcomes
    ]
    passed = sum(outcome.state == "passed" for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    lines.append(
        f"{passed} of {len(outcomes)} passed in {seconds:.0f} s "
        f"({edition} edition, scale {scale})"
    )
    return "\n".join(lines)


def _read(name: str, edition: Edition) -> NotebookNode:
    path = edition_path(name, edition)
    try:
        notebook = nbformat.read(path, as_version=4)
        built = "source_hash" in notebook.metadata["labs"]
    except (OSError, ValueError, KeyError):
        built = False
    if not built:
        raise LabError(
            f"{os.path.relpath(path)} is missing or was not built: "
            "`labs build` makes it from labs/src."
        )
    return notebook
