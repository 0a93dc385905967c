"""Experts spread over ranks: tokens travel to their experts and back.

Each rank holds E / W experts of its own, and the whole router. Rows are sorted by
expert, so the rows for one rank are neighbours, and one all_to_all carries them.
How many a rank sends depends on the router: the pieces are uneven, and their sizes
have to travel first.

What a row looks like on the way is a `Wire`'s business. There are two ways and two
passes, and a `Carry` has one wire for each way:

                 to the experts                 from the experts
    forward      rows, before the experts       what they made of them
    backward     gradients of what they made    gradients of the rows

Shape suffixes: N tokens of this rank, E experts, W ranks, L = E / W experts of this
rank, K experts of a token, D width, R = N K rows that leave, Q rows that arrive.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from labsupport.errors import LabError
from labsupport.nn import GPTConfig, MixtureOfExperts
from labsupport.nn.moe_balance import sign_update


class Wire(Protocol):
    """What rows are while they travel."""

    def pack(self, x_RD: Tensor) -> Sequence[Tensor]:
        """What is sent in their place: tensors of R rows each."""

    def unpack(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Rows of this dtype from what arrives, packed by several ranks."""


@dataclass(frozen=True)
class AsIs:
    """Rows travel in their own dtype."""

    def pack(self, x_RD: Tensor) -> Sequence[Tensor]:
        return (x_RD,)

    def unpack(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        return parts[0]


@dataclass(frozen=True)
class Carry:
    """How rows travel, each way; gradients travel the same ways in the backward."""

    to_experts: Wire = AsIs()
    from_experts: Wire = AsIs()


PLAIN = Carry()


def exchange(
    x_RD: Tensor, sent: list[int], received: list[int], dist: Any, wire: Wire
) -> Tensor:
    """Send the first `sent[0]` rows to rank 0, and so on; returns what arrives.

    Args:
        sent, received: rows to and from each rank.
        dist: `torch.distributed`, with a process group.
        wire: what the rows are on the way.
    """
    arrived = []
    for part in wire.pack(x_RD):
        out = part.new_empty(sum(received), *part.shape[1:])
        dist.all_to_all_single(out, part.contiguous(), received, sent)
        arrived.append(out)
    return wire.unpack(arrived, x_RD.dtype)


class Exchange(torch.autograd.Function):
    """`exchange`, and in the backward the same for gradients, the other way."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        sent: list[int],
        received: list[int],
        dist: Any,
        there: Wire,
        back: Wire,
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.dist, ctx.back = sent, received, dist, back
        return exchange(x, sent, received, dist, there)

    @staticmethod
    def backward(
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, None, None, None, None, None]:
        (dy,) = grads
        dx = exchange(dy, ctx.received, ctx.sent, ctx.dist, ctx.back)
        return dx, None, None, None, None, None


class ExpertParallel:
    """A `dispatch` for a layer whose experts live on several ranks.

    Args:
        experts: E, of all ranks together.
        dist: `torch.distributed`, with a process group.
        carry: what rows are on the way.

    Attributes:
        sent, received: rows to and from each rank, this one included, at the last
            call.

    Raises:
        LabError: ranks that do not divide the experts.
    """

    def __init__(self, experts: int, dist: Any, carry: Carry = PLAIN) -> None:
        self.world = dist.get_world_size()
        if experts % self.world:
            raise LabError(
                f"{experts} experts cannot be spread evenly over {self.world} ranks: "
                f"use a multiple of {self.world}."
            )
        self.experts, self.dist, self.carry = experts, dist, carry
        self.sent: list[int] = []
        self.received: list[int] = []

    @property
    def rows(self) -> int:
        """How many rows this rank's experts had to work on."""
        return sum(self.received)

    def __call__(
        self, x_ND: Tensor, index_NK: Tensor, weight_NK: Tensor, experts: Any
    ) -> Tensor:
        """As in one process (exercise 2.3), with the way to other ranks in between."""
        K = index_NK.shape[1]
        expert_R = index_NK.flatten()
        order_R = torch.argsort(expert_R, stable=True)
        count_WL = torch.bincount(expert_R, minlength=self.experts)
        count_WL = count_WL.view(self.world, -1)
        # Row w of the answer: how many rows rank w has for each of my experts.
        arriving_WL = torch.empty_like(count_WL)
        self.dist.all_to_all_single(arriving_WL, count_WL)
        self.sent = sent = count_WL.sum(1).tolist()
        self.received = received = arriving_WL.sum(1).tolist()
        to, back = self.carry.to_experts, self.carry.from_experts
        x_RD = x_ND[order_R // K]
        x_QD = Exchange.apply(x_RD, sent, received, self.dist, to, back)

        # They lie by sender, then by expert; an expert wants its own together.
        L = count_WL.shape[1]
        local_L = torch.arange(L, device=x_ND.device)
        expert_Q = local_L.repeat(self.world).repeat_interleave(arriving_WL.flatten())
        order_Q = torch.argsort(expert_Q, stable=True)
        made_QD = experts(x_QD[order_Q], expert_Q[order_Q])
        by_sender_QD = torch.empty_like(made_QD)
        by_sender_QD[order_Q] = made_QD

        made_RD = Exchange.apply(by_sender_QD, received, sent, self.dist, back, to)
        back_RD = torch.empty_like(made_RD)
        back_RD[order_R] = made_RD
        return (weight_NK[:, :, None] * back_RD.view(-1, K, x_ND.shape[1])).sum(1)


def share_of(
    whole: MixtureOfExperts, dist: Any, carry: Carry = PLAIN
) -> MixtureOfExperts:
    """This rank's share of a mixture: the router, its own experts, no others."""
    layer = copy.deepcopy(whole)
    layer.dispatch = ExpertParallel(whole.experts, dist, carry)
    L = whole.experts // dist.get_world_size()
    mine = slice(dist.get_rank() * L, (dist.get_rank() + 1) * L)
    for name in ("gate_up_ED2H", "down_EHD"):
        setattr(
            layer,
            name,
            nn.Parameter(getattr(whole, name).detach()[mine].clone()),
        )
    return layer


@dataclass(frozen=True)
class Compared:
    """How far one rank's step is from the same step in one process.

    Attributes:
        output: largest difference of what its tokens become.
        expert_gradient, router_gradient: of the gradients of its own experts, and
            of the router, summed over ranks.
        same_bias: whether the biases are the ones of one process after an update.
        rows: rows that its experts worked on.
    """

    output: float
    expert_gradient: float
    router_gradient: float
    same_bias: bool
    rows: int


def compare_with_one_process(dist: Any, tokens: int = 64, seed: int = 0) -> Compared:
    """One step of a mixture on all ranks, held against the whole one.

    Every rank makes the whole mixture and all tokens from the seed, works on its
    share of both, and compares.

    Args:
        tokens: of each rank.
    """
    torch.manual_seed(seed)
    config = GPTConfig(d_model=16, n_layers=1, n_heads=1)
    whole = MixtureOfExperts(config, experts=8, top_k=2, shared=0, d_expert=16)
    rank, world = dist.get_rank(), dist.get_world_size()
    x_ND = torch.randn(world * tokens, 16)
    dy_ND = torch.randn(world * tokens, 16)
    mine = slice(rank * tokens, (rank + 1) * tokens)
    layer = share_of(whole, dist)

    wanted_ND = whole(x_ND[None])[0]
    wanted_ND.backward(dy_ND)
    y_ND = layer(x_ND[mine][None])[0]
    y_ND.backward(dy_ND[mine])
    # All ranks have the router, each saw its own tokens: sum, as for any weight
    # that is held by several. Counts likewise, before the sign is taken.
    assert layer.router_ED.grad is not None and whole.router_ED.grad is not None
    dist.all_reduce(layer.router_ED.grad)
    dist.all_reduce(layer.count_E)
    for each in (whole, layer):
        each.bias_E.copy_(sign_update(each.bias_E, each.count_E, 0.001))

    L = len(layer.down_EHD)
    assert whole.down_EHD.grad is not None and layer.down_EHD.grad is not None
    own = whole.down_EHD.grad[rank * L : (rank + 1) * L]
    return Compared(
        output=_gap(y_ND, wanted_ND[mine]),
        expert_gradient=_gap(layer.down_EHD.grad, own),
        router_gradient=_gap(layer.router_ED.grad, whole.router_ED.grad),
        same_bias=torch.equal(layer.bias_E, whole.bias_E),
        rows=layer.dispatch.rows,  # type: ignore[union-attr]
    )


def _gap(a: Tensor, b: Tensor) -> float:
    return (a - b).detach().abs().max().item()
