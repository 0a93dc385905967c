"""How rows are divided among experts in the tests of their kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.moe_permute import moe_permute_reference


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Float64 on the CPU, both signs, no two alike."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def routing(
    T: int, K: int, E: int, busy: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """slot_R, row_TK and first_E1 where `busy` experts, chosen by chance, get rows.

    An expert may be twice among the K of a token, which the kernels do not mind.
    """
    chosen = torch.randperm(E, generator=generator)[:busy]
    index_TK = chosen[torch.randint(busy, (T, K), generator=generator)]
    return moe_permute_reference(index_TK, E)
