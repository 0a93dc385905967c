"""Our solutions of the processes primer.

Every function with `dist` as its last argument is called on every rank, with
torch.distributed itself or with practice ranks.

Shape suffixes: N numbers or rows of one rank, W ranks, D columns, M rows that
arrive, S message sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def my_share(items: int, rank: int, world: int) -> tuple[int, int]:
    """The items of one rank, `first` up to and without `after`.

    The first `items % world` ranks get one more than the others.
    """
    each, left_over = divmod(items, world)
    first = rank * each + min(rank, left_over)
    return first, first + each + (rank < left_over)


def swap(x_N: Tensor, dist: Any) -> Tensor:
    """What the other of two ranks has as its x_N."""
    y_N = torch.empty_like(x_N)
    if dist.get_rank() == 0:
        dist.send(x_N, 1)
        dist.recv(y_N, 1)
    else:
        dist.recv(y_N, 0)
        dist.send(x_N, 0)
    return y_N


def shift(x_N: Tensor, dist: Any) -> Tensor:
    """Send x_N to the right, return what comes from the left."""
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    sending = dist.isend(x_N, (rank + 1) % W)
    receiving = dist.irecv(y_N, (rank - 1) % W)
    for request in (sending, receiving):
        request.wait()
    return y_N


def ring_all_reduce(x_N: Tensor, dist: Any) -> Tensor:
    """Sum x_N over all ranks, in place; N is a multiple of W."""
    rank, W = dist.get_rank(), dist.get_world_size()
    chunks = x_N.view(W, -1)
    for step in range(W - 1):
        arrived = shift(chunks[(rank - step) % W], dist)
        chunks[(rank - step - 1) % W] += arrived
    for step in range(W - 1):
        arrived = shift(chunks[(rank + 1 - step) % W], dist)
        chunks[(rank - step) % W] = arrived
    return x_N


def star_all_reduce(x_N: Tensor, dist: Any) -> Tensor:
    """The plain way, to compare with: rank 0 adds up and sends the sum back."""
    rank, W = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        for source in range(1, W):
            y_N = torch.empty_like(x_N)
            dist.recv(y_N, source)
            x_N += y_N
        for to in range(1, W):
            dist.send(x_N, to)
    else:
        dist.send(x_N, 0)
        dist.recv(x_N, 0)
    return x_N


def dispatch(x_ND: Tensor, owner_N: Tensor, dist: Any) -> Tensor:
    """Send row n to rank owner_N[n]; return the rows that arrive, x_MD."""
    order_N = owner_N.argsort(stable=True)
    to_W = owner_N.bincount(minlength=dist.get_world_size())
    from_W = torch.empty_like(to_W)
    dist.all_to_all_single(from_W, to_W)
    x_MD = x_ND.new_empty(int(from_W.sum()), x_ND.shape[1])
    dist.all_to_all_single(x_MD, x_ND[order_N], from_W.tolist(), to_W.tolist())
    return x_MD


def fit_cost(mb_S: Tensor, ms_S: Tensor) -> tuple[float, float]:
    """Latency in ms and bandwidth in MB/ms of T = latency + n / bandwidth.

    Least squares of the relative errors: each equation is divided by its T.
    """
    ones_S = torch.ones_like(ms_S)
    a_S2 = torch.stack([ones_S, mb_S], dim=1) / ms_S[:, None]
    latency, inverse = torch.linalg.lstsq(a_S2, ones_S[:, None]).solution[:, 0]
    return latency.item(), 1 / inverse.item()


def collective(name: str, x_N: Tensor, dist: Any) -> Tensor:
    """What a collective gives this rank; N is a multiple of W."""
    W = dist.get_world_size()
    if name == "all_reduce":
        y_N = x_N.clone()
        dist.all_reduce(y_N)
        return y_N
    if name == "all_gather":
        y = x_N.new_empty(W * x_N.numel())
        dist.all_gather_into_tensor(y, x_N)
    elif name == "reduce_scatter":
        y = x_N.new_empty(x_N.numel() // W)
        dist.reduce_scatter_tensor(y, x_N)
    else:
        y = torch.empty_like(x_N)
        dist.all_to_all_single(y, x_N)
    return y
