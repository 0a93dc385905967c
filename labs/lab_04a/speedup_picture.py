"""The picture of time saved against bandwidth: lines, the article's zone, marks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go

from labs.lab_04a.link_model import (
    Machine,
    MethodCost,
    break_even,
    exposed_share,
    saving,
)
from labsupport.explore.style import COLOURS, RECORDED

BITS = 8
LOW, HIGH = 1e7, 2e12
"""The ends of the axis, bit/s."""
POINTS = 160
FLOOR, CEILING = -32.0, 102.0
"""Of the axis of time saved, percent; who wastes more leaves the picture."""
ARTICLE = (0.4, 0.6)
"""What the article says is saved: shares of the time."""
MARKS = {
    5e7: "50 Mbit/s<br>home upload",
    1e9: "1 Gbit/s<br>office network",
    1e10: "10 Gbit/s<br>10 GbE",
    1e11: "100 Gbit/s<br>data centre",
    1.28e12: "1.28 Tbit/s<br>NVLink-class",
}
"""Typical figures, for orientation. The last are the 160 GB/s of DeepSeek-V3's cluster
(arXiv 2412.19437, section 3.2.2)."""
UNITS = ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))
SYMBOLS = (
    "square triangle-up x diamond star cross triangle-down pentagon"
).split()
# Dashes mean that something was not measured, so methods differ in colour and symbol.
LINES = (*COLOURS, "#882255")
GREY, INK = "#9ca3af", "#4b5563"


def rate(bytes_per_s: float) -> str:
    """1.25e8 -> "1 Gbit/s"."""
    bits = float(f"{BITS * bytes_per_s:.3g}")  # before its unit is chosen
    size, unit = next((u for u in UNITS if bits >= u[0]), (1.0, "bit/s"))
    return f"{bits / size:.3g} {unit}"


def bandwidths() -> list[float]:
    """Where the lines are computed, in bit/s: equal steps on a log axis."""
    return [LOW * (HIGH / LOW) ** (i / (POINTS - 1)) for i in range(POINTS)]


def saved_percent(
    method: MethodCost, dense: MethodCost, machine: Machine
) -> list[float]:
    """Of a step's time, at each of `bandwidths()`."""
    return [
        100 * saving(method, dense, replace(machine, bandwidth=bits / BITS))
        for bits in bandwidths()
    ]


def exposed_percent(dense: MethodCost, machine: Machine) -> list[float]:
    """f at each of `bandwidths()`: what a method that sends nothing saves."""
    return [
        100 * exposed_share(dense, replace(machine, bandwidth=bits / BITS))
        for bits in bandwidths()
    ]


def add_lines(
    figure: go.Figure,
    methods: Sequence[MethodCost],
    machine: Machine,
    dashed: bool,
    column: int = 1,
    symbols: int = 9,
) -> list[str]:
    """A line for each method but the first, f behind them, their break-evens.

    Args:
        methods: the first is what the others are compared with.
        dashed: whether nobody measured with so many workers.
        column: of the figure's subplots; the first has the legend.
        symbols: on a line, about.

    Returns:
        Names of the methods whose lines lie below the picture.
    """
    dense, *others = methods
    dash = "dash" if dashed else "solid"
    legend = column == 1
    figure.add_scatter(
        x=bandwidths(),
        y=exposed_percent(dense, machine),
        name="f: nobody saves more",
        mode="lines",
        line={"color": GREY, "width": 7},
        opacity=0.55,
        legendgroup="f",
        showlegend=legend,
        hovertemplate="%{x:.3s}bit/s: f = %{y:.0f} %<extra></extra>",
        row=1,
        col=column,
    )
    below, edges = [], []
    for number, method in enumerate(others):
        colour = LINES[number % len(LINES)]
        y = saved_percent(method, dense, machine)
        if max(y) < FLOOR:
            below.append(method.name)
        figure.add_scatter(
            x=bandwidths(),
            y=y,
            name=method.name,
            mode="lines+markers",
            line={"color": colour, "width": 2.2, "dash": dash},
            marker={
                "symbol": SYMBOLS[number % len(SYMBOLS)],
                "size": 8,
                "maxdisplayed": symbols,
            },
            legendgroup=method.name,
            showlegend=legend,
            hovertemplate="%{x:.3s}bit/s: %{y:.0f} % saved",
            row=1,
            col=column,
        )
        edge = break_even(method, dense, machine)
        if edge is not None:
            edges.append((BITS * edge, method.name, colour))
    figure.add_scatter(
        x=[x for x, _, _ in edges],
        y=[0.0] * len(edges),
        name="break-even",
        mode="markers",
        marker={
            "symbol": "circle",
            "size": 12,
            "color": "white",
            "line": {"color": [colour for *_, colour in edges], "width": 3},
        },
        text=[name for _, name, _ in edges],
        hovertemplate="%{text}: faster below %{x:.3s}bit/s<extra></extra>",
        legendgroup="break-even",
        showlegend=legend,
        row=1,
        col=column,
    )
    return below


def add_zone(figure: go.Figure, column: int = 1) -> None:
    """What the article says is saved, and the line of nothing saved."""
    low, high = ARTICLE
    figure.add_hrect(
        y0=100 * low,
        y1=100 * high,
        fillcolor=RECORDED,
        line_width=0,
        layer="below",
        row=1,
        col=column,
        exclude_empty_subplots=False,
    )
    figure.add_hline(
        y=0,
        line={"color": INK, "width": 1},
        row=1,
        col=column,
        exclude_empty_subplots=False,
    )


def add_marks(figure: go.Figure) -> None:
    """Typical links, above the plot."""
    shapes = [
        {
            "type": "line",
            "x0": bits,
            "x1": bits,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": GREY, "width": 1, "dash": "dot"},
        }
        for bits in MARKS
    ]
    words = [
        {
            # Plotly takes an annotation's place on a log axis as its logarithm.
            "x": math.log10(bits),
            "y": 1,
            "yref": "paper",
            "yanchor": "bottom",
            "text": text,
            "showarrow": False,
            "font": {"size": 11, "color": INK},
        }
        for bits, text in MARKS.items()
    ]
    # All at once: plotly checks everything again with each piece that is added.
    figure.update_layout(
        shapes=[*figure.layout.shapes, *shapes],
        annotations=[*figure.layout.annotations, *words],
    )


def finish(
    figure: go.Figure, notes: Sequence[str], ticks: Sequence[float]
) -> None:
    """Axes, lines of small print under the plot, and under them the legend.

    Args:
        notes: at most three lines.
        ticks: of the bandwidth, bit/s.
    """
    figure.update_xaxes(
        type="log",
        range=[math.log10(LOW), math.log10(HIGH)],
        tickvals=list(ticks),
        ticktext=[_short(bits) for bits in ticks],
    )
    figure.update_yaxes(range=[FLOOR, CEILING], dtick=20)
    top, bottom, height = 90, 190, 570
    plot = height - top - bottom
    figure.add_annotation(
        text="<br>".join(notes),
        align="left",
        showarrow=False,
        x=0,
        xref="paper",
        xanchor="left",
        xshift=-56,
        y=0,
        yref="paper",
        yanchor="top",
        yshift=-50,
        font={"size": 11},
    )
    figure.update_layout(
        height=height,
        margin={"t": top, "b": bottom},
        legend={"y": -100 / plot, "yanchor": "top", "x": 0},
    )


def _short(bits: float) -> str:
    """1e9 -> "1 G", on an axis in bit/s."""
    size, unit = next(u for u in UNITS if bits >= u[0])
    return f"{bits / size:g} {unit[0]}"
