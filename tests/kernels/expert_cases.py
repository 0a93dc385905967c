"""How rows are divided among experts in the tests of their kernels."""

from __future__ import annotations

import torch
from torch import Tensor


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Float64 on the CPU, both signs, no two alike."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def experts_of(R: int, E: int, busy: int, generator: torch.Generator) -> Tensor:
    """An expert for each of R visits: one of `busy` by chance, the others get none."""
    chosen = torch.randperm(E, generator=generator)[:busy]
    return chosen[torch.randint(busy, (R,), generator=generator)]


def first_of(expert_R: Tensor, E: int) -> Tensor:
    """first_E1 of these experts' visits, int32."""
    counts = torch.bincount(expert_R, minlength=E)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def places_of(expert_R: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """slot_R and row_TK of these visits, int32: sorted by expert, then by token."""
    slot_R = expert_R.argsort(stable=True)
    return slot_R.int(), slot_R.argsort().int().view(-1, K)
