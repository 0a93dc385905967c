"""The ranks as a grid with one axis for each way to share."""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from labsupport.distributed.parallel.layout import AXES, Layout
from labsupport.errors import LabError


def build_mesh(layout: Layout, device_type: str = "cpu") -> DeviceMesh:
    """The grid of a layout; all ranks call this.

    Args:
        layout: all axes become axes of the grid, those of one rank too.
        device_type: "cpu" or "cuda", where tensors live.

    Raises:
        LabError: a process group of another size, or none.
    """
    if not dist.is_initialized():
        raise LabError("There is no process group: call dist.init_process_group first.")
    if dist.get_world_size() != layout.world:
        raise LabError(
            f"{layout} needs {layout.world} ranks and there are "
            f"{dist.get_world_size()}."
        )
    sizes = tuple(layout.size(axis) for axis in AXES)
    return init_device_mesh(device_type, sizes, mesh_dim_names=AXES)


def data_index(mesh: DeviceMesh) -> int:
    """Which of the D parts of a batch this rank computes."""
    index = 0
    for axis in ("replicate", "expert", "shard"):
        index = index * mesh[axis].size() + mesh.get_local_rank(axis)
    return index
