# mypy: allow-untyped-defs
"""Sinkhorn-Knopp: a matrix of logits becomes doubly stochastic.

    M_0 = exp(logits)        M_t = T_r(T_c(M_{t-1}))        out = M_T

T_c divides each column by its sum, then T_r each row (mHC, arXiv:2512.24880v2,
equation 9, with T = 20; Sinkhorn and Knopp 1967). out_ij is what output stream
i takes of input stream j: rows are divided last and sum to 1 whatever T is, so
that the forward gain is 1; columns come as near to 1 as T iterations bring them.

With P what one division by sums gives, and G = P dP, the gradient by log P, the
gradient by the log of what was divided is

    G - P sum(G)            the sum over the axis of the division

as in softmax. From G = out dout back through all 2 T divisions this is dlogits:
exactly the gradient of the T iterations, not of the limit that they approach.

exp must not overflow, and no sum may vanish. T_c undoes any factor of a column,
so each column's maximum is subtracted before exp. (A factor of a row would change
the sums of columns, and out.) That still lets a whole row underflow; so once the
first sums of columns are known, each row's maximum is subtracted too, a factor
that T_r undoes. From then on a row sums to 1, so that one of its n numbers is at
least 1/n, and by the same argument every sum lies between 1/n^2 and n. There is
nothing for an eps in the denominators to mend, and there is none, as in the paper;
DeepSeek's code has one of 1e-6, with which rows no longer sum to 1.

Shapes: logits_nnM holds M tokens of n x n, tokens last, so that neighbours in
memory belong to different matrices; out, dout and dlogits have its shape.
float32, as the paper has all coefficients: 4 bytes.

Cost, forward:   8 n^2 M bytes (read logits, write out)       (4 T + 1) n^2 M FLOPs
      backward: 12 n^2 M bytes (read logits, dout; write dlogits)
                                                             (12 T + 2) n^2 M FLOPs

For n = 4 that is 128 and 192 bytes a token, and in between 40 divisions, each
waiting for the one before. One lane of a warp holds one token's matrix in
registers, so that no sum leaves the lane, and 32 tokens advance at once.

The backward needs every M_t. Kept in memory, the 2 n sums of each iteration
would be written and read again: 16 T n bytes, 1280 instead of 192. Iterating
anew from the start for every M_t would take T^2 / 2 iterations. Here the sums
stay in the lane's registers, TAPE numbers of them, and M_{t-1} is M_t times its
sums. At n = 4 that reaches back over 20 iterations and the first. Where T is
larger, the way back is cut into pieces, and each piece's start is computed anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.language import cdiv, jit, next_power_of_2, tl
from kernels.operation import (
    Cost,
    KernelInputError,
    KernelSpec,
    accumulator,
    dtype_name,
    refuse_second_derivative,
    route,
)
from kernels.sinkhorn_cpu import sinkhorn_on_cpu, tiles

MAX_N = 8
"""The largest matrix: 4 lanes hold one of 8 x 8 without spilling."""

TAPE = 160
"""Sums a token that the backward keeps in registers, of which a lane has 255."""

ITERATIONS = 20
"""T in the paper (table 5) and in DeepSeek's models."""

BENCHMARK_SHAPES = ((4, 4096), (4, 8192), (4, 16384), (4, 32768), (8, 8192))
"""(n, M) that the benchmark times and the compile check covers."""


