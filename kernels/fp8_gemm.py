# mypy: allow-untyped-defs
"""FP8 matrix product: tensor cores add 128 terms, float32 scales and adds the rest.

    c_mn = sum_j s_mj t_nj sum_{k of tile j} a_mk b_nk

where s and t are the scales of the codes a and b, one for 128 numbers along K
(DeepSeek-V3, arXiv 2412.19437, section 3.3.2). The inner sum is a tensor core's; the
outer one is in float32. Two reasons ask for that:

- scales change from one tile to the next, so they do not leave the whole sum;
- Hopper's tensor cores add FP8 products with about 14 bits (ibid.), and what is lost
  grows with the number of terms. After N_C = 128 the sum is promoted to float32.
  `fp8_accumulate.py` shows what happens without.

The scales of b come in two kinds, told apart by their shape. A weight has one for
each block of 128 x 128. In the gradient of a weight, the sum is over tokens and both
operands are activations or gradients: each has one for 128 numbers of a row.

Both operands lie with K side by side, b therefore as b_NK: Hopper's tensor cores read
FP8 in no other layout (PTX ISA, wgmma).

Shapes: M rows of a, N rows of b, K terms; J = ceil(K / 128) tiles along K and
I = ceil(N / 128) along N. a_MK and b_NK are float8_e4m3fn or float8_e5m2, each its
own; scales a_scale_MJ and b_scale_IJ (blocks) or b_scale_NJ (tiles) are float32; c_MN
is float32, bfloat16 or float16, of e bytes.

Cost:   M K + N K + e M N + 4 J (M + I or N) bytes        2 M N K + 2 M N J FLOPs

The 2 M N J are what scaling adds, outside the tensor cores.

A tile with an infinite scale (`fp8_scaling.py`: it had a NaN or an infinity) makes NaN
of all of c that it reaches, as 0 times infinity is NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.float8 import E4M3
from kernels.fp8_operands import check_codes, check_gpu_has_fp8, check_scales
from kernels.fp8_scaling import TILE, Tile, dequantise_reference, scale_shape
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    TRITON_TYPES,
    Cost,
    KernelInputError,
    KernelSpec,
    accumulator,
    check_is_tensor,
    launch_spec,
    route,
    side_by_side,
)

BENCHMARK_SHAPES = ((4096, 7168, 16384), (4096, 4096, 7168), (8192, 8192, 8192))
"""(M, N, K): tokens, width out, width in. DeepSeek-V3's attention output and the gate
and up of one of its experts, then a cube."""

TILES: Tile = (1, TILE)
"""One scale for 128 numbers of a row: activations and gradients."""
BLOCKS: Tile = (TILE, TILE)
"""One scale for 128 rows of 128: weights."""


def fp8_gemm_reference(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """The product of what the codes stand for, in plain PyTorch: the oracle.

    Args:
        a: (M, K), codes.
        a_scale: (M, J).
        b: (N, K), codes.
        b_scale: (I, J) or (N, J).
        dtype: of c. float64 is computed in float64, all else in float32.

    Returns:
        c, (M, N).
    """
    wide = accumulator(dtype)
    tile = tile_of_b(b.shape, b_scale.shape)
    a_MK = dequantise_reference(a, a_scale.to(wide), TILES)
    b_NK = dequantise_reference(b, b_scale.to(wide), tile)
    return (a_MK @ b_NK.T).to(dtype)


@jit
def fp8_gemm_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, c_ptr, a_stride, a_scale_stride_m,
    a_scale_stride_j, b_stride, b_scale_stride_n, b_scale_stride_j, M, N, K,
    B_IN_BLOCKS: tl.constexpr, TILE: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    # Programs that run at once form a near-square of c, so their rows of a and b are
    # few enough for the cache: GROUP_M blocks down, then the next block across.
    blocks_m, blocks_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    down, across = tl.program_id(0) // blocks_n, tl.program_id(0) % blocks_n
    block_m, block_n = tl.swizzle2d(down, across, blocks_m, blocks_n, GROUP_M)
    # Its corner in 64 bits, since a row times its stride passes 2**31; from there on
    # 32 bits reach.
    start_m, start_n = block_m.to(tl.int64) * BLOCK_M, block_n.to(tl.int64) * BLOCK_N
    a_ptr += start_m * a_stride
    b_ptr += start_n * b_stride
    a_scale_ptr += start_m * a_scale_stride_m
    # BLOCK_N divides TILE, so all these columns are in one block of b.
    b_scale_ptr += (start_n // TILE if B_IN_BLOCKS else start_n) * b_scale_stride_n
    m, n = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    is_row, is_column = m < M - start_m, n < N - start_n
    c = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for j in range(tl.cdiv(K, TILE)):
        k = j * TILE + tl.arange(0, TILE)
        # 0 beyond the edges adds nothing; it is a code of both formats.
        in_a = is_row[:, None] & (k < K)[None, :]
        a = tl.load(a_ptr + m[:, None] * a_stride + k[None, :], mask=in_a, other=0.0)
        in_b = (k < K)[:, None] & is_column[None, :]
        b = tl.load(b_ptr + n[None, :] * b_stride + k[:, None], mask=in_b, other=0.0)
        a_scale_at = a_scale_ptr + m * a_scale_stride_m + j * a_scale_stride_j
        a_scale = tl.load(a_scale_at, mask=is_row, other=0.0)
        b_scale_at = b_scale_ptr + j * b_scale_stride_j
        # No accumulator goes into tl.dot: each sum of TILE terms leaves the tensor
        # core, is scaled and added here, in float32.
        if B_IN_BLOCKS:
            c += tl.dot(a, b) * (a_scale * tl.load(b_scale_at))[:, None]
        else:
            b_scale_at += n * b_scale_stride_n
            b_scale = tl.load(b_scale_at, mask=is_column, other=0.0)
            c += tl.dot(a, b) * a_scale[:, None] * b_scale[None, :]
    c_ptr += start_m * N + start_n
    in_c = is_row[:, None] & is_column[None, :]
    tl.store(c_ptr + m[:, None] * N + n[None, :], c, mask=in_c)


LAUNCH: dict[str, Any] = {
    "TILE": TILE, "BLOCK_M": 128, "BLOCK_N": 128, "GROUP_M": 8, "num_warps": 8,
    "num_stages": 3,
}  # fmt: skip
"""128 x 128 of c a program; three tiles each of a and b in flight fill 96 KB."""


def launch_fp8_gemm(
    a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """c_MN from operands that have been checked."""
    a_MK, b_NK = side_by_side(a), side_by_side(b)
    (M, K), N = a_MK.shape, b_NK.shape[0]
    c_MN = torch.empty((M, N), dtype=dtype, device=a.device)
    if M and N:  # a GPU refuses a grid of no programs
        blocks = cdiv(M, LAUNCH["BLOCK_M"]) * cdiv(N, LAUNCH["BLOCK_N"])
        fp8_gemm_kernel[(blocks,)](
            a_MK,
            a_scale,
            b_NK,
            b_scale,
            c_MN,
            a_MK.stride(0),
            *a_scale.stride(),
            b_NK.stride(0),
            *b_scale.stride(),
            M,
            N,
            K,
            B_IN_BLOCKS=tile_of_b(b.shape, b_scale.shape) == BLOCKS,
            **LAUNCH,
        )
    return c_MN


def fp8_gemm(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    interpret: bool | None = None,
) -> Tensor:
    """c = (s a) (t b)^T from FP8 codes: kernel on a GPU, else reference.

    Args:
        a: (M, K) with K >= 1, float8_e4m3fn or float8_e5m2. Rows whose codes do not
            lie side by side are copied.
        a_scale: (M, J), float32, laid out in any way.
        b: (N, K), float8 as well, of either format.
        b_scale: (I, J), one for each block of 128 x 128, or (N, J), one for 128 codes
            of a row; float32, laid out in any way.
        dtype: of c: float32, bfloat16 or float16.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        c, (M, N). It has no gradient: codes have none, and the gradients of a linear
        layer are products of their own.

    Raises:
        KernelInputError: an operand is not as above, or the GPU has no FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_operands("fp8_gemm", a, b)
    check_scales("fp8_gemm", a_scale, a, TILES, "a_scale")
    check_is_tensor("fp8_gemm", b_scale, "b_scale")
    in_blocks, in_tiles = scale_shape(b.shape, BLOCKS), scale_shape(b.shape, TILES)
    if b_scale.shape not in (in_blocks, in_tiles):
        raise KernelInputError(
            f"fp8_gemm: b_scale must have shape {in_blocks}, one for each block of "
            f"{TILE} x {TILE}, or {in_tiles}, one for each 1 x {TILE}, for b of shape "
            f"{tuple(b.shape)}; got {tuple(b_scale.shape)}."
        )
    check_scales("fp8_gemm", b_scale, b, tile_of_b(b.shape, b_scale.shape), "b_scale")
    if dtype not in KERNEL_DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise KernelInputError(
            f"fp8_gemm: dtype must be torch.float32, bfloat16 or float16; got {name} "
            "(fp8_gemm_reference takes float64 too)."
        )
    with torch.no_grad(), torch.cuda.device_of(a):  # Triton launches there
        if route(a, interpret) == "reference":
            return fp8_gemm_reference(a, a_scale, b, b_scale, dtype)
        check_gpu_has_fp8("fp8_gemm", a)
        return launch_fp8_gemm(a, a_scale, b, b_scale, dtype)


