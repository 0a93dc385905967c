"""Elements whose value depends on which program, or which lane, comes last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from kernels.access.log import AccessLog, Program, TensorArgument
from kernels.access.words import elements_words, programs_words

Users = dict[int, set[Program]]
"""Element -> the programs that used it in some way."""


def race_findings(log: AccessLog, tensor: TensorArgument) -> list[str]:
    """Sentences about one tensor's races; programs have no order among them."""
    users: dict[str, Users] = {k: defaultdict(set) for k in ("read", "write", "update")}
    lost: dict[Program, set[int]] = defaultdict(set)
    lanes: dict[Program, set[int]] = defaultdict(set)
    unread: dict[Program, set[int]] = defaultdict(set)
    for access in log.of(tensor):
        program, touched = access.program, tensor.places[access.touched]
        some = set(touched.tolist())
        for element in some:
            users[access.kind][element].add(program)
        if access.kind == "write":
            lost[program] |= unread[program] & some
            unread[program] |= some
            values, times = np.unique(touched, return_counts=True)
            lanes[program] |= set(values[times > 1].tolist())
        else:
            unread[program] -= some
    written_by_two = {e: w for e, w in users["write"].items() if len(w) > 1}
    mixed = {
        e: w | users["update"][e]
        for e, w in users["write"].items()
        if e not in written_by_two and users["update"].get(e, set()) - w
    }
    read_elsewhere = {
        e: (w, users["read"][e] - w)
        for e, w in users["write"].items()
        if e not in written_by_two and users["read"].get(e, set()) - w
    }
    order = _order(log)
    found = []
    for programs, elements in _by_programs(written_by_two):
        found.append(
            f"{_was(tensor, elements)} written by {programs_words(programs)}: "
            f"a race{order}"
        )
    for programs, elements in _by_programs(mixed):
        found.append(
            f"{_was(tensor, elements)} stored to and updated by an atomic, by "
            f"{programs_words(programs)}: a race{order}"
        )
    if read_elsewhere:
        writers = set().union(*(w for w, _ in read_elsewhere.values()))
        readers = set().union(*(r for _, r in read_elsewhere.values()))
        found.append(
            f"{_was(tensor, read_elsewhere)} written by {programs_words(writers)} and "
            f"read by {programs_words(readers)}: the order is not fixed, a race{order}"
        )
    for programs, elements in _by_elements(lanes):
        found.append(
            f"{_was(tensor, elements)} written from several lanes of one store, by "
            f"{programs_words(programs)}: which value stays is undefined"
        )
        for program in programs:
            lost[program] -= set(elements)
    for programs, elements in _by_elements(lost):
        found.append(
            f"{_was(tensor, elements)} written twice by {programs_words(programs)}: "
            "the first value is lost"
        )
    return found


def _order(log: AccessLog) -> str:
    """A lock is an atomic on another tensor; addresses do not show what it orders."""
    if any(access.kind == "update" for access in log.accesses):
        return " (unless a lock orders them)"
    return ""


def _was(tensor: TensorArgument, elements: Iterable[int]) -> str:
    words, plural = elements_words(tensor, elements)
    return f"{words} {'were' if plural else 'was'}"


def _by_programs(users: Users) -> list[tuple[set[Program], list[int]]]:
    """Group elements that the same programs used; past three groups, merge them."""
    groups: dict[frozenset[Program], list[int]] = defaultdict(list)
    for element, programs in sorted(users.items()):
        groups[frozenset(programs)].append(element)
    if len(groups) > 3:
        return [(set().union(*groups), sorted(users))]
    return [(set(programs), elements) for programs, elements in groups.items()]


def _by_elements(
    mine: dict[Program, set[int]],
) -> list[tuple[set[Program], list[int]]]:
    users: Users = defaultdict(set)
    for program, elements in mine.items():
        for element in elements:
            users[element].add(program)
    return _by_programs(users)
