"""A picture of what a kernel does to memory, program by program."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from kernels.access import (
    AccessLog,
    Counts,
    RecordingError,
    count,
    findings,
    record_accesses,
)
from kernels.access.log import Program
from kernels.access.words import programs_words
from labsupport.errors import LabError
from labsupport.explore.control import slide
from labsupport.explore.explorer import Explorer, View
from labsupport.explore.memory_sheet import (
    LOOK,
    Sheet,
    State,
    cell_words,
    sheets_of,
    states,
)
from labsupport.explore.memory_words import all_words, one_words

ALL = "all"
MOST_PROGRAMS = 512
WIDTH = 720  # CSS pixels, of the cells and the margins
MARGINS = {"l": 76, "r": 16, "t": 96, "b": 12}
CELL = 24  # the largest side of a cell
LEGIBLE = 12  # the smallest that holds a letter
TALLEST = 340  # of one tensor
BETWEEN = 34  # pixels between two tensors, for the lower one's name


def memory_map(
    kernel: Any,
    grid: Any,
    *args: Any,
    partly: Collection[str] = (),
    **kwargs: Any,
) -> Explorer:
    """Launch a kernel in the interpreter and draw what it touched.

    Every tensor argument becomes a sheet of cells: read, written, both, masked
    off, written twice, outside the tensor, or never touched. A slider goes
    through the programs; its first stop shows all of them.

    Args:
        kernel: a function decorated with `triton.jit`, or an exercise of one:
            then the kernel in use, so `lab.mine(...)` shows a wrong one.
        grid: as in `kernel[grid](...)`; one number will do.
        args: the kernel's arguments; small tensors on the CPU.
        partly: arguments of which elements may be left untouched.
        kwargs: arguments by name, constexprs among them.

    Raises:
        LabError: a tensor has more than 4096 elements or rows longer than 128,
            the grid has more than 512 programs, or the launch cannot be
            recorded (kernels are compiled here, a tensor is on a GPU).
    """
    kernel = getattr(kernel, "__labs_active__", kernel)
    try:
        log = record_accesses(kernel, grid, *args, **kwargs)
    except RecordingError as error:
        raise LabError(str(error)) from None
    return log_explorer(log, partly)


def log_explorer(log: AccessLog, partly: Collection[str] = ()) -> Explorer:
    """The picture of a launch that has been recorded."""
    programs = {programs_words([p]).removeprefix("program "): p for p in log.programs}
    if len(programs) > MOST_PROGRAMS:
        raise LabError(
            f"The grid {log.grid} has {len(programs)} programs: a memory map shows at "
            f"most {MOST_PROGRAMS}, so launch the kernel on smaller tensors."
        )
    sheets = sheets_of(log)
    if not sheets:
        raise LabError(f"{log.kernel} was given no tensor: there is no memory to map.")
    hover = [cell_words(sheet, log) for sheet, _ in sheets]
    wrong = findings(log, partly)

    def draw(program: str) -> View:
        chosen = None if program == ALL else programs[program]
        parts = [(sheet, *_shown(log, sheet, total, chosen)) for sheet, total in sheets]
        cells = [states(*part) for part in parts]
        sentence = all_words(log, wrong)
        if chosen is not None:
            sentence = one_words(log, chosen)
        return View(_figure(log, program, parts, cells, hover), sentence, _table(parts))

    return Explorer(draw, program=slide("program", [ALL, *programs], ALL))


def _shown(
    log: AccessLog, sheet: Sheet, total: Counts, program: Program | None
) -> tuple[Counts, np.ndarray]:
    """The counts to show, and which elements to mark as written twice."""
    if program is None:
        return total, total.twice
    mine = count(log, sheet.tensor, program)
    return mine, total.twice & mine.written


def _figure(
    log: AccessLog,
    program: str,
    parts: list[tuple[Sheet, Counts, np.ndarray]],
    cells: list[np.ndarray],
    hover: list[list[list[str]]],
) -> go.Figure:
    room = WIDTH - MARGINS["l"] - MARGINS["r"]
    heights = []  # of each tensor's cells, in pixels
    for sheet, _, _ in parts:
        lines, columns = sheet.elements.shape
        heights.append(lines * max(4, min(CELL, room / columns, TALLEST / lines)))
    tall = sum(heights) + BETWEEN * (len(parts) - 1)
    figure = make_subplots(
        rows=max(1, len(parts)),
        cols=1,
        row_heights=heights or None,
        vertical_spacing=BETWEEN / tall if len(parts) > 1 else 0,
        subplot_titles=[_title(sheet) for sheet, _, _ in parts],
    )
    for row, ((sheet, _, _), z, words, height) in enumerate(
        zip(parts, cells, hover, heights, strict=True), start=1
    ):
        lines, columns = sheet.elements.shape
        cell = min(height / lines, room / columns)
        figure.add_trace(_heatmap(sheet, z, words, cell), row=row, col=1)
        across = max(columns, room / CELL)
        figure.update_xaxes(range=[-0.5, across - 0.5], row=row, col=1)
        figure.update_yaxes(
            autorange="reversed",
            tickvals=[n for n, name in enumerate(sheet.lines) if name],
            ticktext=[name for name in sheet.lines if name],
            showgrid=False,
            showline=False,
            ticks="",
            row=row,
            col=1,
        )
    figure.update_xaxes(visible=False)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    for letter, colour, name in LOOK.values():
        marker = {"symbol": "square", "size": 13, "color": colour}
        marker["line"] = {"width": 1, "color": "#6b7280"}
        label = f"<b>{letter}</b> {name}" if letter else name
        figure.add_trace(
            go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=label)
        )
    who = (
        f"all {len(log.programs)} programs" if program == ALL else f"program {program}"
    )
    height = round(tall) + MARGINS["t"] + MARGINS["b"]
    figure.update_layout(
        title={"text": f"{log.kernel}, {who}", "y": 1 - 10 / height},
        width=WIDTH,
        height=height,
        margin=MARGINS,
        legend={"y": 1 + 24 / tall, "font": {"size": 12}, "itemclick": False},
    )
    return figure


def _title(sheet: Sheet) -> str:
    sides = ", ".join(map(str, sheet.tensor.shape))
    return f"{sheet.tensor.name} [{sides}] {sheet.tensor.dtype}"


def _heatmap(
    sheet: Sheet, z: np.ndarray, words: list[list[str]], cell: float
) -> go.Heatmap:
    steps = len(State)
    colours = [
        (place / steps, LOOK[state][1])
        for state in State
        for place in (state, state + 1)
    ]
    letters = [
        ["" if np.isnan(c) else LOOK[State(int(c))][0] for c in line] for line in z
    ]
    return go.Heatmap(
        z=[[None if np.isnan(c) else int(c) for c in line] for line in z],
        zmin=-0.5,
        zmax=steps - 0.5,
        colorscale=colours,
        showscale=False,
        xgap=1,
        ygap=1,
        text=letters,
        texttemplate="%{text}" if cell >= LEGIBLE else "",  # or else by pointing
        textfont={"size": min(12, round(cell) - 2), "color": "black"},
        customdata=words,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _table(parts: list[tuple[Sheet, Counts, np.ndarray]]) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {
        name: []
        for name in (
            "argument",
            "elements",
            "read",
            "written",
            "masked off",
            "written twice",
            "outside",
            "never touched",
        )
    }
    for sheet, counts, twice in parts:
        numbers = (
            sheet.tensor.size,
            counts.read.sum(),
            counts.written.sum(),
            (counts.masked > 0).sum(),
            twice.sum(),
            counts.outside.size,
            (~(counts.read | counts.written)).sum(),
        )
        row = [sheet.tensor.name, *map(int, numbers)]
        for column, value in zip(table.values(), row, strict=True):
            column.append(value)
    return table
