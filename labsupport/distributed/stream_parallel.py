"""Streams on ranks: each computes some of a ParScale model's streams, for all texts.

Of the axes along which a model can be cut this one is ParScale's own. Every rank holds
all weights and reads the whole batch, but runs P / W streams of it. What the streams
say is gathered once, before they are aggregated:

    rank r:  streams r P/W .. (r+1) P/W   --all_gather-->   all P, on every rank

From there on all ranks compute the same: aggregator, output layer, loss. A rank sends
(W - 1) P/W B T D numbers a step, in one message round; gradients then meet as in data
parallelism. Nothing that is computed changes: the sum over streams is only made of
parts that lie elsewhere.

Shape suffixes: P streams, p = P / W of them on this rank, B sequences, T tokens, D
width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from labsupport.errors import LabError
from labsupport.nn import ParScale


class GatherStreams(torch.autograd.Function):
    """All streams on every rank; in the backward each rank takes its own back.

    Behind the gathering all ranks compute the same loss, so each has the whole gradient
    of its streams already, and nothing needs to travel. It is multiplied by W, so that
    the *mean* over ranks, which leaves what all computed alike as it is, makes a sum of
    what each computed a part of.
    """

    @staticmethod
    def forward(ctx: Any, x_pBTD: Tensor, dist: Any) -> Tensor:
        ctx.dist = dist
        W = dist.get_world_size()
        x_PBTD = x_pBTD.new_empty(W * len(x_pBTD), *x_pBTD.shape[1:])
        dist.all_gather_single(x_PBTD, x_pBTD.contiguous())
        return x_PBTD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (dx_PBTD,) = grads
        W, rank = ctx.dist.get_world_size(), ctx.dist.get_rank()
        return W * dx_PBTD.chunk(W)[rank], None


def gather_streams(x_pBTD: Tensor, dist: Any) -> Tensor:
    """x_PBTD of all ranks' streams, in the order of ranks; differentiable."""
    gathered: Tensor = GatherStreams.apply(x_pBTD, dist)
    return gathered


def place_streams(model: ParScale, dist: Any) -> None:
    """From now on this rank computes its P / W streams only; every rank calls this.

    Args:
        model: the same on all ranks; changed in place.
        dist: `torch.distributed`, with a process group.

    Raises:
        LabError: ranks that do not divide the streams.
    """
    W, rank = dist.get_world_size(), dist.get_rank()
    if model.streams % W:
        raise LabError(
            f"{model.streams} streams cannot be spread evenly over {W} ranks: use a "
            f"multiple of {W}."
        )
    p = model.streams // W
    model.compute_only(slice(rank * p, (rank + 1) * p))
    model.gather = partial(gather_streams, dist=dist)


def average_gradients(model: nn.Module, dist: Any) -> None:
    """Replace every gradient by its mean over ranks: one message, as in DDP.

    A prefix of another rank's stream has no gradient here, or zeros: the mean counts it
    as that.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    for p in weights:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradient_N = parameters_to_vector(p.grad for p in weights if p.grad is not None)
    dist.all_reduce(gradient_N)
    gradient_N /= dist.get_world_size()
    sizes = [p.numel() for p in weights]
    for p, part in zip(weights, gradient_N.split(sizes), strict=True):
        p.grad = part.view_as(p).clone()
