"""Lab 05b's kernel exercise: what is special about its checks."""

import pytest
import torch

import kernels
from kernels.language import jit, tl
from kernels.stream_sum import stream_sum
from labs.lab_05b.exercise_kernel import KERNEL, streams
from labs.lab_05b.kernels_ours import (
    launch_stream_sum,
    stream_sum_kernel,
    weighted_sum,
)
from labsupport.exercise import run_checks

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@jit
def walking(x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr):
    """Right: a pointer goes from stream to stream, the loop is no unrolled one."""
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < D
    at = x_ptr + r * D + d
    y = tl.full((BLOCK,), 0.0, dtype=tl.float32)
    for p in range(P):
        y = y + tl.load(at, mask=inside, other=0.0) * tl.load(w_ptr + r * P + p)
        at += R * D
    tl.store(y_ptr + r * D + d, y, mask=inside)


@jit
def all_at_once(x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr):
    """Right where P is a power of two, as `tl.arange` takes no other."""
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    p = tl.arange(0, P)[:, None]
    w = tl.load(w_ptr + r * P + p)
    x = tl.load(x_ptr + p * R * D + r * D + d, mask=d < D, other=0.0)
    y = tl.sum(w * x, axis=0)[None, :]
    tl.store(y_ptr + r * D + d, y, mask=d < D)


@jit
def walking_by_rows(x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < D
    at = x_ptr + r * D + d
    y = tl.full((BLOCK,), 0.0, dtype=tl.float32)
    for p in range(P):
        y = y + tl.load(at, mask=inside, other=0.0) * tl.load(w_ptr + r * P + p)
        at += D
    tl.store(y_ptr + r * D + d, y, mask=inside)


def test_another_solution_passes():
    verdict = run_checks(KERNEL, walking)
    assert verdict.passed, verdict.message


def test_all_streams_in_one_block_are_right_where_there_are_2_4_or_8():
    x_PRD, w_RP = streams(4, 3, 37)
    y_RD = launch_stream_sum(all_at_once, x_PRD, w_RP)
    torch.testing.assert_close(y_RD, weighted_sum(x_PRD, w_RP))


def test_a_mistake_is_named_however_it_is_written():
    assert run_checks(KERNEL, walking_by_rows).wrong == "a row apart"


def test_the_readers_sum_with_softmax_weights_is_the_courses_kernel():
    x_PRD, logits_RP = streams(4, 5, 37)
    for eps in (0.0, 0.1):
        w_RP = (1 - eps) * logits_RP.softmax(-1) + eps / 4
        y_RD = launch_stream_sum(stream_sum_kernel, x_PRD, w_RP)
        wanted_RD = stream_sum(x_PRD, logits_RP, eps, interpret=True)
        torch.testing.assert_close(y_RD, wanted_RD)
        torch.testing.assert_close(weighted_sum(x_PRD, w_RP), wanted_RD)


def test_no_hint_gives_a_line_of_the_solution_away():
    text = " ".join(KERNEL.hints)
    pieces = ("x_ptr", "w_ptr", "y_ptr", "p * R", "r * P", "r * D", "d < D", "y +=")
    assert not any(piece in text for piece in pieces)
