"""The inputs on which every kernel is tested: sizes, dtypes, layouts, scales."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kernels.operation import KERNEL_DTYPES, TRITON_TYPES
from tests.kernels.guarded_memory import LAYOUTS


@dataclass(frozen=True)
class Case:
    """One set of inputs. `str` of it is the test's id."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str = "contiguous"
    dy_layout: str = "contiguous"
    scale: float = 1.0

    def __str__(self) -> str:
        parts = ["x".join(map(str, self.shape)), TRITON_TYPES[self.dtype]]
        parts += [self.layout] * (self.layout != "contiguous")
        parts += [f"dy {self.dy_layout}"] * (self.dy_layout != "contiguous")
        parts += [f"times {self.scale:g}"] * (self.scale != 1.0)
        return " ".join(parts)


SHAPES = [(4, 128), (3, 129), (1, 5), (1, 1), (7,), (2, 3, 7), (70, 3), (2, 1000)]
"""Power of two, odd, one row, one number, one axis, three axes, more rows than
programs, and long enough that a sum in bfloat16 stops growing."""

SHAPE_CASES = [Case(s, d) for s in [*SHAPES, (0, 5)] for d in KERNEL_DTYPES]
SCALE_CASES = [Case((3, 129), d, scale=s) for s in (300, 1e-3) for d in KERNEL_DTYPES]
"""300: exp overflows float32, a square overflows float16. 1e-3: eps matters."""

STRIDED = [((5, 33), name) for name in LAYOUTS if name != "contiguous"]
STRIDED.append(((2, 3, 7), "transposed"))  # its rows have no one distance
X_CASES = [Case(s, d, layout=name) for s, name in STRIDED for d in KERNEL_DTYPES]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]
VALUE_CASES = SHAPE_CASES + SCALE_CASES + X_CASES
GRADIENT_CASES = SHAPE_CASES + X_CASES + DY_CASES
