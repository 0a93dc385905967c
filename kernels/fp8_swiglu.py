# mypy: allow-untyped-defs
"""SwiGLU to FP8: the product of gate and up never lies in memory.

    a_mh = silu(gate_mh) * up_mh          silu(g) = g / (1 + exp(-g))
    s_mj = max over tile j of |a_mh| / largest          q_mh = cast(a_mh / s_mj)

(SwiGLU: arXiv 2002.05202, Eq. 6. The tiles: DeepSeek-V3, arXiv 2412.19437, section
3.3.2.) Only the next matrix product reads a, and it reads codes. Written to memory in
bfloat16 and read again to be quantised, a would cost 4 more bytes a number, and be
rounded twice.

Shapes: gate_MH and up_MH have M rows of H numbers; q_MH and scale_MJ are codes and
scales in 1 x 128 tiles, J = ceil(H / 128), as of `fp8_tiles`. e is the bytes per
element of gate and of up: 4 or 2.

Cost:   M H (2 e + 1) + 4 M J bytes (read gate, up; write q, scale)    7 M H FLOPs

Libraries' exp differ in the last bits, so a scale may be off by a few units in its last
place from the reference's, and a number near the middle of two codes take the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.float8 import E4M3, Float8
from kernels.fp8_cast import (
    COMPILED,
    codes_of,
    constants_of,
    scale_of,
    size_of,
    spec_size,
    tile_launch,
)
from kernels.fp8_operands import check_to_quantise
from kernels.fp8_scaling import TILE, quantise_reference
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    TRITON_TYPES,
    Cost,
    check_beside,
    launch_spec,
    route,
    side_by_side,
)

BENCHMARK_SHAPES = ((4096, 2048), (16384, 2048))
"""(M, H): rows by the hidden width of an expert of DeepSeek-V3."""


def fp8_swiglu_reference(
    gate: Tensor, up: Tensor, fmt: Float8 = E4M3, power_of_two: bool = False
) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, on any device: the oracle.

    Args:
        gate: (M, H), any floating dtype; computed in float32.
        up: (M, H).
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.

    Returns:
        q, (M, H) of fmt.dtype, and scale, (M, J) of float32.
    """
    gate_MH, up_MH = gate.float(), up.float()
    a_MH = gate_MH / (1 + (-gate_MH).exp()) * up_MH
    return quantise_reference(a_MH, (1, TILE), fmt, power_of_two)


@jit
def fp8_swiglu_kernel(
    gate_ptr, up_ptr, q_ptr, scale_ptr, gate_stride, up_stride, M, H,
    LARGEST: tl.constexpr, POWER_OF_TWO: tl.constexpr, BLOCK_M: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    # Neighbouring programs take neighbouring tiles of the same rows.
    tiles = tl.cdiv(H, TILE)
    j = tl.program_id(0) % tiles
    # In 64 bits, since m * stride passes 2**31 on large tensors.
    m = (tl.program_id(0) // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    h = j * TILE + tl.arange(0, TILE)
    inside = (m < M)[:, None] & (h < H)[None, :]
    gate_at = gate_ptr + m[:, None] * gate_stride + h[None, :]
    up_at = up_ptr + m[:, None] * up_stride + h[None, :]
    # 0 where there is no number makes a 0, which every tile's maximum is at least.
    gate = tl.load(gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_at, mask=inside, other=0.0).to(tl.float32)
    a = gate / (1.0 + tl.exp(-gate)) * up
    scale = scale_of(tl.max(size_of(a), axis=1), LARGEST, POWER_OF_TWO)
    q = codes_of(a, scale[:, None], q_ptr.dtype.element_ty, LARGEST)
    tl.store(q_ptr + m[:, None] * H + h[None, :], q, mask=inside)
    tl.store(scale_ptr + j * M + m, scale, mask=m < M)


def fp8_swiglu(
    gate: Tensor,
    up: Tensor,
    fmt: Float8 = E4M3,
    power_of_two: bool = False,
    interpret: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """SwiGLU, quantised in tiles of 128: the kernel on a GPU, the reference on a CPU.

    Args:
        gate: (M, H); float32, float16 or bfloat16, any strides: half of the columns
            of one wider matrix is read where it lies.
        up: the same.
        fmt: the 8-bit format.
        power_of_two: whether scales are rounded up to powers of two.
        interpret: True runs the kernel interpreted on a CPU (slow).

    Returns:
        q, (M, H) of fmt.dtype, and scale, (M, J) of float32: those of the reference,
        as near as exp is. The kernel's scales lie transposed in memory.

    Raises:
        KernelInputError: gate, up or fmt are not as above, or the GPU has no FP8.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_to_quantise("fp8_swiglu", gate, fmt, "gate")
    check_beside(
        "fp8_swiglu", gate, "up", up, tuple(gate.shape), "(M, H)", gate.dtype, "gate"
    )
    gate_MH, up_MH = side_by_side(gate.detach()), side_by_side(up.detach())
    if route(gate, interpret) == "reference":
        return fp8_swiglu_reference(gate_MH, up_MH, fmt, power_of_two)
    (M, H), launch = gate.shape, tile_launch()
    J = cdiv(H, TILE)
    q_MH = torch.empty((M, H), dtype=fmt.dtype, device=gate.device)
    scale_JM = torch.empty((J, M), dtype=torch.float32, device=gate.device)
    if gate.numel():  # a GPU refuses a grid of no programs
        with torch.cuda.device_of(gate):  # Triton launches on the current GPU
            fp8_swiglu_kernel[(cdiv(M, launch["BLOCK_M"]) * J,)](
                gate_MH, up_MH, q_MH, scale_JM, gate_MH.stride(0), up_MH.stride(0),
                M, H, **constants_of(fmt, power_of_two), **launch,
            )  # fmt: skip
    return q_MH, scale_JM.T


def fp8_swiglu_cost(M: int, H: int, dtype: torch.dtype) -> Cost:
    """gate and up read once, codes and scales written once. SwiGLU is an exp, a sum,
    a division and a product; to quantise, |a|, a maximum and a division."""
    scales = M * cdiv(H, TILE)
    return Cost(bytes=M * H * (2 * dtype.itemsize + 1) + 4 * scales, flops=7 * M * H)


SPECS = [
    launch_spec(
        fp8_swiglu_kernel, dtype,
        {**constants_of(fmt, power_of_two), **tile_launch()},
        spec_size(fmt, power_of_two), gate_ptr="*", up_ptr="*",
        q_ptr=f"*{TRITON_TYPES[fmt.dtype]}", scale_ptr="*fp32", gate_stride="i32",
        up_stride="i32", M="i32", H="i32",
    )
    for dtype, fmt, power_of_two in COMPILED
]  # fmt: skip
"""Configurations that `fp8_swiglu` launches at BENCHMARK_SHAPES."""
