"""One token a row, by a number that was drawn for it.

Shape suffixes: R rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def choose(
    logits_RV: Tensor, u_R: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """A token of each row, and its log-probability.

    Probabilities lie side by side from 0 to 1, in the order of the tokens, and u says
    into whose share the choice falls. One number a row does, where V would be needed to
    disturb all scores.

    Args:
        logits_RV: scores.
        u_R: from 0 to below 1, float32; None takes the likeliest token.
        temperature: divides the scores: above 1 small ones get more of a chance.

    Returns:
        tokens_R, int64, and logprob_R of softmax(logits / temperature), float32.
    """
    logprob_RV = torch.log_softmax(logits_RV.float() / temperature, dim=-1)
    if u_R is None:
        logprob_R, token_R = logprob_RV.max(dim=-1)
        return token_R, logprob_R
    upto_RV = logprob_RV.exp().cumsum(dim=-1)
    # The last of the sums is 1 but for rounding. `right` passes by empty shares.
    aim_R1 = u_R[:, None] * upto_RV[:, -1:]
    token_R1 = torch.searchsorted(upto_RV, aim_R1, right=True)
    # Beyond the last token only where scores are NaN, which `generate` reports.
    token_R1 = token_R1.clamp(max=logits_RV.shape[-1] - 1)
    return token_R1[:, 0], logprob_RV.gather(-1, token_R1)[:, 0]