def tile_of_b(shape: torch.Size | Tile, scales: torch.Size | Tile) -> Tile:
    """BLOCKS or TILES, whichever scales of this shape belong to.

    With N = 1 both are one scale a tile and mean the same.
    """
    return BLOCKS if scales[0] == scale_shape(shape, BLOCKS)[0] else TILES


def check_operands(operation: str, a: Tensor, b: Tensor) -> None:
    """Refuse two matrices of codes that have no product a b^T.

    Raises:
        KernelInputError: one is no matrix of codes, or they differ in their number
            of columns or in their device.
    """
    check_codes(operation, a, "a")
    check_codes(operation, b, "b")
    if a.shape[1] != b.shape[1] or a.shape[1] == 0:
        raise KernelInputError(
            f"{operation}: a and b must have equally many columns, at least 1; got "
            f"shapes {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if b.device != a.device:
        raise KernelInputError(
            f"{operation}: b must be on a's device, {a.device}; got {b.device}."
        )


def fp8_gemm_cost(M: int, N: int, K: int, dtype: torch.dtype, tile: Tile) -> Cost:
    """Codes and scales read once, c written once.

    Args:
        dtype: of c.
        tile: of b's scales, BLOCKS or TILES.
    """
    J, rows = scale_shape((M, K), TILES)[1], scale_shape((N, K), tile)[0]
    moved = M * K + N * K + dtype.itemsize * M * N + 4 * J * (M + rows)
    return Cost(bytes=moved, flops=2 * M * N * K + 2 * M * N * J)


def _spec(tile: Tile, dtype: torch.dtype) -> KernelSpec:
    kind = {BLOCKS: "blocks", TILES: "tiles"}[tile]
    return launch_spec(
        fp8_gemm_kernel, E4M3.dtype, {**LAUNCH, "B_IN_BLOCKS": tile == BLOCKS},
        f"b in {kind}, c in {TRITON_TYPES[dtype]}", a_ptr="*", a_scale_ptr="*fp32",
        b_ptr="*", b_scale_ptr="*fp32", c_ptr=f"*{TRITON_TYPES[dtype]}",
        a_stride="i32", a_scale_stride_m="i32", a_scale_stride_j="i32",
        b_stride="i32", b_scale_stride_n="i32", b_scale_stride_j="i32",
        M="i32", N="i32", K="i32",
    )  # fmt: skip


SPECS = [
    _spec(BLOCKS, torch.bfloat16),
    _spec(TILES, torch.bfloat16),
    _spec(TILES, torch.float32),
]
"""What `fp8_gemm` launches at BENCHMARK_SHAPES, on E4M3 as DeepSeek-V3 trains: outputs
and gradients of activations in bfloat16, those of weights in float32 too."""
