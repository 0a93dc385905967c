"""The inputs on which the mHC stream kernels are tested: (M, n, C), dtype, layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernels.operation import KERNEL_DTYPES
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS

SHAPES = [
    (4, 4, 256),  # whole tiles
    (13, 4, 33),
    (1, 1, 1),
    (70, 2, 9),  # more tokens than a block of them holds
    (5, 3, 300),
    (3, 5, 129),
    (2, 6, 7),
    (3, 7, 5),
    (2, 8, 130),
]
SMALL = (3, 4, 5)
"""For what needs no more than a few numbers."""

SHAPE_CASES = [Case(s, d) for s in [*SHAPES, (0, 4, 5)] for d in KERNEL_DTYPES]
SHAPE_CASES.append(Case((1, 4, 5129), torch.bfloat16))
"""One token, as wide as in training, and a width that no block divides."""

SCALE_CASES = [Case((3, 4, 129), d, scale=300) for d in KERNEL_DTYPES]
"""A square overflows float16."""

STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((5, 4, 33), d, layout=name) for name in STRIDED for d in KERNEL_DTYPES]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]
VALUE_CASES = SHAPE_CASES + SCALE_CASES + X_CASES
GRADIENT_CASES = SHAPE_CASES + X_CASES + DY_CASES
STREAMS: dict[str, Any] = {
    "value_cases": VALUE_CASES,
    "gradient_cases": GRADIENT_CASES,
    "small": SMALL,
}
"""What a `MixedOperation` on streams is tested on."""


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Float64 on the CPU, both signs, no two alike: no matrix is symmetric."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
