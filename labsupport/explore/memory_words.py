"""A memory map in words, for whoever cannot see it."""

from __future__ import annotations

import numpy as np

from kernels.access import AccessLog, count
from kernels.access.log import Program
from kernels.access.words import elements_words, number, programs_words


def all_words(log: AccessLog, wrong: list[str]) -> str:
    """What looks wrong in a launch; if nothing does, what it read and wrote."""
    start = f"{log.kernel}, {number(len(log.programs), 'program')}: "
    if wrong:
        return start + "; ".join(wrong) + "."
    done: dict[str, list[str]] = {"read": [], "wrote": [], "read and wrote": []}
    for tensor in log.tensors:
        counts = count(log, tensor)
        if counts.read.any() and counts.written.any():
            done["read and wrote"].append(tensor.name)
        elif counts.written.any():
            done["wrote"].append(tensor.name)
        elif counts.read.any():
            done["read"].append(tensor.name)
    parts = [f"{verb} {', '.join(names)}" for verb, names in done.items() if names]
    return start + f"they {'; '.join(parts)}; nothing looks wrong."


def one_words(log: AccessLog, program: Program) -> str:
    """What one program did, tensor by tensor."""
    parts = []
    for tensor in log.tensors:
        counts = count(log, tensor, program)
        for verb, where in (("read", counts.read), ("wrote", counts.written)):
            if where.any():
                words, _ = elements_words(tensor, np.flatnonzero(where))
                parts.append(f"{verb} {words.rstrip(',')}")
        off = sum(int((~access.active).sum()) for access in log.of(tensor, program))
        if off:
            parts.append(f"had {number(off, 'lane')} of {tensor.name} masked off")
        if counts.outside.size:
            outside = number(counts.outside.size, "element")
            parts.append(f"touched {outside} outside {tensor.name}")
    doing = "; ".join(parts) or "touched nothing"
    return f"{log.kernel}, {programs_words([program])}: {doing}."
