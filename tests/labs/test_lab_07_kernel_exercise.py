"""Lab 07's kernel exercise: what is special about its checks."""

import pytest
import torch

import kernels
from kernels.language import jit, tl
from kernels.selected_logprob import selected_logprob
from labs.lab_07.exercise_kernel import KERNEL, tokens
from labs.lab_07.kernels_ours import (
    launch_logprob_backward,
    logprob_backward,
    logprob_backward_kernel,
)
from labsupport.exercise import run_checks

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@jit
def in_two_parts(z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr):
    """Right: the chosen entry apart from the others, one reciprocal of T."""
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = v < V
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n) / T
    at = n * V + v
    x = tl.load(z_ptr + at, mask=inside, other=float("-inf")) / T
    p = tl.exp(x - lse)
    tl.store(dz_ptr + at, tl.where(v == y, g - g * p, -g * p), mask=inside)


@jit
def of_cross_entropy(z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr):
    """The sign of -log p, written another way."""
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    dz = tl.exp(z / T - lse)
    dz = tl.where(v == y, dz - 1.0, dz) * g / T
    tl.store(dz_ptr + n * V + v, dz, mask=v < V)


def test_another_solution_passes():
    verdict = run_checks(KERNEL, in_two_parts)
    assert verdict.passed, verdict.message


def test_a_mistake_is_named_however_it_is_written():
    assert run_checks(KERNEL, of_cross_entropy).wrong == "sign turned"


def test_the_readers_gradient_is_the_courses():
    z_NV, y_N, g_N, T = tokens(4, 37, T=0.7)
    found = launch_logprob_backward(logprob_backward_kernel, z_NV, y_N, g_N, T)
    leaf = z_NV.clone().requires_grad_()
    logp_N, _ = selected_logprob(leaf, y_N, T, interpret=True)
    (wanted,) = torch.autograd.grad(logp_N, leaf, g_N)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(logprob_backward(z_NV, y_N, g_N, T), wanted)


def test_a_rows_gradient_adds_up_to_0():
    """What one logit gains the others lose: probabilities add up to 1."""
    given = tokens(4, 37, T=2.0)
    dz_NV = launch_logprob_backward(logprob_backward_kernel, *given)
    assert dz_NV.sum(1).abs().max() < 1e-6
    assert dz_NV.abs().sum(1).min() > 0.1


def test_no_hint_gives_a_line_of_the_solution_away():
    text = " ".join(KERNEL.hints)
    pieces = ("z_ptr", "dz_ptr", "n * V", "v < V", "tl.", "v == y", "z / T - lse")
    assert not any(piece in text for piece in pieces)
