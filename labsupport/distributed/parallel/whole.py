"""Tensors of one process, put together from what the ranks of a layout have."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate


def local(x: Tensor) -> Tensor:
    """The numbers that this rank holds of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def pieces(x: Tensor) -> int:
    """Into how many different parts a tensor is cut over the ranks of its stage."""
    if not isinstance(x, DTensor):
        return 1
    count = 1
    for axis, placement in enumerate(x.placements):
        if not isinstance(placement, Replicate):
            count *= x.device_mesh.size(axis)
    return count


@torch.no_grad()
def put_together(
    held: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], mesh: DeviceMesh
) -> dict[str, Tensor]:
    """Whole tensors on every rank; all ranks call this.

    Args:
        held: what this rank has, whole or as DTensors; its own stages' alone.
        shapes: of the whole tensors of the whole model, in the same order everywhere.
        mesh: the grid of the layout.
    """
    like = local(next(iter(held.values())))
    whole = {}
    with no_word_about_order():
        for name, shape in shapes.items():
            x = held.get(name)
            if x is None:  # another stage's
                x = like.new_zeros(shape)
            elif isinstance(x, DTensor):
                x = x.full_tensor()
            else:
                x = x.clone()
            if mesh["pipeline"].size() > 1:
                dist.all_reduce(x, group=mesh.get_group("pipeline"))
            whole[name] = x
    return whole


@contextmanager
def no_word_about_order() -> Iterator[None]:
    """Keep torch from warning that what is cut twice is gathered in two steps."""
    logger = logging.getLogger("torch.distributed.tensor._redistribute")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
