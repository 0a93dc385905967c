"""One number and the 8-bit numbers around it: what it becomes, bit by bit."""

from __future__ import annotations

import itertools
import math

import plotly.graph_objects as go
import torch

from kernels.float8 import FORMATS, Float8, cast
from kernels.float8 import decode as decode_codes
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, GREEN, VERMILION

VALUES = (
    *(-math.inf, -500.0, -300.0, -1.3, -0.01),
    *(0.0, 0.0005, 2.0**-10, 0.001, 0.0029, 0.0049, 0.012),
    *(2.0**-6, 0.019, 0.1, 0.3, 1.0, 1.0625, 1.1, 1.95, 3.3, 17.0, 100.0),
    *(127.3, 300.0, 440.0, 448.0, 455.0, 470.0, 6e4, 1e5),
    *(math.inf, math.nan),
)
"""Both signs, ties, subnormal numbers, both ends and what lies beyond."""
SHOWN = 5
"""Codes shown on each side."""
INK = "#1f2937"


def number_line_explorer() -> Explorer:
    """One value, in one of two formats."""
    return Explorer(
        draw,
        value=slide("number", VALUES, 1.1, [f"{value:g}" for value in VALUES]),
        fmt=choose("format", list(FORMATS)),
    )


def code_of(value: float, fmt: Float8) -> int:
    """The code that a value becomes."""
    return int(cast(torch.tensor([value]), fmt).view(torch.uint8)[0])


def bits_of(code: int, fmt: Float8) -> tuple[str, str, str]:
    """Sign, exponent and mantissa bits."""
    bits = f"{code:08b}"
    return (
        bits[0],
        bits[1 : 1 + fmt.exponent_bits],
        bits[1 + fmt.exponent_bits :],
    )


def finite_values(fmt: Float8) -> list[float]:
    """All finite values of a format in order, 0 once."""
    values = decode_codes(torch.arange(256).to(torch.uint8), fmt).tolist()
    return sorted({value for value in values if math.isfinite(value)})


def fate(value: float, became: float, fmt: Float8) -> str:
    """What happened to a value, in words."""
    if math.isnan(value):
        return "NaN stays NaN"
    if abs(value) > fmt.largest:
        return f"beyond the largest, so it saturates at {became:g}"
    if value == became:
        return "it is one of the format's numbers"
    error = f"off by {abs(value - became) / abs(value):.1%}"
    if became == 0:
        return (
            "not above half of the smallest number, so it is flushed to zero"
        )
    small = " (subnormal)" if abs(became) < fmt.smallest_normal else ""
    return error + small


def draw(value: float, fmt: str) -> View:
    """The value among its neighbours, and the byte that it becomes."""
    each = FORMATS[fmt]
    code = code_of(value, each)
    became = decode_codes(torch.tensor([code], dtype=torch.uint8), each).item()
    sign, exponent, mantissa = bits_of(code, each)
    title = f"{value:g} becomes {became:g} in {fmt}"
    figure = go.Figure()
    table: dict[str, list[object]] = {}
    if math.isfinite(became):
        values = finite_values(each)
        at = values.index(became if became else 0.0)
        near = values[max(0, at - SHOWN) : at + SHOWN + 1]
        here = near.index(values[at])
        gap = max(b - a for a, b in itertools.pairwise(near))
        shown = min(max(value, near[0] - gap), near[-1] + gap)
        figure.add_scatter(
            x=near,
            y=[0.0] * len(near),
            mode="markers+text",
            marker={"symbol": "line-ns", "size": 26, "line": {"width": 2}},
            marker_line_color=INK,
            text=[
                f"{v:g}" if abs(near.index(v) - here) < 2 else "" for v in near
            ],
            textposition="bottom center",
            textfont={"size": 11},
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[became],
            y=[0.0],
            mode="markers",
            marker={"size": 15, "color": BLUE},
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_annotation(
            x=became,
            y=0.05,
            ax=shown,
            ay=0.62,
            axref="x",
            ayref="y",
            text="",
            showarrow=True,
            arrowhead=3,
            arrowwidth=2,
            arrowcolor=VERMILION,
        )
        beyond = "" if shown == value else " (far outside)"
        figure.add_annotation(
            x=shown,
            y=0.72,
            text=f"<b>{value:g}</b>{beyond}",
            showarrow=False,
            font={"color": VERMILION},
        )
        figure.update_xaxes(range=[near[0] - 1.6 * gap, near[-1] + 1.6 * gap])
        table = {
            "code": [f"{code_of(v, each):08b}" for v in near],
            "value": near,
            "this one": ["x" if v == became else "" for v in near],
        }
    figure.update_yaxes(range=[-0.35, 1.55], visible=False)
    figure.update_xaxes(showgrid=False)
    parts = (
        ("sign", sign, VERMILION),
        ("exponent", exponent, BLUE),
        ("mantissa", mantissa, GREEN),
    )
    words = "&nbsp;&nbsp;&nbsp;".join(
        f"<span style='color:{colour}'>{name} <b>{bits}</b></span>"
        for name, bits, colour in parts
    )
    figure.add_annotation(
        x=0.5,
        y=1.3,
        xref="paper",
        text=words,
        showarrow=False,
        font={"size": 18},
    )
    figure.update_layout(title=title, height=300)
    sentence = (
        f"{title}: {fate(value, became, each)}. Its byte is {sign} {exponent} "
        f"{mantissa}, {code:#04x}."
    )
    return View(figure, sentence, table)
