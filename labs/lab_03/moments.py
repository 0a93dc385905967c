"""Adam's two moments, kept in fewer bits.

AdamW keeps two numbers for each weight: m, a running mean of gradients, and v, one of
their squares; a weight moves by lr m / (sqrt(v) + eps). In float32 they take 8 bytes
a weight. DeepSeek-V3 keeps them in bfloat16 (2412.19437, section 3.3.3).

Here the arithmetic stays in float32, and after each step both moments are rounded to
what a format could have kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.float8 import cast
from kernels.fp8_scaling import dequantise_reference, quantise_reference

Store = Callable[[str, Tensor], Tensor]
""" ("m" or "v", moment) -> what comes back of it, float32, of the same shape."""

TILE = (1, 32)


def in_tiles(moment: Tensor) -> Tensor:
    """E4M3 in tiles of 1 x 32, each with a scale."""
    rows = moment if moment.ndim == 2 else moment.reshape(1, -1)
    q, scale = quantise_reference(rows, TILE)
    return dequantise_reference(q, scale, TILE).view_as(moment)


def in_bfloat16(name: str, moment: Tensor) -> Tensor:
    return moment.to(torch.bfloat16).float()


def in_unscaled_e4m3(name: str, moment: Tensor) -> Tensor:
    return cast(moment).float()


def in_scaled_e4m3(name: str, moment: Tensor) -> Tensor:
    return in_tiles(moment)


def root_in_scaled_e4m3(name: str, moment: Tensor) -> Tensor:
    """The root of v instead of v: it spans half as many decades."""
    if name == "m":
        return in_tiles(moment)
    return in_tiles(moment.sqrt()).square()


STORES: dict[str, Store | None] = {
    "fp32": None,
    "bf16": in_bfloat16,
    "e4m3": in_unscaled_e4m3,
    "e4m3_tile": in_scaled_e4m3,
    "e4m3_root": root_in_scaled_e4m3,
}
NAMES = {
    "fp32": "float32",
    "bf16": "bfloat16 (V3)",
    "e4m3": "E4M3, no scales",
    "e4m3_tile": "E4M3 in tiles",
    "e4m3_root": "E4M3 in tiles, the root of v",
}
BYTES = {
    "fp32": 8.0,
    "bf16": 4.0,
    "e4m3": 2.0,
    "e4m3_tile": 2.25,
    "e4m3_root": 2.25,
}
"""Bytes a weight for both moments, scales included."""


def rounded_moments(store: Store, optimizer: torch.optim.Optimizer) -> None:
    """Round an AdamW's moments after each of its steps."""

    def after_step(optimizer: Any, *_: Any) -> None:
        for state in optimizer.state.values():
            state["exp_avg"].copy_(store("m", state["exp_avg"]))
            state["exp_avg_sq"].copy_(store("v", state["exp_avg_sq"]))

    optimizer.register_step_post_hook(after_step)
