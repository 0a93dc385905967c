"""The picture of the number line: bits, neighbours, the whole range.

Everything goes into one figure at once: plotly checks each piece that is added
to a figure, which would take longer than a slider may.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from labsupport.explore.style import BLUE, GREEN, VERMILION

LOW, HIGH = -18, 17
"""Exponents of the values shown: past both ends of both formats."""
LEFT, RIGHT = LOW - 2.0, HIGH + 3.0
"""The ends of the range's axis."""
FIELDS = {"sign": VERMILION, "exponent": GREEN, "mantissa": BLUE}
GREY = "#6b7280"

Piece = dict[str, Any]
Pieces = tuple[list[Piece], list[Piece], list[Piece], dict[str, Any]]
"""Traces, annotations, shapes and axes of one part."""


def name_of(value: float) -> str:
    """A number as the picture and the sentence write it."""
    if math.isnan(value):
        return "NaN"
    size = "∞" if math.isinf(value) else f"{abs(value):.6g}"
    return "−" * (math.copysign(1, value) < 0) + size


def picture(
    title: str,
    bits: Sequence[tuple[str, str]],
    meaning: str,
    value: float,
    rounded: float,
    near: Mapping[float, str],
    sizes: Sequence[float],
    flushed: float,
    format_name: str,
) -> go.Figure:
    """Three parts, one above the other.

    Args:
        title: of the figure.
        bits: "0" or "1" and the field that it belongs to, from the left.
        meaning: what the bits say.
        value: the number that is cast.
        rounded: what it becomes.
        near: the format's numbers around it, with their labels; {} for NaN.
        sizes: the format's positive numbers.
        flushed: the largest size that becomes zero.
        format_name: "E4M3".
    """
    parts = (
        _bits(bits, meaning),
        _neighbours(value, rounded, near),
        _range(value, sizes, flushed, format_name),
    )
    traces: list[Piece] = []
    annotations: list[Piece] = []
    shapes: list[Piece] = []
    layout: dict[str, Any] = {}
    for number, (drawn, written, boxes, axes) in enumerate(parts, start=1):
        # The first part has the axes x and y, the second x2 and y2.
        suffix = "" if number == 1 else str(number)
        x, y = f"x{suffix}", f"y{suffix}"
        traces += [{**each, "xaxis": x, "yaxis": y} for each in drawn]
        annotations += [_on(each, x, y) for each in written]
        shapes += [_on(each, x, y) for each in boxes]
        layout |= {
            f"xaxis{suffix}": axes["x"] | {"anchor": y},
            f"yaxis{suffix}": axes["y"] | {"anchor": x, "visible": False},
        }
    return go.Figure(
        data=traces,
        layout={
            "title": title,
            "height": 430,
            "showlegend": False,
            "margin": {"t": 44, "l": 24, "r": 24, "b": 52},
            "annotations": annotations,
            "shapes": shapes,
            **layout,
        },
    )


def _on(piece: Piece, x: str, y: str) -> Piece:
    """A piece on the axes of its part; an arrow's tail too."""
    tail = {"axref": x, "ayref": y} if "axref" in piece else {}
    return {"xref": x, "yref": y, **piece, **tail}


def _bits(bits: Sequence[tuple[str, str]], meaning: str) -> Pieces:
    """Eight squares, the names of their fields, and what they say."""
    trace = {
        "type": "scatter",
        "x": list(range(8)),
        "y": [1] * 8,
        "mode": "markers+text",
        "marker": {
            "symbol": "square",
            "size": 32,
            "color": [FIELDS[field] for _, field in bits],
        },
        "text": [f"<b>{bit}</b>" for bit, _ in bits],
        "textfont": {"color": "white", "size": 16},
        "hoverinfo": "skip",
    }
    written = [
        {
            "x": 8.1,
            "y": 1,
            "xanchor": "left",
            "text": meaning,
            "font": {"size": 14},
            "showarrow": False,
        }
    ]
    for field, colour in FIELDS.items():
        places = [i for i, (_, owner) in enumerate(bits) if owner == field]
        written.append(
            {
                "x": sum(places) / len(places),
                "y": 1,
                "text": field,
                "font": {"color": colour, "size": 13},
                "yanchor": "bottom",
                "yshift": 18,
                "showarrow": False,
            }
        )
    axes = {
        "x": {"visible": False, "range": [-0.7, 17]},
        "y": {"range": [0.2, 2], "domain": [0.74, 1]},
    }
    return [trace], written, [], axes


