"""The headline's numbers, and where they come from.

The article: a 1.6B model matches a 4.4B one, at twice the speed, with 64 % less memory.
Sizes are those of the published models (published.py), without embeddings.
"""

from __future__ import annotations

from labs.lab_05b.published import LARGE, SMALL, Shape

STREAMS = 8
"""P of the model that is said to match the larger one."""


def training_flops(shape: Shape, P: int = 1) -> int:
    """FLOPs to train on one token: 2 for each weight forward, 4 backward.

    Every stream is a forward and a backward through all shared weights. Aggregator,
    attention scores and embeddings are left out; they would add a little on both sides.
    """
    return 6 * P * shape.parameters()


def training_bytes(shape: Shape, P: int = 1) -> int:
    """Weights, gradients and Adam's moments: 16 bytes a parameter.

    In mixed precision bfloat16 weights and gradients (2 + 2), float32 copies and two
    moments (4 + 4 + 4); in float32 throughout it is 16 as well (ZeRO, arXiv 1910.02054,
    section 3.1). What the forward keeps for the backward comes on top.
    """
    return 16 * shape.parameters(P)


def parameter_saving() -> float:
    """1 - N_small / N_large of the published sizes."""
    return 1 - SMALL.parameters() / LARGE.parameters()


def rounded_saving() -> float:
    """The same with the headline's digits: 1 - 1.6 / 4.4."""
    return 1 - 1.6 / 4.4


def flops_ratio() -> float:
    """Training FLOPs a token, 1.6B with eight streams over 4.4B with one."""
    return training_flops(SMALL, STREAMS) / training_flops(LARGE)


def bytes_saving() -> float:
    """Of weights, gradients and moments, with all that eight streams add."""
    mine, theirs = training_bytes(SMALL, STREAMS), training_bytes(LARGE)
    return 1 - mine / theirs


CHOICES = (
    "about half",
    "about as many",
    "about twice as many",
    "about three times as many",
)
"""Of the prediction: FLOPs to train on a token."""


def flops_answer() -> tuple[str, str]:
    """The right choice, and the numbers behind it."""
    ratio = flops_ratio()
    sizes = {0.5: CHOICES[0], 1: CHOICES[1], 2: CHOICES[2], 3: CHOICES[3]}
    answer = sizes[min(sizes, key=lambda size: abs(size - ratio))]
    mine, theirs = (
        training_flops(shape, P) / 1e9
        for shape, P in ((SMALL, STREAMS), (LARGE, 1))
    )
    return answer, (
        f"1.6B with 8 streams: 6 x 8 x {SMALL.parameters() / 1e9:.2f} = {mine:.1f} "
        f"GFLOPs a token. 4.4B plain: 6 x {LARGE.parameters() / 1e9:.2f} = "
        f"{theirs:.1f}. That is {ratio:.2f} times as many."
    )
