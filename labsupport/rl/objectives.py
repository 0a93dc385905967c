"""What is gained by making each token likelier: the heart of every policy loss.

    rho = pi(token) / pi_old(token)      pi_old wrote it, pi is trained
    A                                    the advantage of its completion

    reinforce            A log pi
    clipped              min(rho A, clip(rho, 1 - low, 1 + high) A)
    clipped_sequence     the same with one rho for all tokens of a completion,
                         s = exp(mean over its tokens of log rho)
    cispo                sg(min(rho, high)) A log pi           sg: no gradient

Once rho has gone as far as the clip allows in the direction that A asks for, `clipped`
has no gradient: this token has moved enough for this rollout. In the first update after
a rollout rho is 1, so nothing is clipped, and all four have the same gradient.

Each takes logp_RN (pi, with gradient), old_RN (pi_old), advantages_R1 and mask_RN
(True where a token was written), and returns gain_RN, to be made large. A reader's own
function of this form can take their place.

Shape suffixes: R rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(logp_RN, old_RN, advantages_R1, mask_RN) -> gain_RN"""


def reinforce(
    logp_RN: Tensor, old_RN: Tensor, advantages_R1: Tensor, mask_RN: Tensor
) -> Tensor:
    """A log pi (Williams, 1992), with the advantage in the reward's place."""
    return advantages_R1 * logp_RN


def clipped(
    logp_RN: Tensor,
    old_RN: Tensor,
    advantages_R1: Tensor,
    mask_RN: Tensor,
    *,
    low: float = 0.2,
    high: float = 0.2,
) -> Tensor:
    """PPO's (Schulman et al., 2017, arXiv 1707.06347, equation 7).

    With high > low, "clip-higher" of DAPO (Yu et al., 2025, arXiv 2503.14476, section
    3.1): unlikely tokens may grow more.
    """
    rho_RN = (logp_RN - old_RN).exp()
    return clip_both(rho_RN, advantages_R1, low, high)


def clipped_sequence(
    logp_RN: Tensor,
    old_RN: Tensor,
    advantages_R1: Tensor,
    mask_RN: Tensor,
    *,
    low: float = 3e-4,
    high: float = 4e-4,
) -> Tensor:
    """GSPO's (Zheng et al., 2025, arXiv 2507.18071, equations 5 to 7)."""
    log_rho_RN = (logp_RN - old_RN) * mask_RN
    tokens_R1 = mask_RN.sum(dim=1, keepdim=True).clamp(min=1)
    s_R1 = (log_rho_RN.sum(dim=1, keepdim=True) / tokens_R1).exp()
    return clip_both(s_R1, advantages_R1, low, high).expand_as(logp_RN)


def cispo(
    logp_RN: Tensor,
    old_RN: Tensor,
    advantages_R1: Tensor,
    mask_RN: Tensor,
    *,
    high: float = 5.0,
) -> Tensor:
    """MiniMax-M1's (2025, arXiv 2506.13585, equations 4 and 5), its weight bounded from
    above only: a token's weight is clipped, but its gradient never vanishes."""
    rho_RN = (logp_RN - old_RN).exp().detach()
    return rho_RN.clamp(max=high) * advantages_R1 * logp_RN


def clip_both(rho: Tensor, advantages_R1: Tensor, low: float, high: float) -> Tensor:
    """The smaller of both gains: what is clipped is never the cautious side."""
    kept = rho.clamp(1 - low, 1 + high)
    return torch.minimum(rho * advantages_R1, kept * advantages_R1)


def clip_fraction(
    objective: Objective,
    logp_RN: Tensor,
    old_RN: Tensor,
    advantages_R1: Tensor,
    mask_RN: Tensor,
) -> float:
    """The share of tokens that the objective does not want to move any more.

    Found from the objective's own gradient, so it holds for any. Tokens whose advantage
    is 0 do not count; NaN where all are.
    """
    counted_RN = mask_RN & (advantages_R1 != 0)
    if not counted_RN.any():
        return float("nan")
    leaf_RN = logp_RN.detach().requires_grad_()
    with torch.enable_grad():
        gain = objective(leaf_RN, old_RN, advantages_R1, mask_RN)[mask_RN].sum()
        (slope_RN,) = torch.autograd.grad(gain, leaf_RN)
    return (slope_RN[counted_RN] == 0).float().mean().item()
