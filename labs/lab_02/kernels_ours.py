"""Our solution of lab 02's kernel exercise, and what it computes.

Shape suffixes: R visits of tokens to experts, E experts.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import cdiv, jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

BLOCK = 16
"""Visits a program works on."""


@jit
def take_places_kernel(
    index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr
):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    # What the counter held before: how many came earlier.
    place = tl.atomic_add(count_ptr + expert, 1, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)


def launch_take_places(kernel, index_R: Tensor, experts: int) -> Tensor:
    """Run a kernel of these arguments: row_R, the row of each visit.

    An expert's rows follow those of all smaller experts; which place each visit
    has among them, the kernel says.
    """
    (index,) = where_kernels_run(index_R.int().contiguous())
    R = index.numel()
    count_E = index.new_zeros(experts)
    place_R = index.new_full((R,), -1)
    grid = (cdiv(R, BLOCK),)
    launch_watched(
        kernel, grid, index, count_E, place_R, R,
        partly=("count_ptr",), BLOCK=BLOCK,
    )  # fmt: skip
    first_E = count_E.cumsum(0) - count_E
    row_R = first_E[index.long()] + place_R
    return row_R.int().to(index_R.device)


def take_places(index_R: Tensor, experts: int) -> Tensor:
    """The same with a stable sort, for any number of experts."""
    slot_R = index_R.argsort(stable=True)
    row_R = torch.empty_like(slot_R)
    row_R[slot_R] = torch.arange(len(slot_R), device=index_R.device)
    return row_R.int()
