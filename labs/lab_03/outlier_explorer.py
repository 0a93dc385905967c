"""An outlier, tiles of several sizes, and the error of every number."""

from __future__ import annotations

from functools import lru_cache

import plotly.graph_objects as go
import torch
from torch import Tensor

from kernels.fp8_scaling import Tile
from labs.lab_03.schemes import FACTORS, rounded, sqnr, zeroed
from labsupport.explore import Explorer, View, choose, slide

M, K = 16, 256
COLUMN = 40
"""Where the outlier is."""
TILES: dict[str, Tile] = {
    "the whole matrix": (M, K),
    "tiles of 1 x 256": (1, 256),
    "blocks of 16 x 64": (16, 64),
    "tiles of 1 x 128": (1, 128),
    "tiles of 1 x 32": (1, 32),
}
FORMATS = ("E4M3", "E5M2", "INT8")
WORST = 100.0
"""Percent; an error of that much and more is black."""


def outlier_explorer() -> Explorer:
    """How large the outlier is, what shares a scale, and the format."""
    return Explorer(
        draw,
        factor=slide("outlier f", FACTORS, 1e5, [f"{f:g}" for f in FACTORS]),
        tile=choose("scales for", list(TILES)),
        fmt=choose("format", FORMATS),
    )


@lru_cache(maxsize=1)
def numbers() -> Tensor:
    """Normal numbers, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(M, K, generator=generator)


def draw(factor: float, tile: str, fmt: str) -> View:
    """The relative error of each number."""
    x_MK = numbers().clone()
    x_MK[:, COLUMN] *= factor
    y_MK = rounded(x_MK, TILES[tile], fmt)
    error_MK = 100 * (y_MK - x_MK).abs() / x_MK.abs()
    others = torch.arange(K) != COLUMN
    x, y = x_MK[:, others], y_MK[:, others]
    lost = zeroed(x, y)
    figure = go.Figure()
    figure.add_heatmap(
        z=error_MK.clamp(max=WORST).round(decimals=1).tolist(),
        zmin=0,
        zmax=WORST,
        colorscale=[
            [0, "#ffffff"],
            [0.06, "#cfe3f3"],
            [0.3, "#5b9bd0"],
            [1, "#0b2545"],
        ],
        colorbar={"title": "error, %", "thickness": 14},
        hovertemplate="row %{y}, column %{x}: %{z} %<extra></extra>",
    )
    _, columns = TILES[tile]
    for k in range(columns, K, columns):
        figure.add_vline(x=k - 0.5, line={"color": "#d55e00", "width": 1})
    figure.add_annotation(
        x=COLUMN,
        y=M,
        text=f"x {factor:g}",
        showarrow=True,
        arrowhead=2,
        ax=0,
        ay=-24,
    )
    figure.update_yaxes(title="row", range=[-0.5, M + 0.5])
    figure.update_xaxes(title="column")
    title = f"{fmt}, scales for {tile}, outlier x {factor:g}"
    figure.update_layout(title=title, height=340, margin={"t": 70})
    ratio = sqnr(x, y)
    sentence = (
        f"{title}: the SQNR of the other columns is {ratio:.1f} dB, and {lost:.1%} of "
        f"their numbers become 0."
    )
    same = torch.arange(K) // columns == COLUMN // columns
    parts = {
        "all others": others,
        "the outlier's tiles": others & same,
        "other tiles": ~same,
    }
    table: dict[str, list[object]] = {
        "columns": list(parts),
        "numbers": [M * int(part.sum()) for part in parts.values()],
        "SQNR (dB)": [],
        "become 0 (%)": [],
    }
    for part in parts.values():
        x, y = x_MK[:, part], y_MK[:, part]
        some = bool(part.any())
        table["SQNR (dB)"].append(round(sqnr(x, y), 1) if some else "none")
        gone = round(100 * zeroed(x, y), 1) if some else "none"
        table["become 0 (%)"].append(gone)
    return View(figure, sentence, table)
