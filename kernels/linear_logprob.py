# mypy: allow-untyped-defs
"""The output layer and the log-probability of chosen tokens, without the logits.

    x_nv = h_n . w_v / T      lse_n = log sum_v exp(x_nv)      p_nv = exp(x_nv - lse_n)
    logp_n = x_ny - lse_n                         entropy_n = - sum_v p_nv log p_nv

which is `selected_logprob.py` of the logits h w^T. With 152 000 entries of the
vocabulary they are by far the largest tensor of a training step: 2.5 GB for 8192 tokens
in bfloat16, and their gradient as much again. Here a tile of logits is made, used and
forgotten (Cut Cross-Entropy, arXiv 2411.09009, Algorithms 1 to 3). With a_nv the
gradient of x_nv as it stands in `selected_logprob.py`,

    dh_n = sum_v a_nv w_v / T              dw_v = sum_n a_nv h_n / T

Shapes: N rows (all leading axes together), V entries of the vocabulary, D model width,
S spans of SPAN entries. h_ND and w_VD in one of float32, float16, bfloat16; y_N in
int64, or IGNORED (`chosen_tokens.py`); logp_N, entropy_N and lse_N in float32. e is the
bytes per element of h: 4 or 2.

Cost, forward:   e (N D + V D) + 20 N bytes (read h, w, y; write logp, entropy, lse)
                                                                 N V (2 D + 7) FLOPs
      backward:  e (2 N D + 2 V D) + 24 N bytes
                 (read h, w, y, lse, entropy and what arrives; write dh, dw)
                                                                 N V (6 D + 10) FLOPs

8 N V D FLOPs in all, where stored logits take 6: the backward makes them once more.
At thousands of FLOPs a byte only arithmetic counts. What they buy is memory.

The forward gives each span of the vocabulary to programs of its own, so that few rows
keep a GPU busy too. Inside a span the sums are made online; S partial results a row are
put together at the end. With share_s = exp(lse_s - lse) of the probability in span s,

    lse = log sum_s exp(lse_s)      entropy = sum_s share_s (entropy_s - log share_s)

The backward goes span by span: a kernel makes the gradient of N x SPAN logits, and two
matrix products, PyTorch's own, add it to dh and make the span's rows of dw. Each number
of dw is written once and dh grows in a fixed order; to add tiles to both at once would
take atomic additions, and give other bits every time. In half precision a is rounded
once, as the products' operand; dh is added up in float32 from rounded products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kernels.chosen_tokens import check_targets, check_temperature
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    accumulator,
    as_rows,
    check_beside,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
    side_by_side,
)
from kernels.selected_logprob import logprob_gradient, selected_logprob_reference

SPAN = 4096
"""Entries of the vocabulary whose logits' gradient is in memory at once."""

BENCHMARK_SHAPES = ((8192, 151936, 2048),)
"""(N, V, D) that the benchmark times and the compile check covers: Qwen2.5-3B."""


