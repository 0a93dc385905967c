"""Gradients are added over ranks in FP8, in two ways.

Rows that travel are rounded once. A sum over W ranks is another matter:

    ring   every rank adds its own codes to a partial sum, and passes that on
           in FP8: W roundings, one after the other
    once   every rank sends its codes to the owner of the chunk, who adds them
           in float32; the sum goes back in FP8: 2 roundings, whatever W is
           (1, where only the owner needs the sum, as in ZeRO)

Both send the same bytes. E4M3 keeps 3 bits of a mantissa, so a partial sum of
16 takes no 1 any more: 17 lies between 16 and 18, and is rounded to 16. A ring
of 64 ranks that all hold 1 ends at 16.

The scale is the other choice. Codes of one scale can be added as they are, but
then that scale has to cover the sum, W times the largest number of any rank,
and each doubling of W takes one bit from the smallest ones. (FP8-LM, arXiv
2310.18313, section 2.1, reduces gradients in FP8 with one scale for all ranks.
DeepSeek-V3, arXiv 2412.19437, section 3.3.3, keeps gradients in float32.) A
scale for each tile travels along, and only has to cover its tile.

Scales are powers of two, so that scaling itself rounds nothing.

Shape suffixes: W ranks or chunks, R rows, C = R / W rows of a chunk, D = 128
numbers of a row, which is one tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.float8 import cast
from kernels.fp8_scaling import TILE, scale_of
from labs.lab_03.wire import (
    PLANS,
    BF16Wire,
    FP8Wire,
    make_model,
    relative_error,
    through,
    train_carried,
)
from labsupport.distributed.expert_parallel import Wire, exchange
from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus


@dataclass(frozen=True)
class SharedScaleWire:
    """Rows travel in E4M3 without a scale, because all ranks know it."""

    scale: Tensor

    def pack(self, x_RD: Tensor) -> Sequence[Tensor]:
        return (cast(x_RD / self.scale).view(torch.uint8),)

    def unpack(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        code_RD = parts[0].view(torch.float8_e4m3fn)
        return (code_RD.float() * self.scale).to(dtype)


@dataclass(frozen=True)
class Way:
    """A way to add gradients over ranks.

    Attributes:
        scale: "tile", "shared", or "none" for bfloat16.
        ring: whether partial sums travel.
    """

    scale: str
    ring: bool


WAYS = {
    "bf16_ring": Way("none", ring=True),
    "fp8_shared_ring": Way("shared", ring=True),
    "fp8_shared_once": Way("shared", ring=False),
    "fp8_tile_ring": Way("tile", ring=True),
    "fp8_tile_once": Way("tile", ring=False),
}


def way_of(name: str) -> Way:
    """One of WAYS.

    Raises:
        LabError: an unknown name.
    """
    if name not in WAYS:
        raise LabError(f"way={name!r}: choose one of {', '.join(WAYS)}.")
    return WAYS[name]


def wire_of(way: Way, largest: Tensor, ranks: int) -> Wire:
    """What gradients are on their way.

    Args:
        largest: of all numbers of all ranks; only a shared scale needs it.
    """
    if way.scale == "shared":
        # All ranks may have their largest number in the same place.
        return SharedScaleWire(scale_of(ranks * largest, power_of_two=True))
    return FP8Wire(TILE) if way.scale == "tile" else BF16Wire()


# --- on ranks ---------------------------------------------------------------


def all_reduce(name: str, x_RD: Tensor, dist: Any) -> Tensor:
    """The sum over all ranks, in one of WAYS.

    Args:
        x_RD: this rank's gradient; W divides R.
        dist: `torch.distributed`, with a process group.
    """
    way, W = way_of(name), dist.get_world_size()
    largest = x_RD.abs().amax()
    if way.scale == "shared":
        largest_W = largest.new_empty(W)
        dist.all_gather_single(largest_W, largest[None])
        largest = largest_W.amax()
    wire = wire_of(way, largest, W)
    x_WCD = through(wire, x_RD).unflatten(0, (W, -1))
    if not way.ring:
        return gather(once(x_WCD, wire, dist), wire, dist)
    total_WCD = gather(ring(x_WCD, wire, dist), wire, dist).unflatten(
        0, (W, -1)
    )
    return total_WCD.roll(1, dims=0).flatten(0, 1)  # chunk 1 came first


def ring(x_WCD: Tensor, wire: Wire, dist: Any) -> Tensor:
    """The sum of chunk `rank + 1`: its partial sums have come around the ring.

    A hop is an all_to_all with a single piece, to the next rank: the same on
    gloo, on NCCL and on practice ranks.
    """
    rank, W, C = dist.get_rank(), *x_WCD.shape[:2]
    to_next = [C * (to == (rank + 1) % W) for to in range(W)]
    from_last = [C * (source == (rank - 1) % W) for source in range(W)]
    total_CD = x_WCD[rank]
    for step in range(1, W):
        arrived_CD = exchange(total_CD, to_next, from_last, dist, wire)
        total_CD = arrived_CD + x_WCD[(rank - step) % W]
    return total_CD


def once(x_WCD: Tensor, wire: Wire, dist: Any) -> Tensor:
    """The sum of chunk `rank`: everyone sends its part of it, then it adds."""
    W, C = x_WCD.shape[:2]
    even = [C] * W
    arrived_RD = exchange(x_WCD.flatten(0, 1), even, even, dist, wire)
    return arrived_RD.unflatten(0, (W, C)).sum(0)


def gather(total_CD: Tensor, wire: Wire, dist: Any) -> Tensor:
    """The sums of all ranks, one below the other."""
    parts = []
    for part in wire.pack(total_CD):
        every = part.new_empty(
            dist.get_world_size() * len(part), part.shape[1]
        )
        dist.all_gather_single(every, part)
        parts.append(every)
    return wire.unpack(parts, total_CD.dtype)


# --- in one process, for any number of ranks --------------------------------


def reduce_here(name: str, x_WRD: Tensor) -> Tensor:
    """What `all_reduce` gives each of W ranks, to the bit."""
    way, W = way_of(name), len(x_WRD)
    wire = wire_of(way, x_WRD.abs().amax(), W)
    own_WRD = through(wire, x_WRD.flatten(0, 1)).view_as(x_WRD)
    chunk_WWCD = own_WRD.unflatten(1, (W, -1))  # ranks, then chunks
    if not way.ring:
        total_WCD = chunk_WWCD.sum(0)
        return through(wire, total_WCD.flatten(0, 1))
    # Chunk c begins at rank c.
    c = torch.arange(W, device=x_WRD.device)
    total_RD = chunk_WWCD[c, c].flatten(0, 1)
    for step in range(1, W):
        add_RD = chunk_WWCD[(c + step) % W, c].flatten(0, 1)
        total_RD = through(wire, total_RD) + add_RD
    return through(wire, total_RD)


def flushed(name: str, x_WRD: Tensor) -> float:
    """The share of all ranks' numbers that are not 0, and whose code is."""
    wire = wire_of(way_of(name), x_WRD.abs().amax(), len(x_WRD))
    x_RD = x_WRD.flatten(0, 1)
    some_RD = x_RD != 0
    lost_RD = some_RD & (through(wire, x_RD) == 0)
    return (lost_RD.sum() / some_RD.sum()).item()


