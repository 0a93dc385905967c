"""One tensor of a recorded launch, laid out as a sheet of cells.

A matrix keeps its rows; a vector is folded into lines of 32 elements. Places
outside the tensor that a kernel touched get cells of their own: before the
first element, after the last one, and (for a strided view) a line for the gaps.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from kernels.access import AccessLog, Counts, TensorArgument, count
from kernels.access.log import Program
from kernels.access.words import elements_words, programs_words
from labsupport.errors import LabError
from labsupport.explore import style

FOLD = 32
"""Elements in one line of a vector."""
MOST_COLUMNS, MOST_CELLS = 128, 4096


class State(IntEnum):
    """What happened to a cell; the larger one is shown when several hold."""

    UNTOUCHED = 0
    MASKED = 1
    READ = 2
    WRITTEN = 3
    BOTH = 4
    TWICE = 5
    OUTSIDE = 6


# Told apart by letter as well as by colour.
LOOK = {
    State.UNTOUCHED: ("", "#f3f4f6", "never touched"),
    State.MASKED: ("m", "#b8bdc6", "masked off"),
    State.READ: ("r", style.SKY, "read"),
    State.WRITTEN: ("w", style.GREEN, "written"),
    State.BOTH: ("b", style.BLUE, "both"),
    State.TWICE: ("2", style.ORANGE, "written twice"),
    State.OUTSIDE: ("!", style.VERMILION, "outside"),
}
"""Letter, colour and name of each state."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Where a tensor's elements and the places around it are drawn.

    Attributes:
        tensor: whose.
        elements: the element in each cell, -1 for none; (lines, columns).
        outside: the offset in each cell of a place outside; 0 elsewhere.
        is_outside: which cells those are.
        lines: the name of each line, for the axis.
    """

    tensor: TensorArgument
    elements: np.ndarray
    outside: np.ndarray
    is_outside: np.ndarray
    lines: list[str]


def lay_out(tensor: TensorArgument, total: Counts) -> Sheet:
    """Place a tensor's cells; the same sheet serves every program.

    Raises:
        LabError: too many cells to see one.
    """
    width = tensor.row if len(tensor.shape) > 1 else min(FOLD, max(1, tensor.size))
    if width > MOST_COLUMNS or tensor.size > MOST_CELLS:
        raise LabError(
            f"{tensor.name} has shape {tensor.shape}: a memory map shows at most "
            f"{MOST_CELLS} elements in rows of at most {MOST_COLUMNS}, so launch "
            "the kernel on a smaller tensor."
        )
    before = total.outside[total.outside < 0][-width:]
    after = total.outside[total.outside >= tensor.span][: 2 * width]
    gaps = total.outside[(total.outside >= 0) & (total.outside < tensor.span)][:width]
    # Lines: one for "before" if needed, the tensor and what follows it, the gaps.
    top = 1 if before.size else 0
    reach = int(after[-1]) - tensor.span + 1 if after.size else 0
    body = -(-(tensor.size + min(reach, 2 * width)) // width)
    shape = (top + body + (1 if gaps.size else 0), width)
    elements = np.full(shape, -1, dtype=np.int64)
    outside = np.zeros(shape, dtype=np.int64)
    is_outside = np.zeros(shape, dtype=bool)
    middle = elements[top : top + body].reshape(-1)  # a view
    middle[: tensor.size] = np.arange(tensor.size)

    def mark(line: int, columns: np.ndarray, offsets: np.ndarray) -> None:
        outside[line + columns // width, columns % width] = offsets
        is_outside[line + columns // width, columns % width] = True

    mark(0, width - before.size + np.arange(before.size), before)
    beyond = after - tensor.span
    near = beyond < min(reach, body * width - tensor.size)
    mark(top, tensor.size + beyond[near], after[near])
    mark(top + body, np.arange(gaps.size), gaps)
    lines = ["before"] * top + [_line(tensor, n, width) for n in range(body)]
    return Sheet(
        tensor, elements, outside, is_outside, lines + ["gaps"] * bool(gaps.size)
    )


def _line(tensor: TensorArgument, line: int, width: int) -> str:
    if line * width >= tensor.size:
        return "past end" if line * width < tensor.size + width else ""
    return str(line if len(tensor.shape) > 1 else line * width)


def states(sheet: Sheet, counts: Counts, twice: np.ndarray) -> np.ndarray:
    """The `State` of every cell, NaN where there is none; (lines, columns).

    Args:
        sheet: from `lay_out`.
        counts: of all programs or of one.
        twice: elements to mark as written twice, for one program those that
            it shares with another; bool, (size,).
    """
    of_element = np.full(sheet.tensor.size, State.UNTOUCHED, dtype=np.float64)
    for state, where in (
        (State.MASKED, counts.masked > 0),
        (State.READ, counts.read),
        (State.WRITTEN, counts.written),
        (State.BOTH, counts.read & counts.written),
        (State.TWICE, twice),
    ):
        of_element[where] = state
    cells = np.full(sheet.elements.shape, np.nan)
    inside = sheet.elements >= 0
    cells[inside] = of_element[sheet.elements[inside]]
    touched = sheet.is_outside & np.isin(sheet.outside, counts.outside)
    cells[touched] = State.OUTSIDE
    return cells


def cell_words(sheet: Sheet, log: AccessLog) -> list[list[str]]:
    """What each cell says when pointed at: who did what there."""
    did: dict[str, dict[int, set[Program]]] = defaultdict(lambda: defaultdict(set))
    for access in log.of(sheet.tensor):
        for element in access.touched.tolist():
            did[{"read": "read", "write": "written"}.get(access.kind, "updated")][
                element
            ].add(access.program)
        for element in access.masked.tolist():
            did["masked off"][element].add(access.program)
        for offset in access.outside.tolist():
            did["outside"][offset].add(access.program)

    def words(line: int, column: int) -> str:
        if sheet.is_outside[line, column]:
            offset = int(sheet.outside[line, column])
            who = programs_words(did["outside"][offset])
            return f"outside {sheet.tensor.name}, at offset {offset}: {who}"
        element = int(sheet.elements[line, column])
        if element < 0:
            return ""
        name = elements_words(sheet.tensor, [element])[0]
        place = int(sheet.tensor.places[element])
        parts = [
            f"{how} by {programs_words(who[place])}"
            for how, who in did.items()
            if how != "outside" and place in who
        ]
        return f"{name}: " + (", ".join(parts) or "never touched")

    lines, columns = sheet.elements.shape
    return [[words(line, column) for column in range(columns)] for line in range(lines)]


def sheets_of(log: AccessLog) -> list[tuple[Sheet, Counts]]:
    """A sheet for each tensor argument that has elements."""
    totals = [(tensor, count(log, tensor)) for tensor in log.tensors if tensor.size]
    return [(lay_out(tensor, total), total) for tensor, total in totals]
