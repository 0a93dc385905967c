"""Rows travel to their experts in FP8.

DeepSeek-V3 (arXiv 2412.19437, section 3.3.3) sends in FP8 what goes *to* the
experts, and in bfloat16 what comes *from* them, in the forward and in the
backward:

               to the experts: FP8            from the experts: bfloat16
    forward    rows, before up-projections    what the experts made of them
    backward   gradients of what they made    gradients of the rows

With one scale for T numbers of a row of D, a row is D + 4 ceil(D / T) bytes
on its way to the experts, instead of 2 D: 0.52 times as many at T = 128.
Both ways together are 0.76 times as many, whatever the router does.

Scales are powers of two, as in V3, and travel as float32. An exponent alone
would do, and be one byte.

Shape suffixes: N tokens, E experts, K experts of a token, D width, R = N K
rows, J tiles of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.fp8_scaling import (
    TILE,
    dequantise_reference,
    quantise_reference,
)
from labsupport.distributed.expert_parallel import (
    PLAIN,
    Carry,
    Wire,
    share_of,
)
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig, MixtureOfExperts
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.corpus import Corpus
from labsupport.train import Plan, Run, mean_loss, train


@dataclass(frozen=True)
class BF16Wire:
    """Rows travel in bfloat16: 2 D bytes each."""

    def pack(self, x_RD: Tensor) -> Sequence[Tensor]:
        return (x_RD.bfloat16(),)

    def unpack(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)


@dataclass(frozen=True)
class FP8Wire:
    """Rows travel in E4M3, a scale for each tile: D + 4 ceil(D / T) bytes.

    Attributes:
        side: T, how many numbers of a row share a scale.
    """

    side: int = TILE

    def pack(self, x_RD: Tensor) -> Sequence[Tensor]:
        code_RD, scale_RJ = quantise_reference(
            x_RD, (1, self.side), power_of_two=True
        )
        # gloo knows no float8. A code is a byte, whatever it is called.
        return code_RD.view(torch.uint8), scale_RJ

    def unpack(self, parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        code_RD, scale_RJ = parts
        x_RD = dequantise_reference(
            code_RD.view(torch.float8_e4m3fn), scale_RJ, (1, self.side)
        )
        return x_RD.to(dtype)


ARMS = ("float32", "bf16", "fp8", "fp8_back")
"""Ways to carry rows. "fp8_back" is the one that V3 does not take: what comes
from the experts is in FP8 as well."""


def carry_of(arm: str, side: int = TILE) -> Carry:
    """How an arm carries rows.

    Raises:
        LabError: an unknown arm.
    """
    known = {
        "float32": PLAIN,
        "bf16": Carry(BF16Wire(), BF16Wire()),
        "fp8": Carry(FP8Wire(side), BF16Wire()),
        "fp8_back": Carry(FP8Wire(side), FP8Wire(side)),
    }
    if arm not in known:
        raise LabError(f"arm={arm!r}: choose one of {', '.join(ARMS)}.")
    return known[arm]


def through(wire: Wire, x_RD: Tensor) -> Tensor:
    """What would arrive: rows packed and unpacked where they are."""
    return wire.unpack(wire.pack(x_RD), x_RD.dtype)


def row_bytes(wire: Wire, width: int) -> int:
    """What one row of float32 is on the wire."""
    parts = wire.pack(torch.zeros(1, width))
    return sum(part.nbytes for part in parts)


class RoundTrip(torch.autograd.Function):
    """`through` one wire, and for the gradient through the other way's."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, there: Wire, back: Wire) -> Tensor:
        ctx.back = back
        return through(there, x_RD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return through(ctx.back, grads[0]), None, None


@dataclass(frozen=True)
class InOneProcess:
    """A `dispatch` without ranks: rows are rounded as if they travelled."""

    carry: Carry

    def __call__(
        self, x_ND: Tensor, index_NK: Tensor, weight_NK: Tensor, experts: Any
    ) -> Tensor:
        K = index_NK.shape[1]
        to, back = self.carry.to_experts, self.carry.from_experts
        expert_R = index_NK.flatten()
        order_R = torch.argsort(expert_R, stable=True)
        x_RD = RoundTrip.apply(x_ND[order_R // K], to, back)
        made_RD = RoundTrip.apply(experts(x_RD, expert_R[order_R]), back, to)
        back_RD = torch.empty_like(made_RD)
        back_RD[order_R] = made_RD
        return (weight_NK[:, :, None] * back_RD.unflatten(0, (-1, K))).sum(1)


# --- one step on ranks ------------------------------------------------------

WIDTH, EXPERTS, TOP_K = 256, 8, 2
"""Of the step: two tiles of 128 to a row."""


@dataclass(frozen=True)
class Step:
    """A forward and a backward of experts over ranks, as one rank sees it.

    Attributes:
        same: whether outputs and gradients have the bits of one process in
            which rows are rounded as on the wire.
        output_error, gradient_error: relative errors of what its tokens
            become, and of their gradients, against float32 wires.
        away: rows that it sent to other ranks.
        guests: rows that it received from them.
        row_bytes: what `away` and `guests` need by the formula, in all.
        size_bytes: what the sizes of the pieces need, which travel first.
    """

    same: bool
    output_error: float
    gradient_error: float
    away: int
    guests: int
    row_bytes: int
    size_bytes: int


def dispatch_step(
    arm: str,
    dist: Any,
    device: torch.device | str = "cpu",
    tokens: int = 64,
    seed: int = 0,
) -> Step:
    """Experts over ranks, their rows carried as the arm says.

    Every rank makes the whole mixture and all tokens from the seed, so that it
    can compare. Only the dispatch talks to other ranks.

    Args:
        arm: one of ARMS.
        dist: `torch.distributed`, with a process group.
        tokens: of each rank.
    """
    rank, W = dist.get_rank(), dist.get_world_size()
    config = GPTConfig(d_model=WIDTH, n_layers=1, n_heads=1)
    torch.manual_seed(seed)
    whole = MixtureOfExperts(
        config, experts=EXPERTS, top_k=TOP_K, shared=0, d_expert=32
    ).to(device)
    x_ND, dy_ND = torch.randn(2, W * tokens, WIDTH).to(device)
    # One router for all: a rank of its own would round otherwise, and a token
    # between two experts could go to another one.
    routing = whole.route(x_ND)
    index_NK, weight_NK = routing.index_NK, routing.weight_NK.detach()

    def run(layer: MixtureOfExperts, dispatch: Any, part: slice) -> Any:
        layer.zero_grad()
        x = x_ND[part].clone().requires_grad_()
        y = dispatch(x, index_NK[part], weight_NK[part], layer.run_experts)
        y.backward(dy_ND[part])
        assert x.grad is not None and layer.down_EHD.grad is not None
        return y.detach(), x.grad, layer.down_EHD.grad.clone()

    mine = slice(rank * tokens, (rank + 1) * tokens)
    carry = carry_of(arm)
    layer = share_of(whole, dist, carry)
    y_ND, dx_ND, dw_LHD = run(layer, layer.dispatch, mine)
    one = run(whole, InOneProcess(carry), slice(None))
    exact = run(whole, InOneProcess(PLAIN), slice(None))

    L = len(dw_LHD)
    wanted = one[0][mine], one[1][mine], one[2][rank * L : (rank + 1) * L]
    found = y_ND, dx_ND, dw_LHD
    way: Any = layer.dispatch
    away, guests = sum(way.sent) - way.sent[rank], way.rows - way.sent[rank]
    to = row_bytes(carry.to_experts, WIDTH)
    back = row_bytes(carry.from_experts, WIDTH)
    return Step(
        same=all(map(torch.equal, found, wanted)),
        output_error=relative_error(y_ND, exact[0][mine]),
        gradient_error=relative_error(dx_ND, exact[1][mine]),
        away=away,
        guests=guests,
        # Once in the forward and once in the backward.
        row_bytes=2 * (away * to + guests * back),
        size_bytes=8 * EXPERTS * (W - 1) // W,
    )


def relative_error(x: Tensor, wanted: Tensor) -> float:
    """|x - wanted| / |wanted|, lengths of all numbers together."""
    gap = (x.double() - wanted.double()).norm() / wanted.double().norm()
    return gap.item()


# --- a short training -------------------------------------------------------


@dataclass(frozen=True)
class WirePlan:
    """A training, and T, the side of its tiles.

    V3's 128 is for rows of 7168. Here rows are narrow, and so are tiles: a row
    has two or four of them.
    """

    plan: Plan
    side: int


PLANS: dict[Scale, WirePlan] = {
    "ci": WirePlan(
        Plan(
            GPTConfig(d_model=16, n_layers=1, n_heads=2, max_len=16),
            steps=10,
            batch_size=4,
            length=16,
            lr=3e-2,
        ),
        side=8,
    ),
    "cpu": WirePlan(
        Plan(
            GPTConfig(d_model=64, n_layers=2, n_heads=4, max_len=64),
            steps=60,
            batch_size=16,
            length=64,
            lr=1e-2,
        ),
        side=16,
    ),
    "gpu": WirePlan(
        Plan(
            GPTConfig(d_model=512, n_layers=4, n_heads=8, max_len=256),
            steps=300,
            batch_size=32,
            length=256,
            lr=3e-3,
        ),
        side=128,
    ),
}


def make_model(arm: str, scale: Scale) -> GPT:
    """A GPT with experts, whose rows are rounded as on the arm's wires.

    Raises:
        LabError: an unknown arm.
    """
    wired = PLANS[scale]
    ffn = partial(
        MixtureOfExperts,
        experts=EXPERTS,
        top_k=TOP_K,
        dispatch=InOneProcess(carry_of(arm, wired.side)),
    )
    return GPT(wired.plan.config, ffn=ffn)


def train_carried(arm: str, seed: int, scale: Scale) -> Run:
    """A training of `make_model` on the corpus."""
    plan, settings = PLANS[scale].plan, choose_settings(scale, seed)
    torch.manual_seed(seed)
    batch = partial(
        Corpus.load().batch,
        "train",
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
    )
    return train(
        make_model(arm, scale),
        batch,
        steps=plan.steps,
        lr=plan.lr,
        settings=settings,
        live=False,
    )


def wire_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """Losses after a training whose rows are carried as the arm says.

    Returns:
        validation: nats a byte.
        loss: mean of the last tenth of the steps.
    """
    run = train_carried(arm, seed, scale)
    plan = PLANS[scale].plan
    batches = Corpus.load().validation_batches(
        4 if scale == "ci" else 16,
        batch_size=plan.batch_size,
        length=plan.length,
    )
    last = [row["loss"] for row in run.metrics[-max(1, plan.steps // 10) :]]
    return {
        "validation": round(mean_loss(run.model, batches), 5),
        "loss": round(sum(last) / len(last), 5),
    }