def sinkhorn_reference(logits: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Equation 9 in plain PyTorch, differentiable, on any device: the oracle.

    Args:
        logits: (n, n, M), any floating dtype. Half precisions are computed in
            float32. Logits of one matrix that differ by more than 87 (745 in
            float64) can underflow to a row of zeros, which gives NaN.
        iterations: T, at least 1.

    Returns:
        out, with logits' shape and dtype.
    """
    logits_nnM = logits.to(accumulator(logits.dtype))
    # out does not depend on this shift, so no gradient flows through it.
    shift_1nM = logits_nnM.detach().amax(0, keepdim=True)
    P_nnM = (logits_nnM - shift_1nM).exp()
    for _ in range(iterations):
        P_nnM = P_nnM / P_nnM.sum(0, keepdim=True)
        P_nnM = P_nnM / P_nnM.sum(1, keepdim=True)
    return P_nnM.to(logits.dtype)


# What follows works on blocks of (N, N, BLOCK): axis 0 is i, axis 1 is j, and
# each of the BLOCK tokens belongs to one lane, which sums over i and j alone.


@jit
def _softmax_over_i(logits):
    e = tl.exp(logits - tl.max(logits, axis=0)[None, :, :])
    return e * (1.0 / tl.sum(e, axis=0))[None, :, :]


@jit
def _first_iteration(logits):
    logits -= tl.max(logits, axis=0)[None, :, :]
    columns = tl.sum(tl.exp(logits), axis=0)
    # The same again, with a factor for each row: no row can underflow.
    P = tl.exp(logits - tl.max(logits, axis=1)[:, None, :])
    P *= (1.0 / columns)[None, :, :]
    return P * (1.0 / tl.sum(P, axis=1))[:, None, :]


@jit
def _iterate(P, steps):
    for _ in range(steps):
        # One reciprocal and n products cost less than n quotients.
        P *= (1.0 / tl.sum(P, axis=0))[None, :, :]
        P *= (1.0 / tl.sum(P, axis=1))[:, None, :]
    return P


@jit
def _iterate_on_tape(P, STEPS: tl.constexpr):
    # A loop that is unrolled can name its sums, so that they stay in registers.
    tape = ()
    for _ in tl.static_range(STEPS):
        columns = tl.sum(P, axis=0)
        P *= (1.0 / columns)[None, :, :]
        rows = tl.sum(P, axis=1)
        P *= (1.0 / rows)[:, None, :]
        tape += (columns, rows)  # type: ignore[assignment]
    return P, tape


@jit
def _back_along_tape(P, G, tape, STEPS: tl.constexpr):
    for t in tl.static_range(STEPS - 1, -1, -1):
        G -= P * tl.sum(G, axis=1)[:, None, :]
        P *= tape[2 * t + 1][:, None, :]  # before the rows were divided
        G -= P * tl.sum(G, axis=0)[None, :, :]
        P *= tape[2 * t][None, :, :]  # before the columns were
    return G


@jit
def _back_through(P, G, STEPS: tl.constexpr):
    P, tape = _iterate_on_tape(P, STEPS)
    return _back_along_tape(P, G, tape, STEPS)


# Not specialised, strides count as unknown. With i's and j's known Triton would
# give a lane 4 neighbouring tokens to load at once, share each matrix among 4
# lanes, and exchange sums between them.


@jit(do_not_specialize=["i_stride", "j_stride", "out_i_stride", "out_j_stride"])
def sinkhorn_forward_kernel(
    logits_ptr, out_ptr, i_stride, j_stride, out_i_stride, out_j_stride,
    n, M, iterations, m_stride: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    # Program p works on tokens p * BLOCK and up. In 64 bits, as i and j below:
    # an index times its stride may pass 2**31.
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None].to(tl.int64)
    j = tl.arange(0, N)[None, :, None].to(tl.int64)
    # A block's sides are powers of two. Around a smaller matrix, and in place of
    # tokens beyond the last, stands the identity (its log), which stays what it is
    # and adds nothing to the matrix.
    inside = (i < n) & (j < n) & (m < M)
    identity = tl.where(i == j, 0.0, float("-inf"))
    at = i * i_stride + j * j_stride + m * m_stride
    logits = tl.load(logits_ptr + at, mask=inside, other=identity)
    P = _iterate(_first_iteration(logits), iterations - 1)
    tl.store(out_ptr + i * out_i_stride + j * out_j_stride + m, P, mask=inside)


@jit(
    do_not_specialize=[
        "i_stride", "j_stride", "dout_i_stride", "dout_j_stride",
        "out_i_stride", "out_j_stride",
    ]
)  # fmt: skip
def sinkhorn_backward_kernel(
    logits_ptr, dout_ptr, dlogits_ptr, i_stride, j_stride, dout_i_stride,
    dout_j_stride, out_i_stride, out_j_stride, n, M, m_stride: tl.constexpr,
    dout_m_stride: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
    EARLIER: tl.constexpr, LAST: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None].to(tl.int64)
    j = tl.arange(0, N)[None, :, None].to(tl.int64)
    inside = (i < n) & (j < n) & (m < M)
    identity = tl.where(i == j, 0.0, float("-inf"))
    at = i * i_stride + j * j_stride + m * m_stride
    logits = tl.load(logits_ptr + at, mask=inside, other=identity)
    at = i * dout_i_stride + j * dout_j_stride + m * dout_m_stride
    dout = tl.load(dout_ptr + at, mask=inside, other=0.0)
    first = _first_iteration(logits)
    # After the first come EARLIER iterations, in pieces of STEPS, and LAST more.
    P, tape = _iterate_on_tape(_iterate(first, EARLIER), LAST)
    G = _back_along_tape(P, P * dout, tape, LAST)
    for start in range(EARLIER - STEPS, -1, -STEPS):
        G = _back_through(_iterate(first, start), G, STEPS)
    # The first iteration: its rows, then its columns.
    G -= first * tl.sum(G, axis=1)[:, None, :]
    G -= _softmax_over_i(logits) * tl.sum(G, axis=0)[None, :, :]
    tl.store(dlogits_ptr + i * out_i_stride + j * out_j_stride + m, G, mask=inside)


def block_launch(n: int) -> dict[str, Any]:
    """How a kernel is launched whose programs hold BLOCK matrices of n x n.

    One warp, a token for each of its 32 lanes; 8 tokens where n is above 4, as
    a lane holds 16 numbers of a matrix.
    """
    N = next_power_of_2(n)
    return {"N": N, "BLOCK": min(32, 512 // N**2), "num_warps": 1, "num_stages": 1}


def tape_launch(n: int, iterations: int) -> dict[str, int]:
    """How the backward cuts the iterations after the first into pieces.

    Each iteration puts 2 N sums on the tape. All pieces have STEPS iterations,
    only the last has LAST; EARLIER is how many come before it.
    """
    after_first = iterations - 1
    most = TAPE // (2 * next_power_of_2(n))
    EARLIER = max(after_first - 1, 0) // most * most
    return {"EARLIER": EARLIER, "LAST": after_first - EARLIER, "STEPS": most}


class _Sinkhorn(torch.autograd.Function):
    """Ties the two kernels together for autograd."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, iterations: int) -> Tensor:
        n, _, M = logits.shape
        out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        launch = block_launch(n)
        if M:  # a GPU refuses a grid of no programs
            sinkhorn_forward_kernel[(cdiv(M, launch["BLOCK"]),)](
                logits,
                out,
                logits.stride(0),
                logits.stride(1),
                out.stride(0),
                out.stride(1),
                n,
                M,
                iterations,
                m_stride=logits.stride(2),
                **launch,
            )
        # The backward computes all iterates again: logits are all that it needs.
        ctx.save_for_backward(logits)
        ctx.iterations = iterations
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("sinkhorn")
        (logits,) = ctx.saved_tensors
        n, _, M = logits.shape
        dlogits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        launch = block_launch(n)
        if M:
            sinkhorn_backward_kernel[(cdiv(M, launch["BLOCK"]),)](
                logits,
                dout,
                dlogits,
                logits.stride(0),
                logits.stride(1),
                dout.stride(0),
                dout.stride(1),
                dlogits.stride(0),
                dlogits.stride(1),
                n,
                M,
                m_stride=logits.stride(2),
                dout_m_stride=dout.stride(2),
                **launch,
                **tape_launch(n, ctx.iterations),
            )
        return dlogits, None


def sinkhorn(
    logits: Tensor,
    iterations: int = ITERATIONS,
    interpret: bool | None = None,
    check_finite: bool | None = None,
) -> Tensor:
    """Equation 9 for M matrices: the kernel on a GPU, plain PyTorch on a CPU.

    Both take all finite logits, however far apart.

    Args:
        logits: (n, n, M) with 1 <= n <= MAX_N; float32, any strides, though
            tokens side by side are read fastest. On a CPU float64 too.
        iterations: T, at least 1.
        interpret: True runs the kernels interpreted on a CPU (slow).
        check_finite: whether to refuse NaN and infinity. Left out: on a CPU yes,
            on a GPU no, as waiting for the answer takes longer than the kernel.
            Not refused, they make NaN of their own matrix only.

    Returns:
        out, with logits' shape and dtype. It differentiates once.

    Raises:
        KernelInputError: logits or iterations are not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    _check_logits(logits)
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise KernelInputError(
            f"sinkhorn: iterations must be a whole number; got {iterations!r}."
        )
    if iterations < 1:
        raise KernelInputError(
            f"sinkhorn: iterations must be at least 1; got {iterations}."
        )
    to_kernel = route(logits, interpret) == "kernel"
    _check_dtype(logits, to_kernel)
    if check_finite is None:
        check_finite = not logits.is_cuda
    if check_finite and not all(tile.isfinite().all() for tile in tiles(logits)):
        raise KernelInputError(
            f"sinkhorn: logits must be finite; {int((~logits.isfinite()).sum())} of "
            f"{logits.numel()} are NaN or infinite."
        )
    if not to_kernel:
        return sinkhorn_on_cpu(logits, iterations)
    with torch.cuda.device_of(logits):  # Triton launches on the current GPU
        out: Tensor = _Sinkhorn.apply(logits, iterations)
    return out


def _check_logits(logits: Tensor) -> None:
    if not isinstance(logits, Tensor):
        raise KernelInputError(
            f"sinkhorn: logits must be a torch.Tensor; got {type(logits).__name__}."
        )
    if logits.device.type not in ("cpu", "cuda"):
        raise KernelInputError(
            f"sinkhorn: logits must be on a CPU or a CUDA GPU; got device "
            f"{logits.device}."
        )
    if logits.ndim != 3 or logits.shape[0] != logits.shape[1]:
        raise KernelInputError(
            "sinkhorn: logits must have shape (n, n, M): square matrices, the M tokens "
            f"last; got {tuple(logits.shape)}."
        )
    if not 1 <= logits.shape[0] <= MAX_N:
        raise KernelInputError(
            f"sinkhorn: n must be 1 to {MAX_N}, as a few lanes hold a whole matrix; "
            f"got shape {tuple(logits.shape)}."
        )


def _check_dtype(logits: Tensor, to_kernel: bool) -> None:
    allowed = [torch.float32] if to_kernel else [torch.float32, torch.float64]
    if logits.dtype not in allowed:
        raise KernelInputError(
            "sinkhorn: logits must be float32, in which mHC keeps its coefficients; "
            f"got {dtype_name(logits)} (float64 works on a CPU, not interpreted)."
        )


def sinkhorn_cost(
    n: int, M: int, dtype: torch.dtype, iterations: int = ITERATIONS
) -> Cost:
    """The forward: logits read once, out written once."""
    return Cost(
        bytes=2 * n * n * M * dtype.itemsize, flops=(4 * iterations + 1) * n * n * M
    )


def sinkhorn_backward_cost(
    n: int, M: int, dtype: torch.dtype, iterations: int = ITERATIONS
) -> Cost:
    """The backward: logits and dout read once, dlogits written once.

    Its FLOPs include the iterates, which are nowhere to be read: the forward
    again, and going back one product for each number that was divided.
    """
    return Cost(
        bytes=3 * n * n * M * dtype.itemsize, flops=(12 * iterations + 2) * n * n * M
    )


def _spec(
    kernel: Any, n: int, constexprs: dict[str, Any], /, **types: str
) -> KernelSpec:
    options = block_launch(n)
    return KernelSpec(
        name=kernel.__name__,
        kernel=kernel,
        signature=types,
        constexprs={**constexprs, "N": options.pop("N"), "BLOCK": options.pop("BLOCK")},
        **options,
        label=f"{kernel.__name__} fp32 n={n}",
    )


SPECS = [
    spec
    for n in dict.fromkeys(n for n, _ in BENCHMARK_SHAPES)
    for spec in (
        _spec(
            sinkhorn_forward_kernel, n, {"m_stride": 1},
            logits_ptr="*fp32", out_ptr="*fp32", i_stride="i32", j_stride="i32",
            out_i_stride="i32", out_j_stride="i32", n="i32", M="i32",
            iterations="i32",
        ),
        _spec(
            sinkhorn_backward_kernel, n,
            {"m_stride": 1, "dout_m_stride": 1, **tape_launch(n, ITERATIONS)},
            logits_ptr="*fp32", dout_ptr="*fp32", dlogits_ptr="*fp32",
            i_stride="i32", j_stride="i32", dout_i_stride="i32",
            dout_j_stride="i32", out_i_stride="i32", out_j_stride="i32", n="i32",
            M="i32",
        ),
    )
]  # fmt: skip
"""Every configuration that `sinkhorn` launches at BENCHMARK_SHAPES."""
