"""Everything is sent: what DDP does by itself, or the same in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labsupport.distributed.fusion.hook import Fusion
from labsupport.distributed.fusion.message import (
    all_finite,
    all_reduce_bytes,
    all_reduce_mean,
)


class DenseFusion(Fusion):
    """All numbers travel.

    Args:
        dtype: as what; bfloat16 halves the bytes of float32. What rounding takes
            off stays in the residual.
        options: those of `Fusion`.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__(**options)
        self.dtype = dtype

    @torch.no_grad()
    def fuse_bucket(self, buffer: Tensor, named: dict[str, Tensor]) -> None:
        if self.dtype != torch.float32 or buffer.dtype != torch.float32:
            return super().fuse_bucket(buffer, named)
        # As DDP does by itself: nothing is copied, and what is not finite stays in its
        # place, on all ranks.
        if self.weight != 1:
            buffer.mul_(self.weight)
        self.dist.all_reduce(buffer, group=self.group)
        buffer.div_(self.workers)
        return None

    def fuse(self, named: dict[str, Tensor]) -> bool:
        u = {name: self.with_residual(name, g) for name, g in named.items()}
        mine, mean = all_reduce_mean(
            list(u.values()), self.dtype, self.dist, self.group
        )
        if not all_finite(mean):
            return False
        for name, sent, fused in zip(named, mine, mean, strict=True):
            if self.dtype != torch.float32:
                self.keep_residual(name, u[name].sub_(sent))
            named[name].copy_(fused)
        return True

    def bytes_to_send(self) -> float:
        """Of one worker and step: 2 (W - 1) / W times a gradient."""
        numbers = sum(shape.numel() for shape in self.shapes.values())
        return all_reduce_bytes(numbers, self.dtype, self.workers)
