"""A GPT cut between blocks, into stages of a pipeline."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from labsupport.distributed.balance import equal_batches
from labsupport.nn import GPT


class Stage(nn.Module):
    """Some neighbouring blocks, under the names that they have in the whole model.

    The first stage has the embedding too, the last one the norm and the output layer.

    Args:
        model: the whole GPT; its modules are shared, not copied.
        blocks: which of them.
    """

    def __init__(self, model: GPT, blocks: range) -> None:
        super().__init__()
        self.first, self.last = blocks.start == 0, blocks.stop == len(model.blocks)
        if self.first:
            self.embedding = model.embedding
        self.blocks = nn.ModuleDict({str(i): model.blocks[i] for i in blocks})
        if self.last:
            self.norm, self.head = model.norm, model.head

    def forward(self, x: Tensor) -> Tensor:
        """Tokens_BT or what the stage before made; logits_BTV from the last stage."""
        every: list[Any] = list(self.blocks.values())
        if self.first:
            x = every[0].attention_residual.expand(self.embedding(x))
        for block in every:
            x = block(x)
        if self.last:
            x = self.head(self.norm(every[-1].ffn_residual.collapse(x)))
        return x


def blocks_of_stages(layers: int, stages: int) -> list[range]:
    """Which blocks each stage has, as equal as possible; the first get one more."""
    found, start = [], 0
    for size in equal_batches(stages, layers):
        found.append(range(start, start + size))
        start += size
    return found
