"""A model that does not fit: an artificial budget for what a rank holds.

Adam in float32 holds four numbers for each weight from step to step: the weight, its
gradient, and two running means, 16 bytes. (Activations come on top, and come and go;
the budget leaves them out.) The budget is counted, not enforced by the machine: whoever
wants to hold more is refused.

Letters: P weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from labs.lab_05a.adam import Adam
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import Scale
from labsupport.tasks.corpus import Corpus
from labsupport.train import Plan

LIVE_PLANS: dict[Scale, Plan] = {
    "ci": Plan(
        GPTConfig(d_model=16, n_layers=1, n_heads=2, d_ff=192, max_len=16),
        steps=10,
        batch_size=8,
        length=16,
        lr=4e-3,
    ),
    "cpu": Plan(
        GPTConfig(d_model=64, n_layers=2, n_heads=4, d_ff=160, max_len=64),
        steps=80,
        batch_size=16,
        length=64,
        lr=3e-3,
    ),
    "gpu": Plan(
        GPTConfig(d_model=512, n_layers=6, n_heads=8, d_ff=704, max_len=256),
        steps=200,
        batch_size=64,
        length=256,
        lr=5e-4,
    ),
}
"""Feed-forward layers hold about half of the weights, at every scale."""

ADAM_BYTES = 16
"""Of one weight in float32: itself, its gradient, two running means."""
SHARE = 0.6
"""Of what training needs, one rank may hold this much."""


def total_weights(config: GPTConfig) -> int:
    """P."""
    return GPT(config).parameter_count()


def budget_of(config: GPTConfig) -> int:
    """Bytes that one rank may hold."""
    return round(SHARE * ADAM_BYTES * total_weights(config))


@dataclass
class Budget:
    """Bytes that a rank may hold from step to step.

    Attributes:
        limit: in bytes.
        held: what it holds, by name, in bytes.
    """

    limit: int
    held: dict[str, int] = field(default_factory=dict)

    def hold(self, name: str, size: int) -> None:
        """Add something.

        Args:
            name: for the message and for `held`.
            size: in bytes.

        Raises:
            LabError: it does not fit.
        """
        free = self.limit - sum(self.held.values())
        if size > free:
            there = " and ".join(f"{n} {mb(s)}" for n, s in self.held.items())
            raise LabError(
                f"No room for {name}, {mb(size)}: the budget is {mb(self.limit)}, held "
                f"are {there or 'nothing'}, so {mb(free)} are free."
            )
        self.held[name] = size


def mb(size: float) -> str:
    """Bytes as "1.22 MB"."""
    return f"{size / 1e6:.3g} MB"


def fresh_model(
    scale: Scale, seed: int, device: torch.device | str = "cpu"
) -> GPT:
    """The model of this lab's trainings, the same on all ranks."""
    torch.manual_seed(seed)
    return GPT(LIVE_PLANS[scale].config).to(device)


def first_batch(
    scale: Scale,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> tuple[Tensor, Tensor]:
    """Tokens_BT and targets_BT of step 0; a rank's rows of them, if asked for."""
    plan = LIVE_PLANS[scale]
    tokens_BT, targets_BT = Corpus.load().batch(
        "train",
        0,
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
        rank=rank,
        world=world,
    )
    return tokens_BT.to(device), targets_BT.to(device)


def data_parallel_step(
    dist: Any,
    scale: Scale,
    seed: int,
    budget: Budget,
    device: torch.device | str = "cpu",
) -> None:
    """One step of plain data parallelism within a budget; every rank calls this.

    Args:
        dist: `torch.distributed`, with a process group.
        scale: chooses the model.
        seed: of weights and data.
        budget: what the rank may hold; it notes what the rank does hold.
        device: where the model lives.

    Raises:
        LabError: something does not fit. What comes after it is not done.
    """
    model = fresh_model(scale, seed, device)
    weights_P = parameters_to_vector(model.parameters()).detach()
    budget.hold("weights", 4 * len(weights_P))
    rank, W = dist.get_rank(), dist.get_world_size()
    loss = model.loss(*first_batch(scale, seed, device, rank, W))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    gradient_P = parameters_to_vector(gradients)
    budget.hold("gradients", 4 * len(gradient_P))
    dist.all_reduce(gradient_P)
    budget.hold("Adam's means", 2 * 4 * len(weights_P))
    Adam(LIVE_PLANS[scale].lr)(weights_P, gradient_P / W)


ARRANGEMENTS = (
    "copies",
    "Adam's means in four parts",
    "feed-forward layers in four parts",
    "both in two parts",
)
"""Ways for four ranks to hold the model; the first is plain data parallelism."""


def arrangement_bytes(config: GPTConfig) -> dict[str, float]:
    """What one of four ranks holds in each arrangement, in bytes. A formula."""
    P = total_weights(config)
    in_ffn = 3 * config.d_model * config.ffn_width * config.n_layers

    def held(cut_ffn: int, cut_adam: int) -> float:
        own = P - in_ffn + in_ffn / cut_ffn
        return own * (8 + 8 / cut_adam)

    sizes = (held(1, 1), held(1, 4), held(4, 1), held(2, 2))
    return dict(zip(ARRANGEMENTS, sizes, strict=True))


CHOICES = (
    "Adam's means in four parts",
    "feed-forward layers in four parts",
    "either of them",
    "only both, in two parts each",
)
"""Of the prediction: what brings the model under the budget."""


def fitting_answer(config: GPTConfig) -> tuple[str, str]:
    """The right choice, and the numbers behind it."""
    sizes, limit = arrangement_bytes(config), budget_of(config)
    adam, ffn = (sizes[name] <= limit for name in ARRANGEMENTS[1:3])
    answer = {
        (True, False): CHOICES[0],
        (False, True): CHOICES[1],
        (True, True): CHOICES[2],
        (False, False): CHOICES[3],
    }[adam, ffn]
    whole = sizes[ARRANGEMENTS[0]]
    words = "; ".join(
        f"{name}: {mb(size)}, {size / whole:.0%}"
        for name, size in sizes.items()
    )
    return (
        answer,
        f"What a rank would hold: {words}. The budget is {mb(limit)}.",
    )
