"""Tensor parallelism: the matrices of a block cut over ranks.

    column-parallel   y_r = x W_r^T, W_r some rows of W: each rank makes some outputs
    row-parallel      y = sum_r x_r W_r^T, W_r some columns: outputs are summed

A column-parallel layer followed by a row-parallel one needs no message in between.
Attention and feed-forward layer are such pairs; so a block sums twice in the forward
(after its row-parallel layers) and twice in the backward (before its column-parallel
ones). Norms, embedding and output layer are the same on all ranks.

Source: Megatron-LM, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)


def block_plan() -> dict[str, ParallelStyle]:
    """What happens to which layer of a block.

    Three layers read the attention's input, two the feed-forward layer's. It becomes
    a DTensor once, in front of them: in the backward their gradients are then added
    up before they are summed over ranks, in one message and not in three.
    """
    column, row = ColwiseParallel, RowwiseParallel
    return {
        "attention.qkv": _the_same_on_all(),
        "attention.qkv.q": column(),
        "attention.qkv.k": column(),
        "attention.qkv.v": column(),
        "attention.out": row(),
        "ffn": _the_same_on_all(),
        "ffn.gate": column(),
        "ffn.up": column(),
        "ffn.down": row(),
    }


def _the_same_on_all() -> PrepareModuleInput:
    return PrepareModuleInput(
        input_layouts=Replicate(), desired_input_layouts=Replicate()
    )


def cut_block(block: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a block in place.

    Args:
        block: with three matrices for queries, keys and values (heads.py).
        mesh: one axis; its size divides heads and FFN width.
    """
    parallelize_module(block, mesh, block_plan())
