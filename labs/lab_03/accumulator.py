"""A model of how Hopper's tensor cores add FP8 products.

DeepSeek-V3's report (arXiv 2412.19437, sections 3.3.2 and 3.5.2): products of a group
of 32 are aligned by right shift to the largest exponent, only about the highest 14 bits
of each are kept, the rest is cut off, and the register holds 14 bits, too. A later
paper (arXiv 2505.09343, section 3.1.1) says 13 fraction bits, which with the leading
one is the same. How the hardware really does it is not published: this is a *model*
after that text, nothing that was measured.

Shape suffixes: P dot products, K their length, G = 32 products of a group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.float8 import cast
from labsupport.settings import Scale

GROUP, BITS = 32, 14
KINDS = ("uniform", "log-normal", "normal")
PROMOTE = (32, 64, 128, 0)
"""Products until the register is emptied into float32; 0: never."""


def cut(x: Tensor, largest: Tensor, bits: int = BITS) -> Tensor:
    """x without what lies more than `bits` below the leading bit of `largest`.

    Cut off towards zero, as a right shift of sign and magnitude does.

    Args:
        x: float64.
        largest: of the shape of x or one that spreads over it; not negative.
    """
    _, exponent = torch.frexp(largest)  # largest < 2^exponent
    step = torch.ldexp(torch.ones_like(largest), exponent - bits)
    return torch.trunc(x / step) * step


def accumulate(
    products_PK: Tensor, promote: int = 0, bits: int = BITS
) -> Tensor:
    """The sums of each row, as the model adds them: sum_P.

    Args:
        products_PK: float64, exact products of codes; K is a multiple of 32.
        promote: after so many products the register goes to a float32 sum and
            starts again at 0; 0 for never. A multiple of 32.
    """
    P, K = products_PK.shape
    register_P = torch.zeros(P, dtype=torch.float64)
    total_P = torch.zeros(P, dtype=torch.float32)
    for start in range(0, K, GROUP):
        group_PG = products_PK[:, start : start + GROUP]
        terms = torch.cat([group_PG, register_P[:, None]], dim=1)
        largest_P1 = terms.abs().amax(1, keepdim=True)
        aligned = cut(terms, largest_P1, bits)
        sum_P = aligned.sum(1)
        register_P = cut(sum_P, sum_P.abs(), bits)
        if promote and (start + GROUP) % promote == 0:
            total_P = total_P + register_P.float()
            register_P = torch.zeros_like(register_P)
    return (total_P + register_P.float()).double()


def products(kind: str, P: int, K: int, seed: int = 0) -> Tensor:
    """Exact products of P pairs of vectors of E4M3 numbers, products_PK.

    Args:
        kind: "uniform" in [0, 1), "log-normal" (sigma 1), or "normal".
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "uniform":
        x = torch.rand(2, P, K, generator=generator)
    else:
        x = torch.randn(2, P, K, generator=generator)
        x = x.exp() if kind == "log-normal" else x
    a, b = cast(x).double()
    return a * b


def worst_error(products_PK: Tensor, promote: int) -> float:
    """The largest error of a sum, relative to the root mean square of all sums."""
    exact_P = products_PK.sum(1)
    gap_P = (accumulate(products_PK, promote) - exact_P).abs()
    return (gap_P.max() / exact_P.square().mean().sqrt()).item()


def accumulation_row(
    arm: str, seed: int, scale: Scale, *, kind: str
) -> dict[str, Any]:
    """Errors by length, with the register emptied every `arm` products."""
    lengths = (512, 1024) if scale == "ci" else (512, 1024, 2048, 4096, 16384)
    P = 32 if scale == "ci" else 512
    every = products(kind, P, max(lengths), seed)
    errors = [worst_error(every[:, :K], int(arm)) for K in lengths]
    return {
        "lengths": list(lengths),
        "errors": [float(f"{error:.3g}") for error in errors],
    }
