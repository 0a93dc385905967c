"""Everything is sent: what DDP does by itself, or the same in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labsupport.distributed.fusion.hook import Fusion
from labsupport.distributed.fusion.message import all_reduce_bytes, all_reduce_mean


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

    def fuse(self, named: dict[str, Tensor]) -> bool:
        u = {name: self.with_residual(name, g) for name, g in named.items()}
        mine, mean = all_reduce_mean(
            list(u.values()), self.dtype, self.dist, self.group
        )
        if not all(bool(part.isfinite().all()) for part in mean):
            return False
        for name, sent, fused in zip(named, mine, mean, strict=True):
            if self.dtype != torch.float32:
                self.keep_residual(name, u[name] - sent)
            named[name].copy_(fused)
        return True

    def bytes_to_send(self) -> float:
        """Of one worker and step: 2 (W - 1) / W times a gradient."""
        numbers = sum(shape.numel() for shape in self.shapes.values())
        return all_reduce_bytes(numbers, self.dtype, self.workers)
