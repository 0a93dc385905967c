"""Writing one token at a time, with the keys and values of earlier ones kept.

What a server does. The cache of a ParScale model begins with its prefixes; every token
then leaves keys and values in each layer of each stream.

Shape suffixes: P streams, B texts, R = P B rows (streams first), H heads, K width of a
head, D width, V vocabulary, S positions of the cache (prefix, then tokens).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labsupport.errors import LabError
from labsupport.nn import GPT, ParScale


class Decoder:
    """A model that remembers the texts it is writing.

    Args:
        model: a plain GPT or a ParScale one, its residual the plain one.
        texts: B.
        room: the most tokens a text may have.

    Raises:
        LabError: more room than the model has positions.
    """

    def __init__(self, model: GPT, texts: int, room: int) -> None:
        if room > model.config.max_len:
            raise LabError(
                f"room={room}: the model has {model.config.max_len} positions."
            )
        self.model, self.texts, self.room, self.seen = model, texts, room, 0
        self.P = model.streams if isinstance(model, ParScale) else 1
        self.M = model.prefix if isinstance(model, ParScale) else 0
        weight = model.head.weight
        config = model.config
        rows = self.P * texts
        shape = (
            2,
            rows,
            config.n_heads,
            self.M + room,
            config.d_head,
        )
        self.cache_L2RHSK = [weight.new_zeros(shape) for _ in model.blocks]
        if isinstance(model, ParScale):
            for cache, layer in zip(
                self.cache_L2RHSK, model.prefix_attentions(), strict=True
            ):
                prefix = layer.prefix_2PHMK.repeat_interleave(texts, dim=1)
                cache[:, :, :, : self.M] = prefix.detach()

    @torch.no_grad()
    def step(self, token_B: Tensor) -> Tensor:
        """logits_BV of the token that follows.

        Raises:
            LabError: no room for another token.
        """
        if self.seen == self.room:
            raise LabError(
                f"The cache has room for {self.room} tokens: no more."
            )
        model = self.model
        x_R1D = model.embedding(token_B)[:, None].repeat(self.P, 1, 1)
        for block, cache in zip(
            self._blocks(), self.cache_L2RHSK, strict=True
        ):
            x_R1D = x_R1D + self._attend(block, cache, x_R1D)
            x_R1D = x_R1D + block.feed_forward(x_R1D)
        self.seen += 1
        x_PB1D = model.norm(x_R1D).unflatten(0, (self.P, -1))
        if isinstance(model, ParScale) and model.aggregator is not None:
            logits_B1P = model.aggregator(x_PB1D)
            x_B1D = model.aggregate(x_PB1D, logits_B1P, model.eps)
        else:
            x_B1D = x_PB1D[0]
        logits_BV: Tensor = model.head(x_B1D)[:, 0]
        return logits_BV

    def _blocks(self) -> Iterator[Any]:
        yield from self.model.blocks

    def _attend(
        self, block: Any, cache_2RHSK: Tensor, x_R1D: Tensor
    ) -> Tensor:
        """The attention branch for one token behind all that is in the cache."""
        layer = block.attention
        q, k, v = layer.heads(block.attention_norm(x_R1D), start=self.seen)
        here = self.M + self.seen
        cache_2RHSK[0, :, :, here] = k[:, :, 0]
        cache_2RHSK[1, :, :, here] = v[:, :, 0]
        keys, values = cache_2RHSK[:, :, :, : here + 1]
        mixed = F.scaled_dot_product_attention(q, keys, values)
        out: Tensor = layer.out(mixed.transpose(1, 2).flatten(-2))
        return out

    @property
    def cache_bytes(self) -> int:
        """Of all keys and values that there is room for."""
        return sum(cache.nbytes for cache in self.cache_L2RHSK)
