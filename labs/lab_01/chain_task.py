"""A second task for lab 01: letters of a random first-order Markov chain.

Each letter has three successors, with probabilities 0.7, 0.2 and 0.1. Whoever
knows the letters' frequencies alone pays about ln 26 = 3.26 nats a letter; whoever
knows the chain 0.80, its entropy. So a falling loss shows that a model has learned
which letter follows which.

Shape suffixes: B sequences, T tokens, V letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from labsupport.train import Plan

FIRST, V = 97, 26
"""The byte of "a", and how many letters there are."""
SHARES = (0.7, 0.2, 0.1)
ENTROPY = -sum(share * math.log(share) for share in SHARES)
"""Nats a letter: no model can do better in the long run."""


def chain_batches(
    plan: Plan, seed: int
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batches by step; the seed draws the chain, and with the step its letters."""
    successors_V3 = draw_chain(seed)
    shares_3 = torch.tensor(SHARES)

    def of_chain(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        B, T = plan.batch_size, plan.length
        choice_BT = torch.multinomial(
            shares_3, B * T, replacement=True, generator=generator
        ).view(B, T)
        letters = [torch.randint(V, (B,), generator=generator)]
        for t in range(T):
            letters.append(successors_V3[letters[-1], choice_BT[:, t]])
        said_BT = FIRST + torch.stack(letters, dim=1)
        return said_BT[:, :-1], said_BT[:, 1:]

    return of_chain


def draw_chain(seed: int) -> Tensor:
    """successors_V3: three different successors of each letter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(
        [torch.randperm(V, generator=generator)[:3] for _ in range(V)]
    )