def _neighbours(
    value: float, rounded: float, near: Mapping[float, str]
) -> Pieces:
    """The numbers around the value, and an arrow to the one it becomes."""
    numbers = list(near)
    ticks = {
        "type": "scatter",
        "x": numbers,
        "y": [0] * len(numbers),
        "mode": "markers",
        "marker": {
            "symbol": "line-ns",
            "size": 18,
            "line": {
                "width": 3,
                "color": [BLUE if v == rounded else GREY for v in numbers],
            },
        },
        "hoverinfo": "skip",
    }
    labels = {
        "type": "scatter",
        "x": numbers,
        "y": [-0.4] * len(numbers),
        "mode": "text",
        "text": list(near.values()),
        "textposition": "bottom center",
        "textfont": {"size": 12},
        "hoverinfo": "skip",
    }
    low, high = (numbers[0], numbers[-1]) if numbers else (0.0, 1.0)
    room = 0.16 * (high - low)
    # What lies far beyond the end stands at the edge, and points outwards.
    place = min(max(value, low - room), high + room)
    beyond, left = place != value, value < 0
    symbol = "triangle-left" if left else "triangle-right"
    here = [] if math.isnan(value) else [place]
    marker = {
        "type": "scatter",
        "x": here,
        "y": [0.9] * len(here),
        "mode": "markers+text",
        "marker": {
            "symbol": symbol if beyond else "diamond",
            "size": 12,
            "color": VERMILION,
        },
        "text": [f"<b>{name_of(value)}</b>"] * len(here),
        "textposition": "top center",
        "textfont": {"color": VERMILION, "size": 13},
        "hoverinfo": "skip",
    }
    if here:
        written = {
            "x": rounded,
            "y": 0.12,
            "ax": place,
            "ay": 0.8,
            "axref": "x",
            "arrowhead": 2,
            "arrowwidth": 2,
            "arrowcolor": VERMILION,
            "text": "",
        }
    else:
        written = {
            "x": 0.5,
            "y": 0.5,
            "text": "NaN has no place on the number line",
            "showarrow": False,
        }
    ends = low - 1.5 * room, high + 1.5 * room
    line = {
        "type": "line",
        "x0": ends[0],
        "x1": ends[1],
        "y0": 0,
        "y1": 0,
        "line": {"color": GREY, "width": 1},
    }
    axes = {
        "x": {"visible": False, "range": list(ends)},
        "y": {"range": [-1.1, 1.7], "domain": [0.34, 0.68]},
    }
    return [ticks, labels, marker], [written], [line], axes


def _range(
    value: float, sizes: Sequence[float], flushed: float, format_name: str
) -> Pieces:
    """Every positive number of the format, by its logarithm, and |value|."""
    size = abs(value)
    shown = size > 0  # neither 0 nor NaN
    place = min(math.log2(size), RIGHT - 0.4) if shown else 0.0
    ticks = {
        "type": "scatter",
        "x": [math.log2(v) for v in sizes],
        "y": [0] * len(sizes),
        "mode": "markers",
        "marker": {
            "symbol": "line-ns",
            "size": 16,
            "line": {"width": 1, "color": BLUE},
        },
        "hovertext": [name_of(v) for v in sizes],
        "hoverinfo": "text",
    }
    marker = {
        "type": "scatter",
        "x": [place] * shown,
        "y": [0.75] * shown,
        "mode": "markers",
        "marker": {"symbol": "triangle-down", "size": 12, "color": VERMILION},
        "hoverinfo": "skip",
    }
    zones = (
        (LEFT, math.log2(flushed), "to zero", "rgba(107, 114, 128, 0.25)"),
        (math.log2(sizes[-1]), RIGHT, "saturates", "rgba(213, 94, 0, 0.2)"),
    )
    boxes = [
        {
            "type": "rect",
            "x0": first,
            "x1": last,
            "y0": -0.5,
            "y1": 0.5,
            "fillcolor": colour,
            "line": {"width": 0},
            "layer": "below",
        }
        for first, last, _, colour in zones
    ]
    written = [
        {
            "x": (first + last) / 2,
            "y": 0,
            "text": text,
            "font": {"size": 11, "color": GREY},
            "showarrow": False,
        }
        for first, last, text, _ in zones
    ]
    powers = [-18, -14, -10, -6, 0, 8, 16]
    axes = {
        "x": {
            "title": {
                "text": f"size of the numbers of {format_name}, logarithmic",
                "font": {"size": 13},
            },
            "range": [LEFT, RIGHT],
            "tickvals": powers,
            "ticktext": [f"2<sup>{power}</sup>" for power in powers],
            "showgrid": False,
        },
        "y": {"range": [-0.6, 1.3], "domain": [0, 0.3]},
    }
    return [ticks, marker], written, boxes, axes
