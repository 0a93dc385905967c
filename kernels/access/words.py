"""Names for sets of elements and of programs, as a sentence needs them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kernels.access.log import Program, TensorArgument


def elements_words(tensor: TensorArgument, elements: Iterable[int]) -> tuple[str, bool]:
    """What a reader calls these elements, and whether that is a plural.

    >>> elements_words(TensorArgument("out", (100,), (1,), "float32"), range(96, 100))
    ('elements 96 to 99 of out', True)
    """
    which = np.unique(np.fromiter(elements, dtype=np.int64))
    name = tensor.name
    if which.size == tensor.size and which.size > 1:
        return f"all of {name}", False
    if which.size == 1:
        return f"{name}{_index(tensor, int(which[0]))}", False
    rows = np.unique(which // tensor.row)
    columns = np.unique(which % tensor.row)
    if len(tensor.shape) > 1 and which.size == rows.size * columns.size:
        if columns.size == tensor.row and _even(rows) == 1:
            return _run("row", tensor, rows) + f" of {name}", rows.size > 1
        if _even(rows) == _even(columns) == 1:
            where = _run("row", tensor, rows) if rows.size < tensor.size else ""
            if rows.size == tensor.size // tensor.row:
                where = "every row"
            return f"{_run('column', None, columns)} of {where} of {name}", True
    if len(tensor.shape) == 1:
        step = _even(which)
        if step == 1:
            return f"{_run('element', None, which)} of {name}", True
        if step:
            ends = f"from {which[0]} to {which[-1]}"
            return f"every {_ordinal(step)} element of {name} {ends}", False
    first = _index(tensor, int(which[0]))
    if _even(which) == 1:  # from one row into the next
        return f"{name}{first} to {name}{_index(tensor, int(which[-1]))}", True
    return f"{which.size} elements of {name}, {name}{first} the first,", True


def programs_words(programs: Iterable[Program], most: int = 4) -> str:
    """ "program 3", "programs 0 and 1", "programs 0 to 3", "12 programs (0, ...)"."""
    names = sorted(set(programs))
    words = [str(name[0]) if len(name) == 1 else str(name) for name in names]
    if len(words) == 1:
        return f"program {words[0]}"
    numbers = np.array([name[0] for name in names])
    if len(names[0]) == 1 and len(words) > 2 and _even(numbers) == 1:
        return f"programs {words[0]} to {words[-1]}"
    if len(words) > most:
        return f"{len(words)} programs ({', '.join(words[:most])}, ...)"
    return f"programs {', '.join(words[:-1])} and {words[-1]}"


def number(count: int, thing: str) -> str:
    return f"1 {thing}" if count == 1 else f"{count} {thing}s"


def _even(values: np.ndarray) -> int:
    """The step between sorted values, 0 if it varies; 1 for a single value."""
    steps = np.unique(np.diff(values))
    return 1 if steps.size == 0 else int(steps[0]) if steps.size == 1 else 0


def _run(thing: str, tensor: TensorArgument | None, values: np.ndarray) -> str:
    def name(value: int) -> str:
        if tensor is None or len(tensor.shape) < 3:
            return str(value)
        return str([int(i) for i in np.unravel_index(value, tensor.shape[:-1])])

    first, last = name(int(values[0])), name(int(values[-1]))
    return f"{thing} {first}" if first == last else f"{thing}s {first} to {last}"


def _index(tensor: TensorArgument, element: int) -> str:
    if not tensor.shape:
        return ""
    return str([int(i) for i in np.unravel_index(element, tensor.shape)])


def _ordinal(step: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{step}{'th' if 10 < step % 100 < 14 else ends.get(step % 10, 'th')}"
