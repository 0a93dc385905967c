"""What a model of the published kind holds while it writes: weights and caches.

Every token that a stream has read leaves keys and values in each layer. P streams have
P caches, and the plain model of equal loss has more weights: which of both needs less
depends on how many tokens are in flight.

All in bfloat16, 2 bytes a number. Embeddings (tied, 151,936 rows) are the same kind of
thing in all models and counted, activations are not: they live for one layer only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from labs.lab_05b.published import LARGE, LAYERS, PREFIX, VOCABULARY, Shape

BYTES = 2
"""Of a number in bfloat16."""


@dataclass(frozen=True)
class Plain:
    """A plain model of any size, in the proportions of the published ones.

    Attributes:
        N: parameters without embeddings.
    """

    N: float

    @property
    def d_model(self) -> float:
        """D: all grid models have N / D^2 alike to half a per cent."""
        return LARGE.d_model * math.sqrt(self.N / LARGE.parameters())

    @property
    def weight_bytes(self) -> float:
        """Embedding included."""
        return BYTES * (self.N + VOCABULARY * self.d_model)

    @property
    def token_bytes(self) -> float:
        """Keys and values of one token, all layers."""
        return cache_bytes_a_token(self.d_model)


def cache_bytes_a_token(d_model: float) -> float:
    """Keys and values of all layers, of one token in one stream."""
    d_kv = d_model / 8  # 2 heads of 16
    return BYTES * LAYERS * 2 * d_kv


def weight_bytes(shape: Shape, P: int) -> int:
    """Shared weights, prefixes, aggregator and the embedding."""
    return BYTES * (shape.parameters(P) + VOCABULARY * shape.d_model)


def cache_bytes(shape: Shape, P: int, texts: int, length: int) -> float:
    """Keys and values of all streams of `texts` texts of `length` tokens.

    Every text holds a copy of its streams' prefixes, as in the authors' code.
    """
    positions = length + (PREFIX if P > 1 else 0)
    return P * texts * positions * cache_bytes_a_token(shape.d_model)


def break_even(
    small_weights: float,
    small_cache: float,
    large_weights: float,
    large_cache: float,
) -> float:
    """Tokens in flight at which both models need the same memory.

    Args:
        small_weights, large_weights: bytes of all weights.
        small_cache, large_cache: bytes that one token leaves, in all streams.

    Returns:
        texts times length; infinite where the smaller model's cache grows no faster.
    """
    if small_cache <= large_cache:
        return math.inf
    return (large_weights - small_weights) / (small_cache - large_cache)
