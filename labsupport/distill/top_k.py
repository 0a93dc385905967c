"""A teacher's k largest scores of each token, in place of all V.

    kept      k log-probs and which tokens they belong to
    rest      the log of all other tokens' probability together, one number

The student is compared in k + 1 events: each of the k tokens, and "some other". That
divergence is never larger than the whole one (events were put together), and equal to
it where k = V - 1. To leave the rest out and let the k add up to 1 would tell the
student that other tokens are impossible.

    bytes a token    full 4 V    top-k (2 + index) k + 2;  index: 1 for V <= 256, or 4

Shape suffixes: N tokens, V vocabulary, K = k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labsupport.errors import LabError

FLOOR = -30.0
"""The smallest log-prob that is kept: the rest may have none at all."""


@dataclass(frozen=True, eq=False)
class TopK:
    """What is left of a teacher's scores.

    Attributes:
        logp_NK: float16, of the K likeliest tokens.
        token_NK: which they are; uint8 where that suffices, else int32.
        rest_N: float16, the log of what is left.
    """

    logp_NK: Tensor
    token_NK: Tensor
    rest_N: Tensor

    @property
    def nbytes(self) -> int:
        """What a wire has to carry."""
        parts = (self.logp_NK, self.token_NK, self.rest_N)
        return sum(part.numel() * part.element_size() for part in parts)


def top_k_of(logits_NV: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """Keep the k largest.

    Args:
        logits_NV: a teacher's scores.
        k: 1 to V - 1.
        temperature: divides the scores before anything else.

    Raises:
        LabError: k that is not allowed; scores that are not finite.
    """
    V = logits_NV.shape[-1]
    if not 1 <= k < V:
        raise LabError(f"top-k with k={k} of a vocabulary of {V}: use 1 to {V - 1}.")
    if not logits_NV.isfinite().all():
        raise LabError("The teacher's scores are not all finite.")
    logp_NV = (logits_NV.float() / temperature).log_softmax(-1)
    kept = logp_NV.topk(k, dim=-1)
    left_N = (1 - kept.values.exp().sum(-1)).clamp(min=0).log()
    return TopK(
        kept.values.clamp(min=FLOOR).half(),
        kept.indices.to(torch.uint8 if V <= 256 else torch.int32),
        left_N.clamp(min=FLOOR).half(),
    )


def top_k_divergence(
    logits_NV: Tensor, teacher: TopK, temperature: float = 1.0
) -> Tensor:
    """KL(teacher || student) in k + 1 events, for each token, in nats.

    Args:
        logits_NV: the student's scores, with a gradient.
        teacher: for the same tokens, at the same temperature.
        temperature: divides the student's scores.
    """
    logq_NV = (logits_NV.float() / temperature).log_softmax(-1)
    index_NK = teacher.token_NK.long()
    logq_NK = logq_NV.gather(-1, index_NK)
    # What is left, added up from the tokens that were not kept: 1 - sum would lose
    # small numbers, and their gradient.
    others_NV = torch.zeros_like(logq_NV).scatter(-1, index_NK, -torch.inf)
    rest_q_N = (logq_NV + others_NV).logsumexp(-1)
    p_NK, rest_p_N = teacher.logp_NK.float(), teacher.rest_N.float()
    kept_N = (p_NK.exp() * (p_NK - logq_NK)).sum(-1)
    return kept_N + rest_p_N.exp() * (rest_p_N - rest_q_N)
