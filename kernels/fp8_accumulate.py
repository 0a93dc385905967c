# mypy: allow-untyped-defs
"""Where an FP8 product adds up its terms: three variants, to be compared on a GPU.

    c_mn = sum_k a_mk b_nk

Hopper's tensor cores add FP8 products with about 14 bits (DeepSeek-V3, arXiv
2412.19437, section 3.3.2). How far c is off depends on when such a sum is promoted,
that is, added to a float32 register by the CUDA cores:

    "never"        acc = tl.dot(a, b, acc): Triton's default, which on sm_90 is
                   max_num_imprecise_acc = 2^30 terms
    "tensor core"  acc = tl.dot(a, b, acc, max_num_imprecise_acc=128): asked of the
                   tensor core's instruction, and carried out by the compiler
    "cuda cores"   acc += tl.dot(a, b): asked of the CUDA cores, after each tile of
                   128, as `fp8_gemm.py` does, where scales need it anyway

No tensor core promotes by itself. On sm_90 the compiler writes the second as the
third: a sum of 128 terms that starts at 0, and float32 additions. So these two should
give the same, and the first something else.

Only a GPU shows a difference, and only sm_90 has this default: the interpreter adds
in float32, so there the three agree to its rounding. Nothing is scaled, so that
nothing but the sum is off.

Shapes: a_MK and b_NK are float8_e4m3fn or float8_e5m2, each its own; c_MN is float32.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kernels.float8 import E4M3
from kernels.fp8_gemm import check_operands
from kernels.fp8_operands import check_gpu_has_fp8
from kernels.fp8_scaling import TILE
from kernels.language import cdiv, jit, tl
from kernels.operation import KernelInputError, launch_spec, route, side_by_side

Promote = Literal["never", "tensor core", "cuda cores"]
"""When a sum leaves the tensor core, as above."""


def accumulate_reference(a: Tensor, b: Tensor) -> Tensor:
    """The exact product, rounded once.

    float64 holds it for E4M3 up to K = 2^17, as products are multiples of 2^-18 below
    2^18. For E5M2 it may be off by roundings of 2^-53.

    Args:
        a: (M, K), codes.
        b: (N, K), codes.

    Returns:
        c, (M, N), float32.
    """
    return (a.double() @ b.double().T).float()


@jit
def fp8_accumulate_kernel(
    a_ptr, b_ptr, c_ptr, a_stride, b_stride, M, N, K, PROMOTE: tl.constexpr,
    TILE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # In 64 bits, since a row times its stride passes 2**31.
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_column = m < M, n < N
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, TILE):
        k = start + tl.arange(0, TILE)
        # 0 beyond the edges adds nothing.
        in_a = is_row[:, None] & (k < K)[None, :]
        a = tl.load(a_ptr + m[:, None] * a_stride + k[None, :], mask=in_a, other=0.0)
        in_b = (k < K)[:, None] & is_column[None, :]
        b = tl.load(b_ptr + n[None, :] * b_stride + k[:, None], mask=in_b, other=0.0)
        if PROMOTE == "never":
            acc = tl.dot(a, b, acc)
        elif PROMOTE == "tensor core":
            acc = tl.dot(a, b, acc, max_num_imprecise_acc=TILE)
        else:
            acc += tl.dot(a, b)
    in_c = is_row[:, None] & is_column[None, :]
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=in_c)


LAUNCH: dict[str, Any] = {
    "TILE": TILE, "BLOCK_M": 64, "BLOCK_N": 128, "num_warps": 4, "num_stages": 3
}  # fmt: skip
"""64 rows: one instruction's worth for 4 warps."""


def accumulate(
    a: Tensor, b: Tensor, promote: Promote, interpret: bool | None = None
) -> Tensor:
    """c = a b^T from FP8 codes without scales: kernel on a GPU, else exact.

    Args:
        a: (M, K) with K >= 1, float8_e4m3fn or float8_e5m2. Rows whose codes do not
            lie side by side are copied.
        b: (N, K), float8 as well, of either format.
        promote: when the sum leaves the tensor core, as above. On a CPU it changes
            nothing.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        c, (M, N), float32.

    Raises:
        KernelInputError: an operand or promote is not as above, or the GPU has no FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_operands("accumulate", a, b)
    if promote not in get_args(Promote):
        raise KernelInputError(
            "accumulate: promote must be one of "
            f"{', '.join(map(repr, get_args(Promote)))}; got {promote!r}."
        )
    if route(a, interpret) == "reference":
        return accumulate_reference(a, b)
    check_gpu_has_fp8("accumulate", a)
    a_MK, b_NK = side_by_side(a), side_by_side(b)
    (M, K), N = a_MK.shape, b_NK.shape[0]
    c_MN = torch.empty((M, N), dtype=torch.float32, device=a.device)
    if M and N:  # a GPU refuses a grid of no programs
        grid = cdiv(M, LAUNCH["BLOCK_M"]), cdiv(N, LAUNCH["BLOCK_N"])
        with torch.cuda.device_of(a):  # Triton launches on the current GPU
            fp8_accumulate_kernel[grid](
                a_MK,
                b_NK,
                c_MN,
                a_MK.stride(0),
                b_NK.stride(0),
                M,
                N,
                K,
                PROMOTE=promote,
                **LAUNCH,
            )
    return c_MN


SPECS = [
    launch_spec(
        fp8_accumulate_kernel, E4M3.dtype, {**LAUNCH, "PROMOTE": promote}, promote,
        a_ptr="*", b_ptr="*", c_ptr="*fp32", a_stride="i32", b_stride="i32",
        M="i32", N="i32", K="i32",
    )
    for promote in get_args(Promote)
]  # fmt: skip
"""The three variants, on E4M3."""
