# mypy: allow-untyped-defs
"""Log-probability of each row's chosen token, and the row's entropy, in one read.

    x_v = z_v / T        lse = log sum_v exp(x_v)        p_v = exp(x_v - lse)
    logp = x_y - lse                                     entropy = - sum_v p_v log p_v

for each row, a token of a sequence: z its logits, y the token that was chosen, T the
temperature at which it was sampled. Policy gradients need one number of a row (the
ratios of GRPO, arXiv 2402.03300, Eq. 3); log_softmax writes V. With g the gradient that
arrives at logp and h the one at the entropy,

    dz_v = (g (1[v = y] - p_v) - h p_v (log p_v + entropy)) / T

A row does not fit into a program's registers, so its sums are made *online* (Milakov
and Gimelshein 2018, arXiv 1805.02867, Algorithm 3): block after block, with m the
largest x so far. Where a block raises it to m', what was summed is rescaled:

    s' = s exp(m - m') + sum_v exp(x_v - m')
    u' = (u + s (m - m')) exp(m - m') + sum_v exp(x_v - m') (x_v - m')

At the end lse = m + log s and entropy = log s - u / s. Sums relative to m lose nothing
where all logits are large.

Shapes: N rows (all leading axes together), V entries of the vocabulary. z_NV in
float32, float16 or bfloat16; y_N in int64, or IGNORED (`chosen_tokens.py`); logp_N,
entropy_N and lse_N in float32. e is the bytes per element of z: 4 or 2.

Cost, forward:   e N V + 20 N bytes (read z, y; write logp, entropy, lse)  7 N V FLOPs
      backward:  2 e N V + 24 N bytes (read z, y, lse, entropy, g, h; write dz)
                                                                          10 N V FLOPs

The forward saves lse, 4 bytes a row, so that the backward need not go through a row
twice. In plain PyTorch log_softmax writes e N V bytes more, which the gather and the
backward read again, and the entropy as much again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.chosen_tokens import IGNORED, check_targets, check_temperature
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    accumulator,
    as_rows,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
    row_launch,
)

MAX_BLOCK = 4096
"""Entries of a row that a program holds at once: 16 for each thread of 8 warps."""

BENCHMARK_SHAPES = ((8192, 129280), (8192, 151936))
"""(N, V) that the benchmark times and the compile check covers: the vocabularies of
DeepSeek-V3 and of Qwen2.5."""


def selected_logprob_reference(
    logits: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        logits: (..., V), any floating dtype. Half precisions are computed in float32.
        targets: (...), 0 to V - 1, or IGNORED.
        temperature: above 0.

    Returns:
        logp and entropy, (...): float64 for float64 logits, else float32.
    """
    counts = targets != IGNORED
    x = logits.to(accumulator(logits.dtype)) / temperature
    # 0 for what is in an ignored row, as 0 times NaN would be NaN in its gradient.
    x = x.where(counts[..., None], 0.0)
    log_p = torch.log_softmax(x, -1)
    chosen = log_p.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    # 0 log 0 is 0: a logit of -inf hides an entry.
    p = log_p.exp()
    entropy = -(p * log_p.where(p > 0, 0.0)).sum(-1)
    return chosen.where(counts, 0.0), entropy.where(counts, 0.0)


