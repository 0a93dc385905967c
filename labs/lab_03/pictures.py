"""How tiles of the input and blocks of the weights meet in a product."""

from __future__ import annotations

import plotly.graph_objects as go

from labsupport.explore import View
from labsupport.explore.style import BLUE, GREEN, ORANGE

INK, GREY = "#1f2937", "#9ca3af"
J, I, M = 4, 3, 6  # noqa: E741
"""Tiles in a row, blocks of outputs, rows that are drawn."""
SIDE = 1.0
"""Of a block; a tile is as wide and a row high."""
ROW = 0.34
CHOSEN_J, CHOSEN_M, CHOSEN_I = 1, 3, 2


def _box(figure: go.Figure, x: float, y: float, w: float, h: float, fill: str):  # type: ignore[no-untyped-def]
    figure.add_shape(
        type="rect",
        x0=x,
        x1=x + w,
        y0=y,
        y1=y - h,
        fillcolor=fill,
        line={"color": INK, "width": 1},
    )


def _word(figure: go.Figure, x: float, y: float, text: str, size: int = 14):  # type: ignore[no-untyped-def]
    figure.add_annotation(
        x=x, y=y, text=text, showarrow=False, font={"size": size, "color": INK}
    )


def idea_view() -> View:
    """Input, weights and result, one tile and one block picked out."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0], y=[0], mode="markers", opacity=0, hoverinfo="skip"
    )
    top = 0.0
    for m in range(M):
        for j in range(J):
            mine = j == CHOSEN_J and m == CHOSEN_M
            fill = BLUE if mine else "#e8f1f8" if m == CHOSEN_M else "#ffffff"
            _box(figure, j * SIDE, top - m * ROW, SIDE, ROW, fill)
    _word(figure, J * SIDE / 2, 0.45, "<b>input</b>: codes q, tiles of 1 x T")
    right = J * SIDE + 1.1
    for i in range(I):
        for j in range(J):
            mine = j == CHOSEN_J and i == CHOSEN_I
            fill = (
                ORANGE if mine else "#fdf3dc" if i == CHOSEN_I else "#ffffff"
            )
            _box(figure, right + j * SIDE, top - i * SIDE, SIDE, SIDE, fill)
    _word(
        figure,
        right + J * SIDE / 2,
        0.45,
        "<b>weights</b>: codes w, blocks of T x T",
    )
    far = right + J * SIDE + 1.1
    for m in range(M):
        for i in range(I):
            mine = m == CHOSEN_M and i == CHOSEN_I
            fill = GREEN if mine else "#ffffff"
            _box(figure, far + i * SIDE, top - m * ROW, SIDE, ROW, fill)
    _word(figure, far + I * SIDE / 2, 0.45, "<b>y</b>, float32")
    _word(figure, J * SIDE / 2, -M * ROW - 0.3, "K &#8594;", 13)
    _word(figure, -0.35, -M * ROW / 2, "M", 13)
    _word(figure, right + J * SIDE / 2, -I * SIDE - 0.3, "K &#8594;", 13)
    _word(figure, right - 0.3, -I * SIDE / 2, "N", 13)
    _word(figure, far + I * SIDE / 2, -M * ROW - 0.3, "N &#8594;", 13)
    _word(
        figure,
        (CHOSEN_J + 0.5) * SIDE,
        top - (CHOSEN_M + 0.5) * ROW,
        "<b>s</b>",
    )
    _word(
        figure,
        right + (CHOSEN_J + 0.5) * SIDE,
        top - (CHOSEN_I + 0.5) * SIDE,
        "<b>t</b>",
        18,
    )
    _word(
        figure,
        (far + I * SIDE) / 2,
        -I * SIDE - 0.95,
        "The green part of y is a sum over j of  s t (q &#183; w):<br>one term for "
        "each tile of the blue row and its block of the yellow one.",
    )
    figure.update_xaxes(visible=False, range=[-0.6, far + I * SIDE + 0.2])
    figure.update_yaxes(visible=False, range=[-I * SIDE - 1.3, 0.9])
    figure.update_layout(
        title="Where a tile of the input meets a block of the weights",
        height=400,
        showlegend=False,
        margin={"l": 10, "r": 10, "b": 10},
    )
    sentence = (
        f"An input of {M} rows, each cut into {J} tiles with a scale s of their own; "
        f"weights in {I} x {J} blocks with a scale t each. Tile j of a row meets block "
        "j of each output: within it all products have the same two scales."
    )
    return View(figure, sentence, {})