# --- gradients to add -------------------------------------------------------


def gradient_rows(
    model: GPT, scale: Scale, seed: int, batch: int, ranks: int
) -> Tensor:
    """All gradients of one batch, end to end, in rows of 128: x_RD.

    Zeros are added at the end so that the ranks divide the rows.
    """
    plan = PLANS[scale].plan
    tokens_BT, targets_BT = Corpus.load().batch(
        "train",
        10_000 + batch,  # a step that no training here gets to
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
    )
    device = next(model.parameters()).device
    model.zero_grad()
    model.loss(tokens_BT.to(device), targets_BT.to(device)).backward()
    flat = torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    )
    return F.pad(flat, (0, -len(flat) % (ranks * TILE))).view(-1, TILE)


def my_gradient(
    dist: Any, device: torch.device | str = "cpu", seed: int = 0
) -> Tensor:
    """This rank's gradient, of its own batch: a small model, untrained."""
    torch.manual_seed(seed)
    model = make_model("float32", "ci").to(device)
    rank, W = dist.get_rank(), dist.get_world_size()
    return gradient_rows(model, "ci", seed, rank, W)


@lru_cache(maxsize=1)
def trained_model(seed: int, scale: Scale) -> Any:
    return train_carried("float32", seed, scale).model


@lru_cache(maxsize=1)
def gradients(seed: int, scale: Scale, ranks: int) -> Tensor:
    """x_WRD: each rank's gradient, of a batch of its own, after a training."""
    model = trained_model(seed, scale)
    rows = [gradient_rows(model, scale, seed, w, ranks) for w in range(ranks)]
    return torch.stack(rows)


def reduce_row(
    arm: str, seed: int, scale: Scale, *, ranks: int
) -> dict[str, Any]:
    """The gradients of so many ranks, added in one of WAYS.

    Returns:
        error: relative error of the sum, against float64.
        flushed: share of the ranks' numbers that their scale makes 0.
    """
    x_WRD = gradients(seed, scale, ranks)
    error = relative_error(reduce_here(arm, x_WRD), x_WRD.double().sum(0))
    return {
        "error": float(f"{error:.4g}"),
        "flushed": float(f"{flushed(arm, x_WRD):.4g}"),
    }
