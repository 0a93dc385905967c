"""What a policy thinks of tokens that were written: log-probs and entropy.

Shape suffixes: R rows, T tokens of a prompt, N tokens of a completion, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.nn import GPT


def completion_logits(model: GPT, prompts_RT: Tensor, tokens_RN: Tensor) -> Tensor:
    """logits_RNV: the scores out of which each token of a completion was chosen."""
    T, N = prompts_RT.shape[1], tokens_RN.shape[1]
    # The last token is not read: nothing was chosen behind it.
    read_RS = torch.cat([prompts_RT, tokens_RN], dim=1)[:, : T + N - 1]
    x_RSD = model.hidden(model.embedding(read_RS))
    # Of a prompt only its last position is needed.
    return model.head(x_RSD[:, T - 1 :])


def log_probs(logits_RNV: Tensor, tokens_RN: Tensor) -> Tensor:
    """logp_RN of the tokens, float32 at least."""
    number = torch.promote_types(logits_RNV.dtype, torch.float32)
    logp_RNV = torch.log_softmax(logits_RNV.to(number), dim=-1)
    return logp_RNV.gather(-1, tokens_RN[..., None])[..., 0]


def entropy(logits_RNV: Tensor) -> Tensor:
    """entropy_RN in nats: 0 where one token is certain, log V where all are alike."""
    number = torch.promote_types(logits_RNV.dtype, torch.float32)
    logp_RNV = torch.log_softmax(logits_RNV.to(number), dim=-1)
    # A forbidden token has logp = -inf and counts nothing; 0 times inf would be NaN.
    return -torch.where(logp_RNV.isfinite(), logp_RNV.exp() * logp_RNV, 0.0).sum(-1)
