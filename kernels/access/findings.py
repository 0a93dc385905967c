"""What looks wrong in a recorded launch, in sentences for the kernel's author.

A finding is a question about the kernel, not a proof: a gather may leave rows
unread on purpose. What must not happen in any kernel (an access outside a
tensor, two programs that write one element) comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from kernels.access.log import (
    NOWHERE,
    Access,
    AccessLog,
    Program,
    TensorArgument,
    count,
)
from kernels.access.races import race_findings
from kernels.access.rows import other_row_findings, past_row_end
from kernels.access.words import elements_words, number, programs_words

PAST = {"read": "read", "write": "wrote", "update": "updated"}


def findings(log: AccessLog, partly: Collection[str] = ()) -> list[str]:
    """Say what looks wrong in a launch; empty if nothing does.

    Args:
        log: from `record_accesses`.
        partly: arguments of which elements may be left untouched, such as the
            table of an embedding.
    """
    found: list[str] = []
    if not log.programs:
        return [f"the grid {log.grid} has no program: nothing ran"]
    for tensor in log.tensors:
        for kind in PAST:
            found += _outside(log, tensor, kind)
    found += _nowhere(log)
    found += _idle(log)
    for tensor in log.tensors:
        found += race_findings(log, tensor)
    found += other_row_findings(log)
    return found + _left_out(log, partly)


def _outside(log: AccessLog, tensor: TensorArgument, kind: str) -> list[str]:
    accesses = [a for a in log.of(tensor) if a.kind == kind]
    verb = PAST[kind]
    crossing = past_row_end(tensor, accesses)
    if crossing:
        return [
            f"{programs_words(crossing)} {verb} outside the row, past its end, "
            f"in {tensor.name}: is the mask missing?{_at(accesses, crossing)}"
        ]
    by_side: dict[str, dict[Program, list[Access]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for access in accesses:
        if access.outside.size:
            by_side[_side(tensor, access.outside)][access.program].append(access)
    found = []
    for side, guilty in by_side.items():
        offsets = np.unique(
            np.concatenate([a.outside for group in guilty.values() for a in group])
        )
        how_far = f"{number(offsets.size, 'element')} {side}"
        found.append(
            f"{programs_words(guilty)} {verb} outside {tensor.name}, {how_far}: "
            f"{_cause(log, tensor, side, guilty)}?{_at(accesses, guilty)}"
        )
    return found


def _side(tensor: TensorArgument, outside: np.ndarray) -> str:
    if outside.max() >= tensor.span:
        return "past its end"
    if outside.min() < 0:
        return "before its start"
    return "in the gaps between its own"


def _cause(
    log: AccessLog,
    tensor: TensorArgument,
    side: str,
    guilty: dict[Program, list[Access]],
) -> str:
    if side == "before its start":
        return "is an offset negative"
    if side == "in the gaps between its own":
        return f"are its strides {tensor.strides} used"
    lost = [a for group in guilty.values() for a in group if not a.touched.size]
    if len(lost) < sum(map(len, guilty.values())):
        return "is the mask missing"
    # Whole blocks are outside. Is that because there is nothing left to do?
    counts = count(log, tensor)
    last = log.programs[1:][-len(guilty) :]  # not all of them
    if (counts.read | counts.written).all() and sorted(guilty) == last:
        extra = "one program" if len(last) == 1 else f"{len(last)} programs"
        return f"is the grid {extra} too long, or the mask missing"
    return "is the offset or the stride right"


def _nowhere(log: AccessLog) -> list[str]:
    lost = [a for a in log.accesses if a.tensor == NOWHERE and a.active.any()]
    if not lost:
        return []
    guilty = {a.program for a in lost}
    return [
        f"{programs_words(guilty)} used an address that is near no argument: "
        f"is the offset garbage, or an integer used as a pointer?{_at(lost, guilty)}"
    ]


def _idle(log: AccessLog) -> list[str]:
    """Programs whose every lane is switched off, at the end of the grid."""
    busy = {a.program for a in log.accesses if a.active.any()}
    tried = {a.program for a in log.accesses}
    idle = sorted(tried - busy)
    if not idle or idle != log.programs[-len(idle) :]:
        return []
    extra = "one program" if len(idle) == 1 else f"{len(idle)} programs"
    return [
        f"{programs_words(idle)} did nothing, every lane is masked off: "
        f"is the grid {extra} too long?"
    ]


def _left_out(log: AccessLog, partly: Collection[str]) -> list[str]:
    """Elements that nothing wrote (of an output) or nothing read (of an input)."""
    found = []
    unwritten: list[np.ndarray] = []
    counts = {t.name: count(log, t) for t in log.tensors if t.size}
    outputs = [t for t in log.tensors if t.size and counts[t.name].written.any()]
    inputs = [t for t in log.tensors if t.size and t not in outputs]
    for tensor in outputs + inputs:
        done = counts[tensor.name].written
        if tensor in inputs:
            done = counts[tensor.name].read
        missing = np.flatnonzero(~done)
        if not missing.size or tensor.name in partly:
            continue
        if missing.size == tensor.size:
            found.append(f"{tensor.name} was never read or written: is it forgotten?")
        elif tensor in outputs:
            found.append(_missing(log, tensor, missing, "written"))
            unwritten.append(missing)
        elif not any(np.array_equal(missing, other) for other in unwritten):
            # What belongs to an unwritten output need not be said twice.
            found.append(_missing(log, tensor, missing, "read"))
    return found


def _missing(
    log: AccessLog, tensor: TensorArgument, missing: np.ndarray, verb: str
) -> str:
    words, plural = elements_words(tensor, missing)
    kinds = ("read", "update") if verb == "read" else ("write", "update")
    share = _most_by_one(log, tensor, kinds)
    first = int(missing[0])
    cause = "does an offset skip them" if plural else "does an offset skip it"
    counts = count(log, tensor)
    at_end = first + missing.size == tensor.size
    if counts.masked[missing].all():
        cause = "is the mask too narrow"
    elif at_end and first == len(log.programs) * share and not counts.outside.size:
        # Every program did a full share, and the end is missing.
        short = -(-missing.size // share)
        programs = "one program" if short == 1 else f"{short} programs"
        cause = f"is the grid {programs} short"
    return f"{words} {'were' if plural else 'was'} never {verb}: {cause}?"


def _most_by_one(log: AccessLog, tensor: TensorArgument, kinds: tuple[str, ...]) -> int:
    """The most elements that one program touched."""
    mine: dict[Program, set[int]] = defaultdict(set)
    for access in log.of(tensor):
        if access.kind in kinds:
            mine[access.program] |= set(access.touched.tolist())
    return max(map(len, mine.values()))


def _at(accesses: list[Access], programs: Collection[Program]) -> str:
    """The source line, if all these accesses come from one."""
    lines = {a.line for a in accesses if a.program in programs and a.outside.size}
    lines = lines or {a.line for a in accesses if a.program in programs}
    only = lines.pop() if len(lines) == 1 else ""
    return f" [{only}]" if only else ""
