"""Other ways to move the biases, and what came after them.

The paper tried the first three (2408.15664, tables 3 and 4); signs came out best by
a little.

Shape suffixes: N tokens, E experts, K experts of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.nn.moe_balance import Update, sign_update


def proportional_update(
    bias_E: Tensor, count_E: Tensor, speed: float
) -> Tensor:
    """b + u (mean(c) - c) / mean(c): by how much, and not only which way.

    The paper writes u (mean(c) - c) and does not say in which unit. With counts of
    tokens its speeds would be far too large, so the error is taken relative.
    """
    mean = count_E.to(bias_E.dtype).mean()
    return bias_E + speed * (mean - count_E) / mean


RULES: dict[str, Update] = {
    "sign": sign_update,
    "proportional": proportional_update,
    "multiplicative": sign_update,  # with `multiplicative_gate`
}


def multiplicative_gate(
    logits_NE: Tensor, bias_E: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """Chooses by s (1 + b) in place of s + b; the paper's bias that starts at 1."""
    score_NE = torch.sigmoid(logits_NE)
    index_NK = torch.topk(score_NE * (1 + bias_E), top_k).indices
    chosen_NK = score_NE.gather(1, index_NK)
    return index_NK, chosen_NK / chosen_NK.sum(dim=1, keepdim=True)
