"""What the small models of lab 05b cost, and models made to cost as much as another.

A matrix of n_in x n_out numbers takes 2 n_in n_out FLOPs a token. So do attention's two
products: 2 D for each position that is scored, and as much for each that is summed.
Masked positions are computed as well, and so they count. Training is three times the
forward. Norms, softmax and the embedding's lookup are left out.

Letters: D width, F width of a feed-forward layer, V vocabulary, P streams, M positions
of a prefix, T tokens of a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from labsupport.nn import GPTConfig

Cost = Callable[[GPTConfig], float]


def block_weights(config: GPTConfig) -> int:
    """Matrices of all blocks: what the paper calls N, but for the norms."""
    D = config.d_model
    return config.n_layers * (4 * D * D + 3 * D * config.ffn_width)


def plain_parameters(config: GPTConfig) -> int:
    """Of a plain GPT: blocks, norms, embedding and output layer."""
    D = config.d_model
    norms = (2 * config.n_layers + 1) * D
    return block_weights(config) + 2 * config.vocab_size * D + norms


def stream_parameters(config: GPTConfig, P: int, M: int) -> int:
    """What P streams add: prefixes, and the aggregator where there are several."""
    D = config.d_model
    prefixes = 2 * config.n_layers * P * M * D
    aggregator = 0 if P == 1 else (P * D + 1) * D + (D + 1) * P
    return prefixes + aggregator


def training_flops(
    config: GPTConfig, P: int = 1, M: int = 0, T: int | None = None
) -> int:
    """FLOPs to train on one token of a text of T (None: as long as it may be).

    Blocks run once for each stream, aggregator and output layer once.
    """
    D, T = config.d_model, T or config.max_len
    attention = 2 * D * (T + M) * config.n_layers
    streams = P * (block_weights(config) + attention)
    # Two layers, and the weighted sum.
    aggregator = 0 if P == 1 else P * D * D + 2 * D * P
    head = config.vocab_size * D
    return 3 * 2 * (streams + aggregator + head)


def resized(config: GPTConfig, cost: Cost, target: float) -> GPTConfig:
    """A model of this kind whose cost comes nearest to a target.

    Depth and heads stay. Widths are tried one by one; for each the feed-forward width
    that fits best, and among all that fit to 1 % the one that keeps the proportion F/D.

    Args:
        config: what to start from.
        cost: has to rise with both widths.
        target: the cost that is wanted.
    """
    step = 2 * config.n_heads
    proportion = config.ffn_width / config.d_model
    found = []
    for D in range(step, 16 * config.d_model, step):
        if cost(replace(config, d_model=D, d_ff=1)) > target:
            break
        # The cost is linear in F.
        few, many = (cost(replace(config, d_model=D, d_ff=F)) for F in (8, 16))
        F = max(1, round(8 + 8 * (target - few) / (many - few)))
        made = replace(config, d_model=D, d_ff=F)
        off = abs(cost(made) / target - 1)
        found.append((off > 0.01, abs(math.log(F / D / proportion)), D, made))
    return min(found)[-1]
