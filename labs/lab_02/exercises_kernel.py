"""Lab 02's kernel exercise, 2.K, and the mistakes it expects."""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.language import jit, tl
from labs.lab_02 import kernels_ours as ours
from labsupport.exercise import Exercise, WrongAnswer, expect_close
from labsupport.exercise.check import CheckFailed, expect_tensor

Probe = tuple[Tensor, int]


def visits(R: int, experts: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(experts, (R,), generator=generator).int()


def count_probes() -> Sequence[Probe]:
    """One block; several, the last one not full; all to one expert; one alone."""
    return [
        (visits(16, 8), 8),
        (visits(50, 8, seed=1), 8),
        (torch.full((21,), 2, dtype=torch.int32), 4),
        (torch.tensor([1], dtype=torch.int32), 2),
    ]


def expect_rows(row_R: Any, index_R: Tensor, experts: int, asked: str) -> None:
    """Rows of expert 0, then 1, ...; in which order of visits is left open.

    On a GPU atomics come in any order, so each run may number them anew.
    """
    expect_tensor(row_R, index_R.shape, torch.int32)
    R = len(index_R)
    inside_R = row_R[(row_R >= 0) & (row_R < R)].long()
    given = torch.bincount(inside_R, minlength=R)
    if (given != 1).any():
        twice, never = int((given > 1).sum()), int((given == 0).sum())
        raise CheckFailed(
            f"{asked}: each of {R} rows given to one visit",
            f"{twice} rows given twice or more, {never} to nobody",
        )
    experts_by_row_R = index_R[row_R.long().argsort()]
    expect_close(
        experts_by_row_R,
        index_R.sort().values,
        f"{asked}: the expert of each row, in order",
    )


def by_hand(candidate: Callable[..., Any]) -> None:
    """Expert 0 has two visits, expert 1 none, expert 2 three."""
    index_R = torch.tensor([2, 0, 2, 2, 0], dtype=torch.int32)
    expect_rows(candidate(index_R, 3), index_R, 3, "experts 2, 0, 2, 2, 0")


def every_probe(candidate: Callable[..., Any]) -> None:
    for index_R, experts in count_probes():
        asked = f"{len(index_R)} visits to {experts} experts"
        row_R = candidate(index_R.clone(), experts)
        expect_rows(row_R, index_R, experts, asked)


@jit
def race(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.load(count_ptr + expert, mask=r < R)
    tl.store(count_ptr + expert, place + 1, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def padding_counts(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.atomic_add(count_ptr + expert, 1)
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def counter_of_the_lane(
    index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr
):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.atomic_add(count_ptr + r, 1, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def read_again(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    tl.atomic_add(count_ptr + expert, 1, mask=r < R)
    place = tl.load(count_ptr + expert, mask=r < R) - 1
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def read_before(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.load(count_ptr + expert, mask=r < R)
    tl.atomic_add(count_ptr + expert, 1, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def unmasked_load(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r)
    place = tl.atomic_add(count_ptr + expert, 1, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def counted_from_one(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.atomic_add(count_ptr + expert, 1, mask=r < R) + 1
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def adds_the_expert(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.atomic_add(count_ptr + expert, expert, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)


@jit
def place_at_the_expert(
    index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr
):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.atomic_add(count_ptr + expert, 1, mask=r < R)
    tl.store(place_ptr + expert, place, mask=r < R)


COUNT = Exercise(
    id="2.K",
    title="count the visits, and give each a place",
    minutes=10,
    difficulty=2,
    ours=ours.take_places_kernel,
    launch=ours.launch_take_places,
    reference=ours.take_places,
    checks=(
        ("by hand", by_hand),
        ("full and last blocks, one expert takes all", every_probe),
    ),
    probes=count_probes,
    wrong=(
        WrongAnswer(
            "race",
            race,
            "load, add, store: two visits to one expert read the same count. One of "
            "them is not counted, and both get the same place.",
            1,
        ),
        WrongAnswer(
            "padding counts",
            padding_counts,
            "lanes beyond R count, too: they hold expert 0, which gets more visits "
            "than it has.",
            3,
        ),
        WrongAnswer(
            "counter of the lane",
            counter_of_the_lane,
            "each visit has a counter of its own: counters belong to experts, so "
            "their address is count_ptr plus the expert that was loaded.",
            2,
        ),
        WrongAnswer(
            "read again",
            read_again,
            "the counter is read again after everybody has added to it, so all "
            "visits to an expert see the same number. The atomic itself returns "
            "what stood there before.",
            2,
        ),
        WrongAnswer(
            "read before",
            read_before,
            "the counter is read before the atomic, by all lanes at once, so visits "
            "to one expert see the same number. Take what the atomic returns.",
            2,
        ),
        WrongAnswer(
            "unmasked load",
            unmasked_load,
            "the load has no mask: lanes beyond R read past the end of the index.",
            3,
        ),
        WrongAnswer(
            "counted from one",
            counted_from_one,
            "places are counted from 1: the first visit finds 0 in its counter, and "
            "that is its place.",
            2,
        ),
        WrongAnswer(
            "adds the expert",
            adds_the_expert,
            "a visit adds its expert's number: it has to add 1, whichever expert "
            "it goes to.",
            1,
        ),
        WrongAnswer(
            "place at the expert",
            place_at_the_expert,
            "the place is stored at the expert's address, where the next visit "
            "overwrites it: place_R has one number for each visit.",
            3,
        ),
    ),
    hints=(
        "Between a load and a store others do the same. An atomic adds 1 in one step "
        "that nobody can interrupt.",
        "Load each lane's expert; it tells which counter is the lane's. What "
        "tl.atomic_add returns is the counter before the addition: how many visits "
        "came earlier, which is the place.",
        "Three steps: load, atomic, store. Each needs the mask, or lanes beyond the "
        "last visit join in. Places are stored where the index was loaded, at r.",
    ),
)