@jit
def selected_logprob_forward_kernel(
    logits_ptr, target_ptr, logp_ptr, entropy_ptr, lse_ptr, logits_stride, scale, V,
    BLOCK: tl.constexpr,
):  # fmt: skip
    # Program n works on row n alone. In 64 bits, since n * stride passes 2**31.
    n = tl.program_id(0).to(tl.int64)
    target = tl.load(target_ptr + n)
    if target < 0:  # ignored: nothing is read
        tl.store(logp_ptr + n, 0.0)
        tl.store(entropy_ptr + n, 0.0)
        tl.store(lse_ptr + n, 0.0)
        return
    row_ptr = logits_ptr + n * logits_stride
    # m, s and u. m starts below every logit and finite: -inf - -inf would be NaN.
    largest = -3.4e38
    total = 0.0
    moment = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        # -inf beyond the row: no maximum, and exp(-inf) adds 0.
        x = tl.load(row_ptr + v, mask=v < V, other=float("-inf")).to(tl.float32) * scale
        new = tl.maximum(largest, tl.max(x, axis=0))
        e = tl.exp(x - new)
        rescale = tl.exp(largest - new)
        # What has e = 0 adds 0; 0 * -inf would be NaN.
        of_block = tl.sum(e * tl.where(e > 0.0, x - new, 0.0), axis=0)
        moment = (moment + total * (largest - new)) * rescale + of_block
        total = total * rescale + tl.sum(e, axis=0)
        largest = new
    # One more number, from the cache. A target beyond the row is not followed.
    chosen = tl.load(row_ptr + target, mask=target < V, other=float("nan"))
    log_total = tl.log(total)
    tl.store(logp_ptr + n, chosen.to(tl.float32) * scale - largest - log_total)
    tl.store(entropy_ptr + n, log_total - moment / total)
    tl.store(lse_ptr + n, largest + log_total)


@jit
def logprob_gradient(x, lse, entropy, dlogp, dentropy, is_chosen):
    """g (1[v = y] - p_v) - h p_v (log p_v + entropy), for a block of any shape."""
    log_p = x - lse
    p = tl.exp(log_p)
    surprise = tl.where(p > 0.0, log_p + entropy, 0.0)  # 0 * -inf would be NaN
    return dlogp * (tl.where(is_chosen, 1.0, 0.0) - p) - dentropy * p * surprise


@jit
def selected_logprob_backward_kernel(
    logits_ptr, target_ptr, lse_ptr, entropy_ptr, dlogp_ptr, dentropy_ptr, dlogits_ptr,
    logits_stride, scale, V, BLOCK: tl.constexpr,
):  # fmt: skip
    # lse is known, so that blocks of a row need nothing of each other.
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(target_ptr + n)
    # Of an ignored row nothing is read: p and both gradients are 0, and so is dz.
    counts = target >= 0
    lse = tl.load(lse_ptr + n)
    entropy = tl.load(entropy_ptr + n)
    dlogp = tl.load(dlogp_ptr + n, mask=counts, other=0.0)
    dentropy = tl.load(dentropy_ptr + n, mask=counts, other=0.0)
    x_at = logits_ptr + n * logits_stride + v
    x = tl.load(x_at, mask=(v < V) & counts, other=float("-inf")).to(tl.float32) * scale
    dx = logprob_gradient(x, lse, entropy, dlogp, dentropy, v == target)
    tl.store(dlogits_ptr + n * V + v, dx * scale, mask=v < V)


def vocabulary_launch(V: int) -> dict[str, Any]:
    """How a kernel is launched whose programs take a row of V block by block."""
    return row_launch(min(V, MAX_BLOCK))


