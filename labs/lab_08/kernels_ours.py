"""Our solution of lab 08's kernel exercise, and what it computes.

Shape suffixes: N tokens, V entries of the vocabulary.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

import torch
from torch import Tensor

from kernels.language import jit, tl
from labsupport.exercise.kernel import launch_watched, where_kernels_run

BLOCK = 16
"""Entries of a row that a program holds at once, a power of two."""


@jit
def one_pass_kl_kernel(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t = float("-inf"), 0.0
    top_s, sum_s = float("-inf"), 0.0
    apart = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        e_s = tl.exp(s - new_s)
        sum_s = sum_s * tl.exp(top_s - new_s) + tl.sum(e_s, axis=0)
        top_s = new_s
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e = tl.exp(t - new_t)
        shrink = tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
    lse_t, lse_s = top_t + tl.log(sum_t), top_s + tl.log(sum_s)
    tl.store(kl_ptr + n, apart / sum_t - lse_t + lse_s)


def launch_one_pass_kl(kernel, t_NV: Tensor, s_NV: Tensor) -> Tensor:
    """Run a kernel of these arguments: kl_N.

    Args:
        kernel: KL(softmax(t) || softmax(s)) of each row.
        t_NV: the teacher's scores, float32.
        s_NV: the student's.
    """
    t, s = where_kernels_run(
        t_NV.float().contiguous(), s_NV.float().contiguous()
    )
    N, V = t.shape
    kl_N = t.new_full((N,), torch.nan)
    launch_watched(kernel, (N,), t, s, kl_N, V, BLOCK=BLOCK)
    return kl_N.to(t_NV.device)


def one_pass_kl(t_NV: Tensor, s_NV: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    log_p_NV = t_NV.float().log_softmax(-1)
    log_q_NV = s_NV.float().log_softmax(-1)
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
