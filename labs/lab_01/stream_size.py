"""How large the numbers of the residual stream become while a network trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labsupport.nn import GPT

FLOAT16_MAX = torch.finfo(torch.float16).max
"""65,504."""


class StreamSize:
    """Watches a GPT's stream; give `measure` to `train`.

    Attributes:
        largest: the largest magnitude after any branch, of the last forward;
            infinite where the stream's format was too small for it.
    """

    def __init__(self, model: GPT) -> None:
        self.largest = 0.0
        first: Any = model.blocks[0].attention_residual
        first.register_forward_pre_hook(self._begin)
        for block in model.blocks:
            for part in (block.attention_residual, block.ffn_residual):
                part.register_forward_hook(self._look)

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {"largest": self.largest}

    def _begin(self, part: nn.Module, arguments: Any) -> None:
        self.largest = 0.0

    def _look(self, part: nn.Module, arguments: Any, stream: Tensor) -> None:
        self.largest = max(self.largest, stream.detach().abs().max().item())