def launch_selected_logprob(
    logits_NV: Tensor, targets: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """logp, entropy and lse, in the shape of targets, which are contiguous."""
    N, V = logits_NV.shape
    shape, device = targets.shape, targets.device
    logp = torch.empty(shape, dtype=torch.float32, device=device)
    entropy, lse = torch.empty_like(logp), torch.empty_like(logp)
    if N:  # a GPU refuses a grid of no programs
        selected_logprob_forward_kernel[(N,)](
            logits_NV,
            targets,
            logp,
            entropy,
            lse,
            logits_NV.stride(0),
            scale,
            V,
            **vocabulary_launch(V),
        )
    return logp, entropy, lse


def launch_selected_backward(
    logits_NV: Tensor,
    targets: Tensor,
    lse: Tensor,
    entropy: Tensor,
    dlogp: Tensor,
    dentropy: Tensor,
    scale: float,
) -> Tensor:
    """dlogits_NV; what there is one of for each row is contiguous."""
    N, V = logits_NV.shape
    dlogits_NV = torch.empty((N, V), dtype=logits_NV.dtype, device=logits_NV.device)
    launch = vocabulary_launch(V)
    if N:
        selected_logprob_backward_kernel[(N, cdiv(V, launch["BLOCK"]))](
            logits_NV,
            targets,
            lse,
            entropy,
            dlogp,
            dentropy,
            dlogits_NV,
            logits_NV.stride(0),
            scale,
            V,
            **launch,
        )
    return dlogits_NV


class _SelectedLogprob(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        logits_NV, chosen = as_rows(logits), targets.contiguous()
        logp, entropy, lse = launch_selected_logprob(logits_NV, chosen, scale)
        ctx.save_for_backward(logits_NV, chosen, lse, entropy)
        ctx.scale, ctx.shape = scale, logits.shape
        return logp, entropy

    @staticmethod
    def backward(
        ctx: Any, dlogp: Tensor, dentropy: Tensor
    ) -> tuple[Tensor, None, None]:
        refuse_second_derivative("selected_logprob")
        logits_NV, targets, lse, entropy = ctx.saved_tensors
        # What arrives has any strides; these are one number a row.
        gradients = (dlogp.contiguous(), dentropy.contiguous())
        dlogits_NV = launch_selected_backward(
            logits_NV, targets, lse, entropy, *gradients, ctx.scale
        )
        return dlogits_NV.view(ctx.shape), None, None


def selected_logprob(
    logits: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    interpret: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """log p of each chosen token, and the entropy: kernel on a GPU, else reference.

    Args:
        logits: (..., V) with V >= 1; float32, float16 or bfloat16. Copied if rows have
            no one distance, as in logits[:, :-1]: rather ignore the last token.
        targets: (...), int64, on logits' device: 0 to V - 1, or IGNORED (-100) for a
            token that does not count. On a CPU they are checked, on a GPU trusted.
        temperature: above 0: logits are divided by it.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        logp and entropy, (...), float32, both 0 for ignored tokens. Both have a
        gradient with respect to logits; the kernels differentiate once.

    Raises:
        KernelInputError: logits, targets or temperature is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("selected_logprob", logits, "logits")
    if logits.ndim == 0 or logits.shape[-1] < 1:
        raise KernelInputError(
            "selected_logprob: logits must have shape (..., V) with at least one "
            f"entry; got {tuple(logits.shape)}."
        )
    check_targets(
        "selected_logprob", targets, (*logits.shape[:-1],), "(...)", logits.shape[-1],
        logits, "logits",
    )  # fmt: skip
    check_temperature("selected_logprob", temperature)
    if route(logits, interpret) == "reference":
        return selected_logprob_reference(logits, targets, temperature)
    with torch.cuda.device_of(logits):  # Triton launches on the current GPU
        logp, entropy = _SelectedLogprob.apply(logits, targets, 1 / temperature)
    return logp, entropy


def selected_logprob_cost(N: int, V: int, dtype: torch.dtype) -> Cost:
    """The forward: logits and targets read once; logp, entropy and lse written."""
    return Cost(bytes=N * V * dtype.itemsize + 20 * N, flops=7 * N * V)


def selected_logprob_backward_cost(N: int, V: int, dtype: torch.dtype) -> Cost:
    """The backward: logits, and five numbers a row, read once; dlogits written."""
    return Cost(bytes=2 * N * V * dtype.itemsize + 24 * N, flops=10 * N * V)


SPECS = [
    spec
    for BLOCK in sorted({vocabulary_launch(V)["BLOCK"] for _, V in BENCHMARK_SHAPES})
    for dtype in KERNEL_DTYPES
    for spec in (
        launch_spec(
            selected_logprob_forward_kernel, dtype, vocabulary_launch(BLOCK),
            f"block={BLOCK}", logits_ptr="*", target_ptr="*i64", logp_ptr="*fp32",
            entropy_ptr="*fp32", lse_ptr="*fp32", logits_stride="i32", scale="fp32",
            V="i32",
        ),
        launch_spec(
            selected_logprob_backward_kernel, dtype, vocabulary_launch(BLOCK),
            f"block={BLOCK}", logits_ptr="*", target_ptr="*i64", lse_ptr="*fp32",
            entropy_ptr="*fp32", dlogp_ptr="*fp32", dentropy_ptr="*fp32",
            dlogits_ptr="*", logits_stride="i32", scale="fp32", V="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `selected_logprob` launches at BENCHMARK_SHAPES."""
