"""Writing without a cache, to compare with.

Shape suffixes: R rows, T tokens of a prompt, N tokens written, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.nn import GPT


@torch.no_grad()
def read_again(model: GPT, prompts_RT: Tensor, count: int) -> Tensor:
    """tokens_RN: the likeliest ones. For each token the whole text is read again."""
    text = prompts_RT
    for _ in range(count):
        logits_RV = model(text)[:, -1]
        text = torch.cat([text, logits_RV.argmax(dim=-1, keepdim=True)], dim=1)
    return text[:, prompts_RT.shape[1] :]
