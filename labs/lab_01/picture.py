"""The idea of lab 01 in one figure: residual, HC and mHC side by side.

Lanes run downwards. A branch F reads a mix of them (H_pre), writes to each of
them (H_post), and beside it the lanes are mixed (H_res): a ribbon from lane j to
lane i is as wide as |H_res[i, j]|, and dashed where that is negative. Below, H_res
in numbers with the sums of its rows and columns.
"""

from __future__ import annotations

import plotly.graph_objects as go
import torch
from torch import Tensor

from labs.lab_01.plan import LANES
from labsupport.errors import LabError
from labsupport.explore import View
from labsupport.explore.style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
)
from labsupport.nn.hyper_connections import Maps, sinkhorn

COLOUR_OF_LANE = (BLUE, GREEN, ORANGE, PURPLE, SKY, YELLOW)
INK, GREY = "#1f2937", "#6b7280"

# Pixels. Each of three panels is PANEL wide; y grows upwards.
PANEL, HEIGHT, TITLE = 240, 506, 40
LANE, BETWEEN = 40, 26  # x of a panel's first lane, and from lane to lane
IN, READ, WRITE, OUT = 452, 414, 296, 256  # heights along the lanes
BRANCH = 192  # x of F's middle
CELL, MAP = 37, 200  # side of a cell of a heat map, and y of its upper edge

LEGEND = (
    "<b>How to read it</b><br>"
    "Ribbons and dots are as large as<br>"
    "the numbers; dashed and hollow<br>"
    "ones are negative. Where no number<br>"
    "is negative and all sums are one,<br>"
    "lanes are averaged: none can grow."
)


def random_maps(seed: int = 0) -> dict[str, Maps]:
    """The same random numbers, free and constrained: "HC" and "mHC", one token.

    H_res is I + N in HC, and Sinkhorn of the logits I + N in mHC.
    """
    generator = torch.Generator().manual_seed(seed)
    pre_nM, post_nM = torch.randn(2, LANES, 1, generator=generator).double()
    noise_nn = torch.randn(LANES, LANES, generator=generator).double()
    res_nnM = (torch.eye(LANES) + noise_nn)[..., None]
    return {
        "HC": Maps(pre_nM, 1 + post_nM, res_nnM),
        "mHC": Maps(
            torch.sigmoid(pre_nM),
            2 * torch.sigmoid(post_nM),
            sinkhorn(res_nnM, 20),
        ),
    }


def idea_view(hc: Maps | None = None, mhc: Maps | None = None) -> View:
    """Three panels and what to see in them.

    Args:
        hc, mhc: the maps of a branch for one token (M = 1), trained ones say;
            left out, both are random, and the figure says so.

    Raises:
        LabError: maps of several tokens, of more than six lanes, or of just one
            of the two kinds.
    """
    if (hc is None) != (mhc is None):
        raise LabError("idea_view: give the maps of both HC and mHC, or none.")
    note = "random maps, not trained" if hc is None else "trained maps"
    if hc is None or mhc is None:
        drawn = random_maps()
        hc, mhc = drawn["HC"], drawn["mHC"]
    for maps in (hc, mhc):
        n, _, M = maps.res_nnM.shape
        if M != 1 or n > len(COLOUR_OF_LANE):
            raise LabError(
                f"idea_view: one token and at most {len(COLOUR_OF_LANE)} lanes; "
                f"got {M} tokens and {n} lanes."
            )
    one = torch.ones(1, 1).double()
    plain = Maps(one, one, one[..., None])
    figure = go.Figure()
    for place, (title, rule, maps) in enumerate(
        (
            ("residual", "x + F(x)", plain),
            ("HC", "H<sub>res</sub> is any matrix", hc),
            ("mHC", "rows and columns sum to 1", mhc),
        )
    ):
        _panel(figure, place * PANEL, title, rule, maps)
    figure.update_layout(
        title={
            "text": f"One branch F and the stream beside it ({note})",
            "x": 0.016,
            "xref": "container",
            "y": 1 - 13 / (HEIGHT + TITLE),
        },
        width=3 * PANEL,
        height=HEIGHT + TITLE,
        margin={"l": 0, "r": 0, "t": TITLE, "b": 0},
        xaxis={"visible": False, "range": [0, 3 * PANEL], "fixedrange": True},
        yaxis={"visible": False, "range": [0, HEIGHT], "fixedrange": True},
        showlegend=False,
    )
    figure.add_annotation(
        x=16,
        y=8,
        xanchor="left",
        yanchor="bottom",
        align="left",
        text=LEGEND,
        font={"size": 11, "color": GREY},
        showarrow=False,
    )
    for edge in (PANEL, 2 * PANEL):
        figure.add_shape(
            type="line",
            x0=edge,
            x1=edge,
            y0=12,
            y1=HEIGHT - 4,
            line={"color": "#d1d5db", "width": 1},
        )
    return View(figure, _sentence(hc, mhc), _table(hc, mhc))


