"""Permutation in plain PyTorch; the kernel follows."""

import torch
from torch import Tensor


def moe_permute(index: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    flat = index.flatten().long()
    slot = flat.argsort(stable=True)
    row = torch.empty_like(slot)
    row[slot] = torch.arange(len(slot))
    first = torch.zeros(experts + 1, dtype=torch.int32)
    first[1:] = torch.bincount(flat, minlength=experts).cumsum(0)
    return slot.int(), row.view_as(index).int(), first
