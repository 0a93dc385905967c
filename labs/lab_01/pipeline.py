"""A training step over two ranks, each with half of the blocks.

Shape suffixes: B sequences, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from labs.lab_01.arms import residual_of
from labsupport.nn import GPT, GPTConfig


@dataclass(frozen=True)
class Step:
    """What one rank can say about the step.

    Attributes:
        loss: on the last rank; None before.
        boundary_bytes: size of the stream that crosses from rank 0 to rank 1.
        saved_bytes: what autograd keeps of the forward for the backward.
        gradient: of this rank's first block, as one vector.
    """

    loss: float | None
    boundary_bytes: int
    saved_bytes: int
    gradient: Tensor


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what autograd saves inside a `with`; a storage counts once.

    Parameters do not count: they are there anyway.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.storages: dict[int, int] = {}
        there = {p.untyped_storage().data_ptr() for p in parameters}

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in there:
                self.storages[storage.data_ptr()] = storage.nbytes()
            return x

        super().__init__(pack, lambda x: x)

    @property
    def total(self) -> int:
        return sum(self.storages.values())


def run_blocks(
    blocks: nn.ModuleList, stream: Tensor, recompute: bool
) -> tuple[Tensor, int]:
    """The stream after some blocks, and the bytes that autograd has saved.

    Args:
        recompute: keep the stream before the first block only, and compute the
            rest again in the backward.
    """

    def all_of_them(stream: Tensor) -> Tensor:
        for block in blocks:
            stream = block(stream)
        return stream

    saved = SavedBytes(blocks.parameters())
    with saved:
        if recompute:
            # The reentrant kind hands its input to autograd, where it is counted;
            # the other one hides it in a closure.
            out: Tensor = checkpoint(all_of_them, stream, use_reentrant=True)
        else:
            out = all_of_them(stream)
    return out, saved.total


def pipeline_step(
    arm: str,
    config: GPTConfig,
    tokens_BT: Tensor,
    targets_BT: Tensor,
    dist: Any,
    recompute: bool = False,
) -> Step:
    """Forward and backward of a GPT whose halves live on ranks 0 and 1.

    Rank 0 sends the stream and gets its gradient back; nothing else crosses.

    Args:
        arm: a residual of arms.py.
        dist: `torch.distributed`, with a process group of two.
    """
    torch.manual_seed(0)  # both ranks build the same model, and use half of it
    model = GPT(config, residual=residual_of(arm))
    half = config.n_layers // 2
    expand = model.blocks[0].attention_residual.expand
    if dist.get_rank() == 0:
        mine = model.blocks[:half]
        out, saved = run_blocks(
            mine, expand(model.embedding(tokens_BT)), recompute
        )
        dist.send(out.detach().contiguous(), 1)
        gradient = torch.empty_like(out)
        dist.recv(gradient, 1)
        out.backward(gradient)
        loss = None
    else:
        mine = model.blocks[half:]
        stream = torch.empty_like(expand(model.embedding(tokens_BT))).detach()
        dist.recv(stream, 0)
        stream.requires_grad_()
        out, saved = run_blocks(mine, stream, recompute)
        last: Any = model.blocks[-1]
        logits_BTV = model.head(model.norm(last.ffn_residual.collapse(out)))
        value = nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten()
        )
        value.backward()
        assert stream.grad is not None
        dist.send(stream.grad, 0)
        loss = value.item()
    gradients = [
        p.grad.flatten() for p in mine[0].parameters() if p.grad is not None
    ]
    size = out.numel() * out.element_size()
    return Step(loss, size, saved, torch.cat(gradients))