def _panel(
    figure: go.Figure, left: float, title: str, rule: str, maps: Maps
) -> None:
    _text(figure, left + PANEL / 2, HEIGHT - 12, f"<b>{title}</b>", 16)
    _text(figure, left + PANEL / 2, HEIGHT - 34, rule, 13, GREY)
    n = len(maps.pre_nM)
    first = left + LANE + (LANES - n) / 2 * BETWEEN
    xs = [first + lane * BETWEEN for lane in range(n)]
    pre_n, post_n = maps.pre_nM[:, 0].tolist(), maps.post_nM[:, 0].tolist()
    res_nn = maps.res_nnM[..., 0]
    _lanes(figure, xs, res_nn)
    _branch(figure, left + BRANCH, xs, pre_n, post_n)
    _heat_map(figure, left + 20, res_nn)


def _lanes(figure: go.Figure, xs: list[float], res_nn: Tensor) -> None:
    """Straight down, mixed between reading and writing, and down again."""
    upper, lower = READ - 16, WRITE + 16
    n = len(xs)
    for lane, x in enumerate(xs):
        colour = COLOUR_OF_LANE[lane] if n > 1 else INK
        _line(figure, [x, x], [IN, upper], colour, 5)
        _line(figure, [x, x], [lower, OUT + 12], colour, 5)
        _arrow(figure, (x, OUT + 14), (x, OUT), colour, 5)
    for source in range(n):
        for target in range(n):
            value = res_nn[target, source].item()
            if abs(value) < 0.02:
                continue
            _line(
                figure,
                [xs[source], xs[target]],
                [upper, lower],
                COLOUR_OF_LANE[source] if n > 1 else INK,
                max(0.7, 5 * abs(value)),
                dash="solid" if value > 0 else "3px,3px",
                hover=f"of lane {source} to lane {target}: {value:.2f}",
                opacity=0.85,
            )
    if n > 1:
        middle = (upper + lower) / 2
        words = "H<sub>res</sub> mixes"
        _text(figure, xs[0] - 22, middle, words, 13, angle=-90)


def _branch(
    figure: go.Figure,
    middle: float,
    xs: list[float],
    pre_n: list[float],
    post_n: list[float],
) -> None:
    """F, what it reads, and what it writes; dots are as large as the weights."""
    half, top, bottom = 24, READ - 36, WRITE + 36
    _line(figure, [xs[0], middle, middle], [READ, READ, top + 6], INK, 1.5)
    _arrow(figure, (middle, READ), (middle, top), INK, 1.5)
    _line(figure, [middle, middle, xs[0]], [bottom, WRITE, WRITE], INK, 1.5)
    _arrow(figure, (middle, WRITE), (xs[-1] + 8, WRITE), INK, 1.5)
    figure.add_shape(
        type="rect",
        x0=middle - half,
        x1=middle + half,
        y0=bottom,
        y1=top,
        fillcolor="#e5e7eb",
        line={"color": INK, "width": 1.5},
    )
    _text(figure, middle, (top + bottom) / 2, "<b><i>F</i></b>", 20)
    reads, writes = (
        ("H<sub>pre</sub> reads", "H<sub>post</sub> writes")
        if len(xs) > 1
        else ("read", "add")
    )
    _text(figure, middle - 22, READ + 13, reads, 13)
    _text(figure, middle - 22, WRITE - 14, writes, 13)
    for y, weights, name in (
        (READ, pre_n, "reads"),
        (WRITE, post_n, "writes"),
    ):
        figure.add_scatter(
            x=xs,
            y=[y] * len(xs),
            mode="markers",
            marker={
                "opacity": 1,
                "size": [
                    max(3, 11 * abs(weight) ** 0.5) for weight in weights
                ],
                "color": [
                    INK if weight > 0 else "white" for weight in weights
                ],
                "line": {"color": INK, "width": 1.5},
            },
            text=[f"{name} {weight:.2f}" for weight in weights],
            hovertemplate="%{text}<extra></extra>",
        )


