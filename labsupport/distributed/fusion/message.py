"""Several tensors in one message: a collective costs time, however little it moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.distributed.collectives import RULES


def pack(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """All numbers of some tensors in a row, as what travels."""
    return torch.cat([part.reshape(-1).to(dtype) for part in parts])


def unpack(message: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The tensors of a message, in float32, each with the shape of its model."""
    sizes = [part.numel() for part in like]
    pieces = message.float().split(sizes)
    return [piece.view(part.shape) for piece, part in zip(pieces, like, strict=True)]


def all_finite(parts: Iterable[Tensor]) -> bool:
    """Whether no number is NaN or infinite.

    A sum says so in one pass: NaN and infinity stay in it. It may overflow by itself;
    only then every number is looked at, which takes many times as long.
    """
    return all(
        bool(part.sum().isfinite()) or bool(part.isfinite().all()) for part in parts
    )


def all_reduce_bytes(numbers: int, dtype: torch.dtype, W: int) -> float:
    """What each of W workers sends for an all-reduce: 2 (W - 1) / W times the bytes."""
    return RULES["all_reduce"].sent(dtype.itemsize * numbers, W, False)


def all_reduce_mean(
    parts: Sequence[Tensor], dtype: torch.dtype, dist: Any, group: Any = None
) -> tuple[list[Tensor], list[Tensor]]:
    """The workers' mean of some tensors, in one message.

    Args:
        parts: this worker's tensors.
        dtype: of what travels; partial sums are rounded to it, too.
        dist: `torch.distributed`.
        group: the process group; None is all ranks.

    Returns:
        What this worker contributed, as it was rounded, and the mean of all workers:
        in float32, and the same bits on every rank.
    """
    message = pack(parts, dtype)
    mine = unpack(message, parts)
    if dtype == torch.float32:  # float() made no copy
        message = message.clone()
    dist.all_reduce(message, group=group)
    total = message.float().div_(dist.get_world_size(group))
    return mine, unpack(total, parts)
