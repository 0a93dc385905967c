"""Random numbers that belong to a row, whatever batch the row is in.

A generator that all rows share gives a row other numbers when the batch around it
changes. Here number t of a row is a function of the row's seed and of t:

    u = mix(seed + (t + 1) * GOLDEN)

with the mixer of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom
number generators", figure 16). So W processes that share the rows out draw what one
process would.

Shape suffixes: R rows, N tokens of a completion.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Seeds = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio, made odd."""
BITS = 23
"""Of a number: as many as keep u * total below total in float32."""


def row_seeds(seed: int, step: int, count: int) -> Seeds:
    """seeds_R of the rows of one batch; those of two steps have nothing in common.

    Args:
        seed: 0 or more.
        step: 0 or more: which batch.
        count: R, the rows of the whole batch. A process takes its share of them.
    """
    state_R = np.random.SeedSequence([seed, step]).generate_state(count, np.uint64)
    return state_R.astype(np.uint64)


def uniforms(seeds_R: Seeds, count: int) -> Tensor:
    """u_RN from 0 to below 1, float32, on the CPU: `count` numbers a row."""
    counter_N = np.arange(1, count + 1, dtype=np.uint64)
    # Products and sums wrap around, as they are meant to.
    with np.errstate(over="ignore"):
        mixed_RN = mix(seeds_R.astype(np.uint64)[:, None] + counter_N * GOLDEN)
    u_RN = (mixed_RN >> np.uint64(64 - BITS)).astype(np.float32) / 2**BITS
    return torch.from_numpy(u_RN.astype(np.float32))


def mix(z: Seeds) -> Seeds:
    """Each bit of z changes half of the bits of the result."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
