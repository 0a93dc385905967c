"""A GPT that remembers the keys and values of the tokens it has read.

Without them each new token costs a forward pass over all tokens so far. With them it
costs a pass over itself alone, and its query looks at what is kept:

    keys    k_1 k_2 .. k_t  _  _       the cache has its full size from the start;
    values  v_1 v_2 .. v_t  _  _       a token fills in the next position

Shape suffixes: L layers, R rows, T tokens read at once, H heads, K width of a head, D
width, V vocabulary, S positions that the cache has room for.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labsupport.errors import LabError
from labsupport.nn import GPT, CausalSelfAttention


class Decoder:
    """Reads tokens of R rows from left to right, and says what could come next.

    Norm, residual, ffn and linear may be any that treat tokens one by one.

    Args:
        model: its attention has to be `CausalSelfAttention`.
        rows: R.
        room: S, the most tokens of a row.

    Attributes:
        seen: how many tokens each row has read.

    Raises:
        LabError: more room than the model has positions, or another attention.
    """

    def __init__(self, model: GPT, rows: int, room: int) -> None:
        config = model.config
        if room > config.max_len:
            raise LabError(
                f"{room} tokens, prompt and completion together, do not fit: the model "
                f"has max_len={config.max_len} positions. Use a shorter prompt, or a "
                "model with more."
            )
        self.model, self.seen = model, 0
        self._blocks: list[Any] = list(model.blocks)
        for block in self._blocks:
            if type(block.attention) is not CausalSelfAttention:
                name = type(block.attention).__name__
                raise LabError(
                    f"Decoder: the model's attention is {name}; only "
                    "CausalSelfAttention is known here."
                )
        shape = (config.n_layers, 2, rows, config.n_heads, room, config.d_head)
        self.cache_L2RHSK = model.head.weight.new_empty(shape)

    @torch.no_grad()
    def read(self, tokens_RT: Tensor) -> Tensor:
        """logits_RV of the token that follows the last one.

        The first call may read many tokens, each later one reads one of each row.

        Raises:
            LabError: no room, or several tokens behind the first call.
        """
        T = tokens_RT.shape[1]
        if self.seen + T > self.cache_L2RHSK.shape[4]:
            raise LabError(
                f"The cache has room for {self.cache_L2RHSK.shape[4]} tokens a row, "
                f"and {self.seen} + {T} are more."
            )
        if self.seen and T > 1:
            raise LabError(f"Decoder.read: {T} tokens; after the first call, one each.")
        stream = self._blocks[0].attention_residual.expand(
            self.model.embedding(tokens_RT)
        )
        for block, cache in zip(self._blocks, self.cache_L2RHSK, strict=True):
            attend = partial(self._attend, block, cache)
            stream = block.attention_residual(stream, attend)
            stream = block.ffn_residual(stream, block.feed_forward)
        self.seen += T
        x_RTD = self._blocks[-1].ffn_residual.collapse(stream)
        logits_RV: Tensor = self.model.head(self.model.norm(x_RTD[:, -1]))
        return logits_RV

    def _attend(self, block: Any, cache_2RHSK: Tensor, x_RTD: Tensor) -> Tensor:
        """The attention branch: new tokens are kept, and look at all that is kept."""
        layer = block.attention
        q_RHTK, k_RHTK, v_RHTK = layer.heads(block.attention_norm(x_RTD), self.seen)
        T = x_RTD.shape[1]
        end = self.seen + T
        cache_2RHSK[0, :, :, self.seen : end] = k_RHTK
        cache_2RHSK[1, :, :, self.seen : end] = v_RHTK
        keys, values = cache_2RHSK[:, :, :, :end]
        # One new token may look at everything; several, at those before them.
        mixed_RHTK = F.scaled_dot_product_attention(
            q_RHTK, keys, values, is_causal=T > 1
        )
        out: Tensor = layer.out(mixed_RHTK.transpose(1, 2).flatten(-2))
        return out

    @property
    def rows(self) -> int:
        """R, as many as there are now."""
        return self.cache_L2RHSK.shape[2]

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows, in this order; one may come several times.

        Args:
            rows: their indices, int64.
        """
        self.cache_L2RHSK = self.cache_L2RHSK.index_select(2, rows)
