"""However rows are divided among experts, each row is in one tile of its expert."""

import itertools

import pytest
import torch

from kernels.expert_rows import block_of_experts, most_tiles, rows_of_tile
from kernels.language import jit, tl
from tests.kernels.harness import DEVICE, needs_a_kernel

BLOCK_R = 4


@jit
def tiles_kernel(first_ptr, found_ptr, E, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr):
    tile = tl.program_id(0)
    expert, start, stop = rows_of_tile(first_ptr, tile, E, BLOCK_R, BLOCK_E)
    tl.store(found_ptr + 3 * tile, expert)
    tl.store(found_ptr + 3 * tile + 1, start)
    tl.store(found_ptr + 3 * tile + 2, stop)


def tiles(counts):
    """(expert, start, stop) of every program that is launched."""
    R, E = sum(counts), len(counts)
    first = torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)
    programs = most_tiles(R, E, BLOCK_R)
    found = torch.full((programs, 3), -1, dtype=torch.int64, device=DEVICE)
    tiles_kernel[(programs,)](
        first.to(DEVICE), found, E, BLOCK_R=BLOCK_R, BLOCK_E=block_of_experts(E)
    )
    return found.tolist()


@needs_a_kernel
@pytest.mark.parametrize(
    "counts",
    [
        [1],
        [9],
        [4, 4],
        [0, 0, 7],
        [7, 0, 0],
        [0, 5, 0, 0, 1, 0],
        [1, 1, 1, 1, 1],
        [5, 4, 3, 2, 1],
        [0] * 100 + [13] + [0] * 27,
    ],
    ids=str,
)
def test_each_row_is_in_one_tile_of_its_expert(counts):
    owner = [e for e, count in enumerate(counts) for _ in range(count)]
    first = [0, *itertools.accumulate(counts)]
    covered = []
    for expert, start, stop in tiles(counts):
        if start >= stop:
            continue
        assert stop == first[expert + 1]
        rows = range(start, min(start + BLOCK_R, stop))
        assert all(owner[r] == expert for r in rows)
        covered += rows
    assert sorted(covered) == list(range(len(owner)))


@pytest.mark.parametrize("E", [1, 2, 3, 4])
def test_as_many_tiles_are_launched_as_the_worst_division_needs(E):
    """Every division of up to 13 rows among E experts."""
    for R in range(14):
        needed = [
            sum(-(-count // BLOCK_R) for count in counts)
            for counts in itertools.product(range(R + 1), repeat=E)
            if sum(counts) == R
        ]
        assert most_tiles(R, E, BLOCK_R) == max(needed)
