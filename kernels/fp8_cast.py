# mypy: allow-untyped-defs
"""What the quantiser kernels share: a tile's scale, and codes.

`fp8_scaling` defines both, and kernels give the same bits as its `quantise_reference`,
but that one NaN is as good as another. So divisions are `tl.div_rn`, which rounds to
nearest: Triton's `/` compiles to an approximation, off by up to two units in the last
place, and a number near the middle of two codes would take the other one.
"""

from __future__ import annotations

from typing import Any

import torch

from kernels.float8 import E4M3, E5M2, Float8
from kernels.fp8_scaling import TILE
from kernels.language import jit, tl
from kernels.operation import KERNEL_DTYPES


@jit
def size_of(x):
    """|x|, where NaN is infinity: a GPU's maximum of NaN and a number is the number."""
    size = tl.abs(x)
    return tl.where(size < float("inf"), size, float("inf"))


@jit
def scale_of(amax, LARGEST: tl.constexpr, POWER_OF_TWO: tl.constexpr):
    """The scale of a tile, or of a block of tiles, from the largest |x| of each."""
    scale = tl.maximum(tl.div_rn(amax, LARGEST), 2.0**-126)
    if POWER_OF_TWO:
        scale = round_up_to_power_of_two(scale)
    return scale


@jit
def round_up_to_power_of_two(scale):
    """The smallest power of two that is at least `scale`, by the bits of float32."""
    bits = scale.to(tl.int32, bitcast=True)
    # The exponent alone is the power of two below; is there anything beside it?
    up = (bits & 0x7FFFFF) != 0
    return (((bits >> 23) + up.to(tl.int32)) << 23).to(tl.float32, bitcast=True)


@jit
def codes_of(x, scale, dtype: tl.constexpr, LARGEST: tl.constexpr):
    """x / scale in an 8-bit dtype: to nearest, ties to even, NaN stays NaN.

    x / scale can round to just above LARGEST, where conversions differ.
    """
    y = tl.div_rn(x, scale)
    # Left alone, clamp would make a NaN the lowest number.
    y = tl.clamp(y, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return y.to(dtype)


def constants_of(fmt: Float8, power_of_two: bool) -> dict[str, Any]:
    """The format as kernels know it."""
    return {"LARGEST": fmt.largest, "POWER_OF_TWO": power_of_two}


def tile_launch() -> dict[str, Any]:
    """A program quantises 32 rows of one tile's width.

    A thread holds 32 numbers, four loads of 16 bytes in half precision; 32 scales
    are the 128 bytes that a GPU writes at once.
    """
    return {"BLOCK_M": 32, "TILE": TILE, "num_warps": 4, "num_stages": 1}


def square_launch() -> dict[str, Any]:
    """A program quantises 128 x 128 numbers, of which a thread holds 32.

    Twice as many would take nearly twice the registers.
    """
    return {"TILE": TILE, "num_warps": 16, "num_stages": 1}


COMPILED: tuple[tuple[torch.dtype, Float8, bool], ...] = (
    *((dtype, E4M3, False) for dtype in KERNEL_DTYPES),
    (torch.bfloat16, E5M2, True),
)
"""Input, format and power_of_two of what the compile check covers: every dtype as V3
quantises it, and once the other format with the other kind of scale."""


def spec_size(fmt: Float8, power_of_two: bool) -> str:
    """What tells one configuration's label from another's."""
    return f"{fmt.name} power of two" if power_of_two else fmt.name
