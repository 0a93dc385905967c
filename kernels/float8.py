"""The two 8-bit floating-point formats, and every way into and out of them.

A code is a byte: a sign bit, then `exponent_bits`, then `mantissa_bits`. With E the
number in the exponent bits and m that in the mantissa bits (of which there are p),

    value = (-1)^sign 2^(E - bias) (1 + m / 2^p)        E > 0, normal
    value = (-1)^sign 2^(1 - bias) (m / 2^p)            E = 0, subnormal

(Micikevicius et al. 2022, arXiv 2209.05433, section 3.) E4M3 has no infinity and one
NaN, with all bits set but the sign; so its largest value, 448, has the largest
exponent. E5M2 follows IEEE 754: the largest exponent is for infinity and NaN.

Conversions round to nearest, ties to even, and saturate: what lies beyond the largest
value becomes the largest value, infinities included, and NaN stays NaN. This is
`cvt.rn.satfinite` of the PTX ISA. Left alone, libraries differ there: ml_dtypes gives
NaN or infinity, and torch's answer depends on its version. Hence `cast` clamps first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Float8:
    """One 8-bit format.

    Attributes:
        name: "E4M3", as papers call it.
        dtype: torch's.
        exponent_bits, mantissa_bits: how the 7 bits after the sign are shared out.
        bias: what is subtracted from the exponent bits.
        largest: the largest finite value.
    """

    name: str
    dtype: torch.dtype
    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: float

    @property
    def smallest_normal(self) -> float:
        """2^(1 - bias): below it the spacing stays the same."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest(self) -> float:
        """The smallest value above 0. Half of it, and less, becomes 0."""
        return self.smallest_normal * 2.0**-self.mantissa_bits

    @property
    def nan(self) -> int:
        """The code that conversions give for NaN."""
        return 0x7F


E4M3 = Float8("E4M3", torch.float8_e4m3fn, 4, 3, 7, 448.0)
"""Precise: what DeepSeek-V3 takes for everything (2412.19437, section 3.3.2)."""
E5M2 = Float8("E5M2", torch.float8_e5m2, 5, 2, 15, 57344.0)
"""Wide: what earlier recipes took for gradients."""

FORMATS = {fmt.name: fmt for fmt in (E4M3, E5M2)}


def cast(x: Tensor, fmt: Float8 = E4M3) -> Tensor:
    """x in an 8-bit format: to nearest, ties to even, saturating.

    Args:
        x: any floating dtype. float64 goes by way of float32, as in torch.

    Returns:
        A tensor of fmt.dtype, of x's shape.
    """
    # Infinities too, so that nothing is left on which libraries differ.
    return x.float().clamp(-fmt.largest, fmt.largest).to(fmt.dtype)


def encode(x: Tensor, fmt: Float8 = E4M3) -> Tensor:
    """The codes of x, by integer arithmetic on the bits of float32: what `cast` gives.

    A float32 has 23 mantissa bits, of which the first p stay. Adding just under half
    of the last one that stays, plus that bit itself, makes the carry round to
    nearest, ties to even; a carry out of the mantissa raises the exponent by one, as
    it should. Below the smallest normal value codes count multiples of the smallest.

    Returns:
        uint8, of x's shape.
    """
    x = x.float()
    bits = x.contiguous().view(torch.int32)
    sign = (bits >> 24) & 0x80
    size = x.abs().clamp(max=fmt.largest)
    dropped = 23 - fmt.mantissa_bits
    size_bits = size.contiguous().view(torch.int32)
    last = (size_bits >> dropped) & 1
    rounded = (size_bits + (1 << (dropped - 1)) - 1 + last) >> dropped
    normal = rounded - ((127 - fmt.bias) << fmt.mantissa_bits)
    # torch.round takes ties to even. A NaN has no integer: it is overwritten below.
    multiples = torch.round(size / fmt.smallest).nan_to_num(0.0).to(torch.int32)
    code = torch.where(size < fmt.smallest_normal, multiples, normal)
    code = torch.where(x.isnan(), fmt.nan, code)
    return (code | sign).to(torch.uint8)


def decode(code: Tensor, fmt: Float8 = E4M3) -> Tensor:
    """The value of each code, in float32, by the formulas above.

    Args:
        code: uint8, any shape.

    Returns:
        float32, of the same shape; NaN and infinity where the code says so.
    """
    code = code.int()
    p = fmt.mantissa_bits
    top = (1 << fmt.exponent_bits) - 1
    E = (code >> p) & top
    m = (code & ((1 << p) - 1)).float()
    normal = torch.ldexp(1 + m / 2**p, E - fmt.bias)
    subnormal = m * fmt.smallest
    value = torch.where(E > 0, normal, subnormal)
    if fmt is E4M3:
        value = torch.where((code & 0x7F) == 0x7F, torch.nan, value)
    else:
        infinite = torch.where(m > 0, torch.nan, torch.inf)
        value = torch.where(E.eq(top), infinite, value)
    return torch.where(code >= 0x80, -value, value)


def steps_apart(q: Tensor, other: Tensor) -> Tensor:
    """How many steps from code to next code lie between two tensors of one format.

    The codes of positive values count upwards, those of negative ones downwards; the
    two zeros are one value. A NaN is 0 steps from a NaN, and 256 from a number.

    Returns:
        int32, of q's shape.
    """

    def place(codes: Tensor) -> Tensor:
        """Counted from 0, downwards where the sign bit is set."""
        code = codes.view(torch.uint8).int()
        return (code & 0x7F) * (1 - 2 * (code >> 7))

    steps = (place(q) - place(other)).abs()
    nan, other_nan = q.float().isnan(), other.float().isnan()
    return steps.masked_fill(nan | other_nan, 256).masked_fill(nan & other_nan, 0)
