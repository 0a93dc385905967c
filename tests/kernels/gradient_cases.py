"""What the tests of gradient fusion share: operations that change a state in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.operation import KERNEL_DTYPES
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness_mixed import outputs

FP32, FP16, BF16 = KERNEL_DTYPES


def on_a_copy(
    function: Callable[..., Tensor | tuple[Tensor, ...]], at: int
) -> Callable[..., tuple[Tensor, ...]]:
    """The function as one that changes nothing, as the harness wants it.

    It gets a copy of its input number `at`, the state; what becomes of the copy comes
    after all that the function returns. Within guarded memory the copy is guarded.
    """

    def changes_nothing(*inputs: Tensor, interpret: Any) -> tuple[Tensor, ...]:
        # Not clone(), which guarded memory does not see.
        state = torch.empty(
            inputs[at].shape, dtype=inputs[at].dtype, device=inputs[at].device
        ).copy_(inputs[at])
        given = [*inputs[:at], state, *inputs[at + 1 :]]
        return *outputs(function(*given, interpret=interpret)), state

    return changes_nothing


def strided(shape: tuple[int, ...]) -> list[Case]:
    """The inputs that may lie otherwise, in every layout but the plain one."""
    return [
        Case(shape, FP16 if name == "misaligned" else BF16, layout=name)
        for name in LAYOUTS
        if name != "contiguous"
    ]


FACTOR_SIZES = [
    (16, 128, 16),
    (17, 129, 1),
    (1, 1, 1),
    (1, 500, 3),
    (70, 1, 16),
    (33, 260, 5),
    (0, 5, 2),
    (5, 0, 2),
]
"""(M, N, R) of a matrix and its factors: full tiles, odd sizes, one, none."""
