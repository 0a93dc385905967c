"""Routing in plain PyTorch; the kernel follows."""

import torch
from torch import Tensor


def moe_router_reference(
    logits: Tensor,
    bias: Tensor,
    top_k: int,
    groups: int = 1,
    kept_groups: int | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(logits)
    b = s.detach() + bias
    if kept_groups is not None and kept_groups < groups:
        g = b.view(len(b), groups, -1)
        gs = g.topk(min(2, g.shape[-1]), -1).values.sum(-1)
        order = gs.argsort(dim=1, descending=True, stable=True)[:, :kept_groups]
        keep = torch.zeros_like(gs, dtype=torch.bool).scatter_(1, order, True)
        keep = keep.repeat_interleave(s.shape[1] // groups, 1)
        b = b.masked_fill(~keep, float("-inf"))
    index = b.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    w = s.gather(1, index)
    return index.int(), scale * w / w.sum(1, keepdim=True).clamp_min(1e-20)


moe_router = moe_router_reference
