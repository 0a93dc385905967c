"""Lab 01's kernel exercise: what is special about its checks."""

import pytest

import kernels
from kernels.language import jit, tl
from kernels.sinkhorn import sinkhorn
from labs.lab_01.exercises_kernel import STEP, matrices
from labs.lab_01.kernels_ours import launch_sinkhorn_step, sinkhorn_step_kernel
from labsupport.exercise import run_checks

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@jit
def rows_first_in_other_words(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, None, :]
    entry = tl.arange(0, N)[:, None, None] * N + tl.arange(0, N)[None, :, None]
    p = tl.load(p_ptr + entry * M + m, mask=m < M, other=1.0)
    p *= 1.0 / tl.sum(p, axis=1)[:, None, :]
    p *= 1.0 / tl.sum(p, axis=0)[None, :, :]
    tl.store(out_ptr + entry * M + m, p, mask=m < M)


def test_a_mistake_is_named_however_it_is_written():
    assert run_checks(STEP, rows_first_in_other_words).wrong == "rows first"


def test_the_readers_step_twenty_times_is_the_courses_kernel():
    p_nnM = matrices(4, 20)
    wanted = sinkhorn(p_nnM.log(), interpret=True)
    for _ in range(20):
        p_nnM = launch_sinkhorn_step(sinkhorn_step_kernel, p_nnM)
    assert (p_nnM - wanted).abs().max() < 1e-6
