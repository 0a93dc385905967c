"""Lab 02's kernel exercise: what is special about its checks."""

import pytest
import torch

import kernels
from kernels.language import jit, tl
from kernels.moe_permute import moe_permute
from labs.lab_02.exercises_kernel import COUNT, expect_rows, race, visits
from labs.lab_02.kernels_ours import (
    launch_take_places,
    take_places,
    take_places_kernel,
)
from labsupport.exercise import run_checks
from labsupport.exercise.check import CheckFailed

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@jit
def race_in_other_words(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = r < R
    counter = count_ptr + tl.load(index_ptr + r, mask=inside, other=0)
    before = tl.load(counter, mask=inside, other=0)
    tl.store(place_ptr + r, before, mask=inside)
    tl.store(counter, before + 1, mask=inside)


@jit
def last_come_first_served(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    """Right, although an expert's rows are in another order."""
    r = R - 1 - tl.program_id(0) * BLOCK - tl.arange(0, BLOCK)
    expert = tl.load(index_ptr + r, mask=r >= 0, other=0)
    place = tl.atomic_add(count_ptr + expert, 1, mask=r >= 0)
    tl.store(place_ptr + r, place, mask=r >= 0)


def test_a_mistake_is_named_however_it_is_written():
    assert run_checks(COUNT, race_in_other_words).wrong == "race"


def test_the_race_loses_visits_in_the_interpreter_too():
    """Programs run one after another there, but the lanes of a block do not."""
    index, count = visits(16, 4), torch.zeros(4, dtype=torch.int32)
    place = torch.zeros_like(index)
    race[(1,)](index, count, place, 16, BLOCK=16)
    assert count.tolist() == [1, 1, 1, 1]
    take_places_kernel[(1,)](index, count.zero_(), place, 16, BLOCK=16)
    assert count.tolist() == torch.bincount(index, minlength=4).tolist()


def test_any_order_within_an_expert_is_right_as_a_gpu_has_none():
    index = visits(50, 8)
    row = launch_take_places(last_come_first_served, index, 8)
    assert not torch.equal(row, take_places(index, 8))
    assert run_checks(COUNT, last_come_first_served).passed


@pytest.mark.parametrize(
    "row, came",
    [
        ([4, 0, 4, 3, 1], "1 rows given twice or more, 1 to nobody"),
        ([4, 0, 2, 3, 7], "0 rows given twice or more, 1 to nobody"),
        ([4, -1, 2, 3, 1], "0 rows given twice or more, 1 to nobody"),
        ([0, 3, 1, 2, 4], r"\[2, 2, 2, 0, 0\]"),
    ],
)
def test_rows_that_are_wrong_are_refused(row, came):
    index = torch.tensor([2, 0, 2, 2, 0], dtype=torch.int32)
    with pytest.raises(CheckFailed, match=came):
        expect_rows(torch.tensor(row, dtype=torch.int32), index, 3, "rows")


def test_the_readers_rows_are_those_of_the_courses_kernel():
    """Interpreted, visits come in their order, so the places are a stable sort's."""
    index_TK = visits(40, 5).view(20, 2)
    _, row_TK, _ = moe_permute(index_TK, 5, interpret=True)
    row_R = launch_take_places(take_places_kernel, index_TK.flatten(), 5)
    assert torch.equal(row_R, row_TK.flatten())
    assert torch.equal(take_places(index_TK.flatten(), 5), row_R)


def test_no_hint_gives_a_line_of_the_solution_away():
    text = " ".join(COUNT.hints)
    assert not any(piece in text for piece in ("count_ptr +", "place_ptr +", "r < R"))
