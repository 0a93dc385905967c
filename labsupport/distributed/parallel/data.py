"""Data parallelism: what each rank keeps of the weights that all train.

    DDP     each rank has all weights. Gradients are summed in buckets, each as soon
            as the backward has filled it.
    FSDP2   each rank has 1/N of every weight, gradient and optimizer state. A block's
            weights are gathered right before they are needed, its gradients are
            summed and scattered right after. That is ZeRO-3 (arXiv 1910.02054).
    HSDP    copies of such groups: gradients are then summed over the copies, too.

DDP takes a whole model and a whole backward. Copies of anything else (a cut block, a
stage whose backward is split) are FSDP2's too, in groups of one.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from labsupport.distributed.parallel.layout import Layout


def uses_ddp(layout: Layout) -> bool:
    """Whether the layout is copies of a whole dense model, and nothing else."""
    return layout.replicate == layout.world > 1


def spread(
    part: nn.Module, layout: Layout, mesh: DeviceMesh, bucket_cap_mb: float | None
) -> nn.Module:
    """Wrap what this rank has of the model, a GPT or a stage.

    Args:
        part: the module, cut by tensor parallelism already.
        layout: how many copies and shards.
        mesh: the grid of the layout.
        bucket_cap_mb: the size of DDP's buckets in MiB; None for torch's own, 25 MiB,
            and 1 MiB for the first.
    """
    if layout.replicate * layout.shard == 1:
        return part
    if uses_ddp(layout):
        # Buffers are tables that never change: they need not be sent every step.
        return DistributedDataParallel(
            part,
            process_group=mesh.get_group("replicate"),
            bucket_cap_mb=bucket_cap_mb,
            forward_sync_buffers=False,
        )
    over = mesh["replicate", "shard"] if layout.replicate > 1 else mesh["shard"]
    blocks = part.blocks
    assert isinstance(blocks, nn.ModuleList | nn.ModuleDict)
    each = blocks.values() if isinstance(blocks, nn.ModuleDict) else blocks
    # In a group of one nothing is gathered, so nothing is to be given back; torch
    # would do it all the same, and a backward that is split would then lose the
    # gradients of the weights that it still holds (seen with torch 2.13).
    reshard = layout.reshard and layout.shard > 1
    # A unit is what is gathered at once: every block, then what is left.
    for unit in (*each, part):
        fully_shard(unit, mesh=over, reshard_after_forward=reshard)
    return part