def linear_logprob_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        hidden: (..., D), any floating dtype. Half precisions are computed in float32.
        weight: (V, D).
        targets: (...), 0 to V - 1, or IGNORED.
        temperature: above 0.

    Returns:
        logp and entropy, (...): float64 for a float64 hidden, else float32.
    """
    wide = accumulator(hidden.dtype)
    logits = hidden.to(wide) @ weight.to(wide).T
    return selected_logprob_reference(logits, targets, temperature)


@jit
def tile_of_logits(
    hidden_ptr, weight_ptr, n, v, in_n, in_v, hidden_stride, weight_stride, D,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """h_n . w_v for a block of rows and one of the vocabulary, in float32."""
    z = tl.zeros((BLOCK_N, BLOCK_V), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        in_d = d < D
        # 0 beyond D adds nothing.
        hidden_at = hidden_ptr + n[:, None] * hidden_stride + d[None, :]
        hidden = tl.load(hidden_at, mask=in_n[:, None] & in_d[None, :], other=0.0)
        weight_at = weight_ptr + v[None, :] * weight_stride + d[:, None]
        weight = tl.load(weight_at, mask=in_d[:, None] & in_v[None, :], other=0.0)
        # "ieee": float32 in float32, not TF32. Halves are exact either way.
        z = tl.dot(hidden, weight, z, input_precision="ieee")
    return z


@jit
def linear_logprob_forward_kernel(
    hidden_ptr, weight_ptr, target_ptr, chosen_ptr, entropy_ptr, lse_ptr,
    hidden_stride, weight_stride, scale, N, V, D, SPAN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # One program: a block of rows and a span of the vocabulary. 64 bits, as n * stride
    # and v * stride pass 2**31.
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < N
    target = tl.load(target_ptr + n, mask=in_n, other=-1)
    span = tl.program_id(1).to(tl.int64)
    # m, s and u of each row, as in selected_logprob_forward_kernel; its chosen x.
    largest = tl.full((BLOCK_N,), -3.4e38, dtype=tl.float32)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    moment = tl.zeros((BLOCK_N,), dtype=tl.float32)
    chosen = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(span * SPAN, tl.minimum((span + 1) * SPAN, V), BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        z = tile_of_logits(
            hidden_ptr, weight_ptr, n, v, in_n, v < V, hidden_stride, weight_stride, D,
            BLOCK_N, BLOCK_V, BLOCK_D,
        )  # fmt: skip
        # -inf beyond the vocabulary: no maximum, and exp(-inf) adds 0.
        x = tl.where((v < V)[None, :], z * scale, float("-inf"))
        # A row's target is in one span: elsewhere 0 is added up.
        chosen += tl.sum(tl.where(v[None, :] == target[:, None], x, 0.0), axis=1)
        new = tl.maximum(largest, tl.max(x, axis=1))
        shifted = x - new[:, None]
        e = tl.exp(shifted)
        rescale = tl.exp(largest - new)
        of_block = tl.sum(e * tl.where(e > 0.0, shifted, 0.0), axis=1)
        moment = (moment + total * (largest - new)) * rescale + of_block
        total = total * rescale + tl.sum(e, axis=1)
        largest = new
    log_total = tl.log(total)
    at = span * N + n
    tl.store(chosen_ptr + at, chosen, mask=in_n)
    tl.store(entropy_ptr + at, log_total - moment / total, mask=in_n)
    tl.store(lse_ptr + at, largest + log_total, mask=in_n)


@jit
def linear_logprob_backward_kernel(
    hidden_ptr, weight_ptr, target_ptr, lse_ptr, entropy_ptr, dlogp_ptr, dentropy_ptr,
    dlogits_ptr, hidden_stride, weight_stride, scale, first, N, V, D,
    SPAN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)  # within the span
    v = first + column.to(tl.int64)
    in_n, in_v = n < N, v < V
    z = tile_of_logits(
        hidden_ptr, weight_ptr, n, v, in_n, in_v, hidden_stride, weight_stride, D,
        BLOCK_N, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    target = tl.load(target_ptr + n, mask=in_n, other=-1)
    lse = tl.load(lse_ptr + n, mask=in_n, other=0.0)
    entropy = tl.load(entropy_ptr + n, mask=in_n, other=0.0)
    dlogp = tl.load(dlogp_ptr + n, mask=in_n, other=0.0)
    dentropy = tl.load(dentropy_ptr + n, mask=in_n, other=0.0)
    dx = logprob_gradient(
        z * scale, lse[:, None], entropy[:, None], dlogp[:, None], dentropy[:, None],
        v[None, :] == target[:, None],
    )  # fmt: skip
    dx = tl.where((target >= 0)[:, None], dx, 0.0)  # an ignored row has none
    at = dlogits_ptr + n[:, None] * SPAN + column[None, :]
    tl.store(at, dx * scale, mask=in_n[:, None] & in_v[None, :])


def tile_launch(dtype: torch.dtype) -> dict[str, Any]:
    """Blocks of the products: 128 rows by 128 entries on tensor cores.

    float32 is multiplied without tensor cores, from registers, and gets smaller blocks.
    BLOCK_D is such that nothing spills on any target.
    """
    if dtype == torch.float32:
        blocks = {"BLOCK_N": 64, "BLOCK_V": 64, "BLOCK_D": 16}
        return {"SPAN": SPAN, **blocks, "num_warps": 4, "num_stages": 3}
    blocks = {"BLOCK_N": 128, "BLOCK_V": 128, "BLOCK_D": 32}
    return {"SPAN": SPAN, **blocks, "num_warps": 8, "num_stages": 4}


def launch_forward(
    hidden_ND: Tensor, weight_VD: Tensor, targets: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """logp, entropy and lse, in the shape of targets, which are contiguous."""
    (N, D), V = hidden_ND.shape, len(weight_VD)
    launch, S = tile_launch(hidden_ND.dtype), cdiv(V, SPAN)
    # (S, N), with the N rows in the shape of targets.
    parts, device = (S, *targets.shape), hidden_ND.device
    chosen_SN = torch.empty(parts, dtype=torch.float32, device=device)
    entropy_SN, lse_SN = torch.empty_like(chosen_SN), torch.empty_like(chosen_SN)
    if N:  # a GPU refuses a grid of no programs
        linear_logprob_forward_kernel[(cdiv(N, launch["BLOCK_N"]), S)](
            hidden_ND,
            weight_VD,
            targets,
            chosen_SN,
            entropy_SN,
            lse_SN,
            hidden_ND.stride(0),
            weight_VD.stride(0),
            scale,
            N,
            V,
            D,
            **launch,
        )
    lse = lse_SN.logsumexp(0)
    log_share_SN = lse_SN - lse
    entropy = (log_share_SN.exp() * (entropy_SN - log_share_SN)).sum(0)
    logp, counts = chosen_SN.sum(0) - lse, targets >= 0
    logp = logp.where(targets < V, torch.nan)  # no span has it
    return logp.where(counts, 0.0), entropy.where(counts, 0.0), lse


Grid = tuple[int, int]


def launch_backward(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets: Tensor,
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    scale: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """dhidden_ND and dweight_VD, as far as they are wanted.

    Args:
        rows: lse, entropy, dlogp and dentropy, contiguous, one number for each row.
    """
    (N, D), V = hidden_ND.shape, len(weight_VD)
    launch = tile_launch(hidden_ND.dtype)

    def gradient_of_logits(grid: Grid, dlogits: Tensor, first: int) -> None:
        linear_logprob_backward_kernel[grid](
            hidden_ND,
            weight_VD,
            targets,
            *rows,
            dlogits,
            hidden_ND.stride(0),
            weight_VD.stride(0),
            scale,
            first,
            N,
            V,
            D,
            **launch,
        )

    return gradients_by_span(hidden_ND, weight_VD, launch, gradient_of_logits, wanted)


def gradients_by_span(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    launch: Mapping[str, Any],
    gradient_of_logits: Callable[[Grid, Tensor, int], None],
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """dhidden_ND and dweight_VD, as far as they are wanted, a span at a time.

    Args:
        hidden_ND, weight_VD: of the layer whose logits have the gradient.
        launch: the kernel's blocks and SPAN.
        gradient_of_logits: launches a kernel over a grid. It fills N x SPAN numbers,
            the gradient of the logits from an entry on, up to the vocabulary's end.
        wanted: whether each of both is.
    """
    (N, D), V, size = hidden_ND.shape, len(weight_VD), launch["SPAN"]
    buffer = hidden_ND.new_empty((N, size))
    dhidden_ND = torch.zeros((N, D), dtype=torch.float32, device=hidden_ND.device)
    dweight_VD = weight_VD.new_empty((V, D))
    for first in range(0, V, size):
        span = slice(first, min(first + size, V))
        entries = span.stop - first
        if N:  # a GPU refuses a grid of no programs
            grid = (cdiv(N, launch["BLOCK_N"]), cdiv(entries, launch["BLOCK_V"]))
            gradient_of_logits(grid, buffer, first)
        dlogits = buffer[:, :entries]
        if wanted[0]:
            dhidden_ND += dlogits @ weight_VD[span]
        if wanted[1]:
            torch.mm(dlogits.T, hidden_ND, out=dweight_VD[span])
    return (
        dhidden_ND.to(hidden_ND.dtype) if wanted[0] else None,
        dweight_VD if wanted[1] else None,
    )


class _LinearLogprob(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        hidden_ND, weight_VD = as_rows(hidden), side_by_side(weight)
        chosen = targets.contiguous()
        logp, entropy, lse = launch_forward(hidden_ND, weight_VD, chosen, scale)
        ctx.save_for_backward(hidden_ND, weight_VD, chosen, lse, entropy)
        ctx.scale, ctx.shape = scale, hidden.shape
        return logp, entropy

    @staticmethod
    def backward(
        ctx: Any, dlogp: Tensor, dentropy: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        refuse_second_derivative("linear_logprob")
        hidden_ND, weight_VD, targets, lse, entropy = ctx.saved_tensors
        rows = (lse, entropy, dlogp.contiguous(), dentropy.contiguous())
        wanted = ctx.needs_input_grad[:2]
        dhidden_ND, dweight_VD = launch_backward(
            hidden_ND, weight_VD, targets, rows, ctx.scale, wanted
        )
        dhidden = None if dhidden_ND is None else dhidden_ND.view(ctx.shape)
        return dhidden, dweight_VD, None, None


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    interpret: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """log p of chosen tokens, and entropies, from hidden states and the output matrix.

    Args:
        hidden: (..., D) with D >= 1; float32, float16 or bfloat16. Rows whose numbers
            do not lie side by side are copied.
        weight: (V, D) with V >= 1, hidden's dtype and device, rows likewise.
        targets: (...), int64, on hidden's device: 0 to V - 1, or IGNORED (-100) for a
            token that does not count. On a CPU they are checked, on a GPU trusted.
        temperature: above 0: logits are divided by it.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        logp and entropy, (...), float32, both 0 for ignored tokens. Both have a
        gradient with respect to hidden and weight; the kernels differentiate once.

    Raises:
        KernelInputError: hidden, weight, targets or temperature is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("linear_logprob", hidden, "hidden")
    if hidden.ndim == 0 or hidden.shape[-1] < 1:
        raise KernelInputError(
            "linear_logprob: hidden must have shape (..., D) with at least one number "
            f"a row; got {tuple(hidden.shape)}."
        )
    check_kernel_tensor("linear_logprob", weight, "weight")
    if weight.ndim != 2 or len(weight) < 1:
        raise KernelInputError(
            "linear_logprob: weight must have shape (V, D) with at least one entry; "
            f"got {tuple(weight.shape)}."
        )
    V, leading = len(weight), (*hidden.shape[:-1],)
    check_beside(
        "linear_logprob", hidden, "weight", weight, (V, hidden.shape[-1]), "(V, D)",
        hidden.dtype, "hidden",
    )  # fmt: skip
    check_targets("linear_logprob", targets, leading, "(...)", V, hidden, "hidden")
    check_temperature("linear_logprob", temperature)
    if route(hidden, interpret) == "reference":
        return linear_logprob_reference(hidden, weight, targets, temperature)
    with torch.cuda.device_of(hidden):  # Triton launches on the current GPU
        logp, entropy = _LinearLogprob.apply(hidden, weight, targets, 1 / temperature)
    return logp, entropy


