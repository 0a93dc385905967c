"""Queries, keys and values as three matrices.

The GPT computes them by one, whose rows are all queries, then all keys, then all
values. Cut into two, the first rank would have the queries and half of the keys. Cut
one by one, each rank has queries, keys and values of the same heads.

Every layout has the three, so that a checkpoint of one fits all others.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from labsupport.nn import GPT


class SeparateQKV(nn.Module):
    """What a fused linear layer without bias computes, by three of a third each.

    Args:
        fused: its weight has shape (3 D, D): queries, keys, values.
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        thirds = fused.weight.detach().chunk(3)
        self.q, self.k, self.v = (_linear(third) for third in thirds)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return torch.cat([self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)], dim=-1)


def _linear(weight: Tensor) -> nn.Linear:
    n_out, n_in = weight.shape
    # Made without memory of its own: its random numbers would be thrown away.
    layer = nn.Linear(n_in, n_out, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    return layer


def separate_qkv(model: GPT) -> GPT:
    """Give every block three matrices, in place; those that have them stay."""
    for block in model.blocks:
        attention = cast(nn.Module, block.attention)
        if isinstance(attention.qkv, nn.Linear):
            attention.qkv = SeparateQKV(attention.qkv)
    return model