def _heat_map(figure: go.Figure, left: float, res_nn: Tensor) -> None:
    """H_res in numbers, with row sums at the right and column sums below."""
    n = len(res_nn)
    side = CELL * LANES / max(n, LANES)
    left += (LANES * CELL - n * side) / 2
    # A heat map's rows go upwards on this axis: the last row first.
    xs = [left + (column + 0.5) * side for column in range(n)]
    ys = [MAP - (row + 0.5) * side for row in range(n)]
    figure.add_heatmap(
        x0=xs[0],
        dx=side,
        y0=ys[-1],
        dy=side,
        z=res_nn.flip(0).tolist(),
        zmin=-2,
        zmax=2,
        colorscale=[(0, VERMILION), (0.5, "white"), (1, BLUE)],
        showscale=False,
        xgap=1,
        ygap=1,
        hoverinfo="skip",
    )
    figure.add_shape(
        type="rect",
        x0=left,
        x1=left + n * side,
        y0=MAP - n * side,
        y1=MAP,
        line={"color": GREY, "width": 1},
    )
    for row in range(n):
        for column in range(n):
            value = res_nn[row, column].item()
            dark = abs(value) > 1.3
            _text(
                figure,
                xs[column],
                ys[row],
                short(value),
                11,
                "white" if dark else INK,
            )
    edge, below = left + n * side, MAP - n * side
    for place in range(n):
        _sum(figure, edge + 24, ys[place], res_nn[place].sum())
        _sum(figure, xs[place], below - 12, res_nn[:, place].sum())
    _text(figure, edge + 24, MAP + 10, "<i>row sums</i>", 11, GREY)
    middle = (left + edge) / 2
    _text(figure, middle, below - 30, "<i>column sums</i>", 11, GREY)
    _text(figure, left + 12, MAP + 12, "<b>H<sub>res</sub></b>", 13)


def _sum(figure: go.Figure, x: float, y: float, value: Tensor) -> None:
    """A sum that is not one is red."""
    far = abs(value.item() - 1) > 0.05
    text = f"<b>{short(value.item())}</b>"
    _text(figure, x, y, text, 12, VERMILION if far else BLUE)


def short(value: float) -> str:
    """Two decimals, none for a whole number, a real minus sign."""
    whole = abs(value - round(value)) < 1e-3
    text = f"{round(value)}" if whole else f"{value:.2f}"
    return text.replace("-", "−")


def _text(
    figure: go.Figure,
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = INK,
    angle: float = 0,
) -> None:
    figure.add_annotation(
        x=x,
        y=y,
        text=text,
        font={"size": size, "color": colour},
        showarrow=False,
        textangle=angle,
    )


def _line(
    figure: go.Figure,
    x: list[float],
    y: list[float],
    colour: str,
    width: float,
    dash: str = "solid",
    hover: str = "",
    opacity: float = 1,
) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": width, "dash": dash},
        opacity=opacity,
        text=hover,
        hoverinfo="text" if hover else "skip",
    )


def _arrow(
    figure: go.Figure,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    width: float,
) -> None:
    figure.add_annotation(
        x=end[0],
        y=end[1],
        ax=start[0],
        ay=start[1],
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        text="",
        showarrow=True,
        arrowhead=2,
        arrowsize=0.7 if width > 3 else 1.2,
        arrowwidth=width,
        arrowcolor=colour,
    )


def sums(maps: Maps) -> tuple[list[float], list[float]]:
    """Row sums and column sums of H_res."""
    res_nn = maps.res_nnM[..., 0]
    return res_nn.sum(1).tolist(), res_nn.sum(0).tolist()


def _sentence(hc: Maps, mhc: Maps) -> str:
    free, kept = (
        f"rows that sum to {_range(rows)} and columns to {_range(columns)}"
        for rows, columns in (sums(hc), sums(mhc))
    )
    return (
        "A residual passes its one lane on as it is. HC mixes "
        f"{len(hc.pre_nM)} lanes by any matrix H_res, here with {free}: lanes grow, "
        f"shrink and cancel. mHC makes H_res doubly stochastic, with {kept}: every "
        "new lane is a weighted mean of the old ones."
    )


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"between {low} and {high}"


def _table(hc: Maps, mhc: Maps) -> dict[str, list[float | int]]:
    table: dict[str, list[float | int]] = {"lane": list(range(len(hc.pre_nM)))}
    for name, maps in (("HC", hc), ("mHC", mhc)):
        rows, columns = sums(maps)
        table[f"{name} reads"] = maps.pre_nM[:, 0].tolist()
        table[f"{name} writes"] = maps.post_nM[:, 0].tolist()
        table[f"{name} row sum"] = rows
        table[f"{name} column sum"] = columns
    return table
