"""Ways to round a matrix to 8 bits, and how much of it is left.

Shape suffixes: M rows (tokens), K columns (channels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.float8 import E4M3, FORMATS, cast
from kernels.fp8_scaling import (
    SMALLEST_SCALE,
    Tile,
    dequantise_reference,
    quantise_reference,
    spread,
    tile_max,
)
from labsupport.settings import Scale

INT8 = "INT8"
SIZES: dict[Scale, tuple[int, int]] = {
    "ci": (16, 256),
    "cpu": (256, 512),
    "gpu": (256, 512),
}
"""M and K of the matrices here."""
FACTORS = (1.0, 10.0, 100.0, 1e3, 1e4, 3e4, 1e5, 1e6)
DECADES = (0, 2, 4, 6, 8)


def rounded(x_MK: Tensor, tile: Tile, fmt: str = "E4M3") -> Tensor:
    """What is left of x after tiles of 8-bit numbers, a scale for each.

    Args:
        tile: rows and columns that share a scale.
        fmt: "E4M3", "E5M2" or "INT8". INT8 has the whole numbers from -127 to 127.
    """
    if fmt != INT8:
        q, scale = quantise_reference(x_MK, tile, FORMATS[fmt])
        return dequantise_reference(q, scale, tile)
    amax = tile_max(x_MK.abs(), tile)
    scale = spread((amax / 127).clamp(min=SMALLEST_SCALE), tile, x_MK.shape)
    return torch.round(x_MK / scale) * scale


def sqnr(x: Tensor, y: Tensor) -> float:
    """Signal to quantisation noise in decibels; infinite where nothing was lost."""
    noise = (x - y).double().square().sum()
    return (10 * torch.log10(x.double().square().sum() / noise)).item()


def zeroed(x: Tensor, y: Tensor) -> float:
    """The share of the numbers that were not 0 and are."""
    return ((y == 0) & (x != 0)).sum().item() / (x != 0).sum().item()


def outlier_matrix(
    factor: float, seed: int = 0, scale: Scale = "cpu"
) -> Tensor:
    """Normal numbers, the first column times `factor`: x_MK."""
    generator = torch.Generator().manual_seed(seed)
    x_MK = torch.randn(SIZES[scale], generator=generator)
    x_MK[:, 0] *= factor
    return x_MK


ARMS: dict[str, tuple[str, int]] = {
    "int8": (INT8, 0),
    "e5m2": ("E5M2", 0),
    "e4m3": ("E4M3", 0),
    "e4m3_tile": ("E4M3", 128),
}
"""Format, and columns of a tile of one row; 0 for one scale in all."""


def outlier_row(
    arm: str, seed: int, scale: Scale, *, factor: float
) -> dict[str, Any]:
    """SQNR of all columns but the outlier's, and of those in its tile or not."""
    x_MK = outlier_matrix(factor, seed, scale)
    fmt, side = ARMS[arm]
    y_MK = rounded(x_MK, (1, side) if side else tuple(x_MK.shape), fmt)
    parts = {
        "sqnr": slice(1, None),
        "sqnr_same_tile": slice(1, 128),
        "sqnr_other_tiles": slice(128, None),
    }
    found = {
        name: round(sqnr(x_MK[:, k], y_MK[:, k]), 2)
        for name, k in parts.items()
    }
    return found | {"zeroed": round(zeroed(x_MK[:, 1:], y_MK[:, 1:]), 4)}


GRADIENT_TILES: dict[str, Tile | None] = {
    "unscaled": None,
    "tensor": (1 << 30, 1 << 30),
    "block": (128, 128),
    "tile": (1, 128),
}


def gradient_matrix(decades: float, seed: int, scale: Scale) -> Tensor:
    """Gradients of tokens that lie so many decades apart, in random order: g_MK."""
    generator = torch.Generator().manual_seed(seed)
    M, K = SIZES[scale]
    size_M = 10 ** (-4 - decades * torch.rand(M, generator=generator))
    return torch.randn(M, K, generator=generator) * size_M[:, None]


def gradient_row(
    arm: str, seed: int, scale: Scale, *, decades: float
) -> dict[str, Any]:
    """Share of gradients that E4M3 makes 0: of all, and of the smaller tokens'."""
    g_MK = gradient_matrix(decades, seed, scale)
    tile = GRADIENT_TILES[arm]
    y_MK = cast(g_MK).float() if tile is None else rounded(g_MK, tile)
    small_M = g_MK.abs().amax(1)
    small = small_M < small_M.median()
    return {
        "zeroed": round(zeroed(g_MK, y_MK), 4),
        "zeroed_small": round(zeroed(g_MK[small], y_MK[small]), 4),
    }


HISTORY, STEPS = 16, 40


def delayed_row(arm: str, seed: int, scale: Scale) -> dict[str, Any]:
    """A tensor whose size doubles from step to step, scaled online or delayed.

    Delayed scaling takes the largest size of the last 16 steps, so that a tensor need
    not be read twice. The worst step counts.
    """
    generator = torch.Generator().manual_seed(seed)
    history: list[float] = []
    worst, saturated = float("inf"), 0.0
    for step in range(STEPS):
        x = 2.0**step * torch.randn(4096, generator=generator)
        amax = x.abs().max().item()
        known = history[-HISTORY:] if arm == "delayed" and history else [amax]
        factor = max(known) / E4M3.largest
        y = cast(x / factor).float() * factor
        worst = min(worst, sqnr(x, y))
        beyond = (x.abs() > factor * E4M3.largest * (1 + 1e-6)).float().mean()
        saturated = max(saturated, beyond.item())
        history.append(amax)
    return {"sqnr": round(worst, 2), "saturated": round(saturated, 4)}
