"""What a collective gives to each practice rank, once all have arrived."""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.exercise.check import CheckFailed
from labsupport.exercise.practice.request import Request, quote

COLLECTIVES = (
    "all_reduce",
    "all_gather_into_tensor",
    "all_gather_single",
    "reduce_scatter_tensor",
    "reduce_scatter_single",
    "all_to_all_single",
)


def run_collective(calls: list[Request]) -> None:
    """Fill the output of every rank.

    Args:
        calls: one for each rank, in order.

    Raises:
        CheckFailed: ranks met in different collectives, or sizes do not fit.
    """
    if len({call.call for call in calls}) > 1:
        each = ", ".join(f"rank {call.rank} in {call.call}" for call in calls)
        raise CheckFailed("every rank in the same collective", each)
    outputs = [_output(calls, rank) for rank in range(len(calls))]
    for call, value in zip(calls, outputs, strict=True):
        if value.numel() != call.tensor.numel():
            raise CheckFailed(
                f"an output of {value.numel()} numbers from {call.call}",
                f"one of {call.tensor.numel()} on rank {call.rank}{quote([call.line])}",
            )
        with torch.no_grad():  # as in torch.distributed, autograd sees no collective
            call.tensor.copy_(value.view_as(call.tensor))
        call.done, call.round = True, max(c.clock for c in calls) + 1


def _output(calls: list[Request], rank: int) -> Tensor:
    if calls[0].call == "all_to_all_single":
        return torch.cat([_piece(call, calls[rank]) for call in calls])
    inputs = [call.content.flatten() for call in calls]
    if calls[0].call in ("all_gather_into_tensor", "all_gather_single"):
        return torch.cat(inputs)
    total = torch.stack(inputs).sum(0)
    if calls[0].call in ("reduce_scatter_tensor", "reduce_scatter_single"):
        return total.chunk(len(calls))[rank]
    return total


def _piece(source: Request, to: Request) -> Tensor:
    """The rows of an all-to-all that go from one rank to another."""
    sent = _sizes(source, "input")
    expected = _sizes(to, "output")[source.rank]
    if sent[to.rank] != expected:
        raise CheckFailed(
            "every rank to expect as many rows as come",
            f"rank {source.rank}, which sends {sent[to.rank]} to rank {to.rank}, "
            f"and rank {to.rank}, which expects {expected}{quote([to.line])}",
        )
    return source.content.split(sent)[to.rank]


def _sizes(call: Request, side: str) -> list[int]:
    """How many rows of a rank's input or output belong to each rank."""
    world = call.owner.get_world_size()
    given, rows = call.splits[1], len(call.content)
    if side == "output":
        given, rows = call.splits[0], len(call.tensor)
    sizes = [rows // world] * world if given is None else list(given)
    if len(sizes) != world or sum(sizes) != rows:
        came = f"{sizes} on rank {call.rank}"
        if given is None:
            came = f"none on rank {call.rank}, and {rows} / {world} is no whole number"
        raise CheckFailed(
            f"{world} {side} split sizes whose sum is the {rows} rows of the {side}",
            came + quote([call.line]),
        )
    return sizes
