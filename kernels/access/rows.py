"""Kernels that give each program a row: do they stay in it, and is it the right one?

A row is a tensor's last axis. Only a kernel that works row by row is judged.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from kernels.access.log import Access, AccessLog, Program, TensorArgument
from kernels.access.words import number, programs_words


def past_row_end(tensor: TensorArgument, accesses: list[Access]) -> list[Program]:
    """Programs that start at a row of their own and run on into the next.

    A kernel that treats the tensor as one long line crosses rows too, so this
    wants every program's first element to be the first of a row, or a
    block with several lines that all cross at the same column.
    """
    if len(tensor.shape) < 2 or tensor.strides[-1] == 0:
        return []
    row = tensor.row
    starts: dict[Program, int] = {}
    guilty = []
    for access in accesses:
        if access.touched.size:
            first = int(access.touched.min())
            known = starts.get(access.program, first)
            starts[access.program] = min(known, first)
        lines = np.atleast_1d(access.elements)
        lines = lines.reshape(-1, lines.shape[-1])
        on = access.active.reshape(lines.shape)
        crossed = [
            _crosses(line[use], row) for line, use in zip(lines, on, strict=True)
        ]
        if any(crossed):
            columns = {int(line[0]) % row for line in lines if line[0] >= 0}
            tile = len(lines) > 1 and len(columns) == 1
            guilty.append((access.program, tile))
    by_row = len(starts) > 1 and all(first % row == 0 for first in starts.values())
    programs = {program for program, tile in guilty if tile or by_row}
    if programs and by_row:
        # The last row's program leaves the tensor instead of crossing.
        programs |= {a.program for a in accesses if a.touched.size and a.outside.size}
    return sorted(programs)


def _crosses(line: np.ndarray, row: int) -> bool:
    """Whether neighbouring lanes run over a row's end and stop within the next."""
    inside = line[line >= 0]
    if inside.size < 2 or (np.diff(inside) != 1).any():
        return False
    return bool(inside[0] // row != inside[-1] // row and (inside[-1] + 1) % row)


def other_row_findings(log: AccessLog) -> list[str]:
    """Programs that write row r of one tensor and read one other row of another."""
    rows: dict[tuple[str, str], dict[Program, set[int]]] = {}
    for tensor in log.tensors:
        for kind in ("read", "write"):
            mine: dict[Program, set[int]] = defaultdict(set)
            for access in log.of(tensor):
                if access.kind == kind and access.touched.size:
                    mine[access.program] |= set((access.touched // tensor.row).tolist())
            rows[tensor.name, kind] = mine
    found = []
    for x in log.tensors:
        for out in log.tensors:
            read, wrote = rows[x.name, "read"], rows[out.name, "write"]
            if x is out or len(x.shape) < 2 or not read:
                continue
            if out.shape == x.shape[:-1]:  # one number a row
                wrote = _elements_written(log, out)
            elif out.shape != x.shape:
                continue
            if not _one_each(read) or not _one_each(wrote) or set(read) != set(wrote):
                continue
            wrong = [p for p in read if read[p] != wrote[p]]
            if wrong:
                p = wrong[0]
                found.append(
                    f"{programs_words([p])} wrote row {min(wrote[p])} of {out.name} "
                    f"but read row {min(read[p])} of {x.name}"
                    f"{_likewise(len(wrong) - 1)}: is the row's index right?"
                )
    return found


def _likewise(others: int) -> str:
    return f" (and {number(others, 'other')} alike)" if others else ""


def _elements_written(
    log: AccessLog, tensor: TensorArgument
) -> dict[Program, set[int]]:
    wrote: dict[Program, set[int]] = defaultdict(set)
    for access in log.of(tensor):
        if access.kind == "write":
            wrote[access.program] |= set(access.touched.tolist())
    return wrote


def _one_each(rows: dict[Program, set[int]]) -> bool:
    return all(len(some) == 1 for some in rows.values())
