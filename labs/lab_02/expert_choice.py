"""Expert choice: experts pick tokens, so loads are even, and the future leaks.

Each expert takes the N K / E tokens that score highest with it (Zhou et al., 2022,
arXiv 2202.09368). Who is picked depends on all tokens of the batch, those included
that come later in the text (2408.15664, section 5.2).

Shape suffixes: N tokens, E experts, K visits a token on average.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labsupport.errors import LabError


def expert_choice(score_NE: Tensor, visits: int) -> Tensor:
    """Which expert takes which token: chosen_NE, boolean.

    Raises:
        LabError: fewer places than experts.
    """
    N, E = score_NE.shape
    places = N * visits // E
    if places < 1:
        raise LabError(
            f"{N} tokens give {E} experts no place each: use more tokens."
        )
    index_PE = score_NE.topk(places, dim=0).indices
    return torch.zeros(N, E, dtype=torch.bool).scatter_(0, index_PE, True)


def token_choice(score_NE: Tensor, visits: int) -> Tensor:
    """The same table when each token picks its experts."""
    index_NK = score_NE.topk(visits, dim=1).indices
    chosen_NE = torch.zeros(score_NE.shape, dtype=torch.bool)
    return chosen_NE.scatter_(1, index_NK, True)


def leaked_bits(experts: int, visits: int) -> float:
    """The paper's bound (appendix D): bits a token and layer may leak.

    K log2((1 - R) / R) with R = K / E, for the smaller of both sides.

    Raises:
        LabError: not fewer visits than experts.
    """
    if not 1 <= visits < experts:
        raise LabError(f"Use 1 to {experts - 1} visits, not {visits}.")
    R = visits / experts
    return visits * math.log2((1 - R) / R)
