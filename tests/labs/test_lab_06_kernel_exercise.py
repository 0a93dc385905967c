"""Lab 06's kernel exercise: what is special about its checks."""

import pytest
import torch

import kernels
from kernels.language import jit, tl
from kernels.selected_logprob import selected_logprob
from labs.lab_06.exercise_kernel import KERNEL, rows
from labs.lab_06.kernels_ours import launch_online_lse, log_sum_exp, online_lse_kernel
from labsupport.exercise import run_checks

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@jit
def lane_by_lane(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    """Right: every lane has its own maximum and sum, put together after the loop."""
    n = tl.program_id(0)
    largest = tl.full((BLOCK,), -1e30, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, z)
        total = total * tl.exp(largest - new) + tl.exp(z - new)
        largest = new
    m = tl.max(largest, axis=0)
    total = tl.sum(total * tl.exp(largest - m), axis=0)
    tl.store(lse_ptr + n, m + tl.log(total))


@jit
def logs_added(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    """Right: the log-sum-exp of each block is added to the one so far."""
    n = tl.program_id(0)
    lse = float("-inf")
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        m = tl.max(z, axis=0)
        block = m + tl.log(tl.sum(tl.exp(z - m), axis=0))
        high = tl.maximum(lse, block)
        lse = high + tl.log(tl.exp(lse - high) + tl.exp(block - high))
    tl.store(lse_ptr + n, lse)


@jit
def rescaled_by_the_difference(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    """The sum is left as it is, written another way."""
    n = tl.program_id(0)
    m = -1e30
    s = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        m = tl.maximum(m, tl.max(z, axis=0))
        s += tl.sum(tl.exp(z - m), axis=0)
    tl.store(lse_ptr + n, tl.log(s) + m)


@pytest.mark.parametrize("kernel", [lane_by_lane, logs_added])
def test_another_solution_passes(kernel):
    verdict = run_checks(KERNEL, kernel)
    assert verdict.passed, verdict.message


def test_a_mistake_is_named_however_it_is_written():
    verdict = run_checks(KERNEL, rescaled_by_the_difference)
    assert verdict.wrong == "rescale forgotten"


def test_with_the_readers_sum_log_p_is_the_courses_kernel():
    z_NV = rows(4, 37)
    y_N = torch.tensor([0, 36, 16, 15])
    lse_N = launch_online_lse(online_lse_kernel, z_NV)
    logp_N = z_NV[range(4), y_N] - lse_N
    torch.testing.assert_close(lse_N, log_sum_exp(z_NV))
    torch.testing.assert_close(logp_N, selected_logprob(z_NV, y_N, interpret=True)[0])


def test_no_hint_gives_a_line_of_the_solution_away():
    text = " ".join(KERNEL.hints)
    pieces = ("z_ptr", "lse_ptr", "n * V", "v < V", "tl.", "total", "largest")
    assert not any(piece in text for piece in pieces)
