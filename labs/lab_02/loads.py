"""Who gets what: loads of experts, and what they say about domains.

Shape suffixes: G domains, E experts, B sequences, T tokens, K experts of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.errors import LabError

DEAD = 0.05
"""An expert with less than this share of an even load counts as dead."""


def load_table(index_BTK: Tensor, domain_B: Tensor, G: int, E: int) -> Tensor:
    """How many tokens of each domain each expert got: count_GE.

    Raises:
        LabError: no tokens.
    """
    if not index_BTK.numel():
        raise LabError("load_table: there are no tokens to count.")
    pair_BTK = domain_B[:, None, None] * E + index_BTK
    count_GE = torch.bincount(pair_BTK.flatten(), minlength=G * E)
    return count_GE.view(G, E).double()


def information_share(count_GE: Tensor) -> float:
    """I(domain; expert) / H(domain): how much of the domain the expert tells.

    0: experts are chosen without regard to the domain. 1: whoever knows the expert
    knows the domain.

    Raises:
        LabError: fewer than two domains have tokens.
    """
    p_GE = count_GE.double() / count_GE.sum()
    p_G, p_E = p_GE.sum(1), p_GE.sum(0)
    entropy = -torch.special.xlogy(p_G, p_G).sum()
    if not entropy > 0:
        raise LabError("information_share: at least two domains need tokens.")
    joint = torch.special.xlogy(p_GE, p_GE).sum()
    apart = torch.special.xlogy(p_E, p_E).sum() - entropy
    return max(0.0, ((joint - apart) / entropy).item())


def dead_experts(count_E: Tensor) -> int:
    """How many experts get less than DEAD of an even load."""
    return int((count_E < DEAD * count_E.double().mean()).sum())