def linear_logprob_cost(N: int, V: int, D: int, dtype: torch.dtype) -> Cost:
    """The forward: hidden, weight, targets read once; logp, entropy, lse written."""
    moved = (N * D + V * D) * dtype.itemsize + 20 * N
    return Cost(bytes=moved, flops=N * V * (2 * D + 7))


def linear_logprob_backward_cost(N: int, V: int, D: int, dtype: torch.dtype) -> Cost:
    """The backward: inputs read once, both gradients written, the logits made again."""
    moved = 2 * (N * D + V * D) * dtype.itemsize + 24 * N
    return Cost(bytes=moved, flops=N * V * (6 * D + 10))


SPECS = [
    spec
    for dtype in KERNEL_DTYPES
    for spec in (
        launch_spec(
            linear_logprob_forward_kernel, dtype, tile_launch(dtype), f"span={SPAN}",
            hidden_ptr="*", weight_ptr="*", target_ptr="*i64", chosen_ptr="*fp32",
            entropy_ptr="*fp32", lse_ptr="*fp32", hidden_stride="i32",
            weight_stride="i32", scale="fp32", N="i32", V="i32", D="i32",
        ),
        launch_spec(
            linear_logprob_backward_kernel, dtype, tile_launch(dtype), f"span={SPAN}",
            hidden_ptr="*", weight_ptr="*", target_ptr="*i64", lse_ptr="*fp32",
            entropy_ptr="*fp32", dlogp_ptr="*fp32", dentropy_ptr="*fp32",
            dlogits_ptr="*", hidden_stride="i32", weight_stride="i32", scale="fp32",
            first="i32", N="i32", V="i32", D="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `linear_logprob` launches at BENCHMARK_SHAPES."""
