"""What N parameters and P streams are worth, and what they cost, by the fitted law."""

from __future__ import annotations

from functools import cache
from typing import Any

import plotly.graph_objects as go

from labs.lab_05b.arithmetic import training_bytes, training_flops
from labs.lab_05b.inference_bytes import Plain, cache_bytes, weight_bytes
from labs.lab_05b.pictures import draw_law
from labs.lab_05b.published import LOSSES, SHAPES, STREAMS, Shape
from labs.lab_05b.refit import Fit, fit_published
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE, GREEN, VERMILION

LENGTH = 2048
"""Tokens of a text that is being written."""
TEXTS = (1, 8, 64)
SIZES = {f"{s.parameters() / 1e9:.1f}B": s for s in SHAPES}


@cache
def law() -> Fit:
    """On Stack-V2-Python, as the authors fitted it."""
    return fit_published("Stack")


def scaling_explorer() -> Explorer:
    """Size, streams, and how many texts are written at a time."""
    return Explorer(
        draw,
        size=slide("parameters N", tuple(SIZES), "1.6B"),
        streams=slide("streams P", STREAMS, 8),
        texts=choose("texts at a time", TEXTS),
    )


def costs(shape: Shape, P: int, texts: int) -> dict[str, float]:
    """GFLOPs a token, and gigabytes of training and of writing."""
    writing = weight_bytes(shape, P) + cache_bytes(shape, P, texts, LENGTH)
    return {
        "GFLOPs to train on a token": training_flops(shape, P) / 1e9,
        "GB of weights, gradients, Adam": training_bytes(shape, P) / 1e9,
        "GB to write": writing / 1e9,
    }


def plain_costs(billions: float, texts: int) -> dict[str, float]:
    """The same of a plain model of any size."""
    plain = Plain(billions * 1e9)
    writing = plain.weight_bytes + texts * LENGTH * plain.token_bytes
    return {
        "GFLOPs to train on a token": 6 * billions,
        "GB of weights, gradients, Adam": 16 * billions,
        "GB to write": writing / 1e9,
    }


def draw(size: str, streams: int, texts: int) -> View:
    """Left: the loss, and the plain model of equal loss. Right: both bills."""
    shape, P, fit = SIZES[size], streams, law()
    own = shape.parameters(P) / 1e9
    equal = fit.effective(own, P)
    mine, theirs = costs(shape, P, texts), plain_costs(equal, texts)
    ratios = {name: mine[name] / theirs[name] for name in mine}
    figure = go.Figure()
    drawn = {1: "plain"} | ({P: f"P = {P}"} if P > 1 else {})
    draw_law(figure, "Stack", fit, drawn)
    loss = fit.loss(own, P)
    figure.add_scatter(
        x=[own, equal],
        y=[loss, loss],
        mode="lines+markers",
        line={"color": "#111827", "width": 2},
        marker={"symbol": ["star", "circle-open"], "size": [15, 13]},
        name="equal loss",
        hovertemplate="%{x:.2f} billion<extra></extra>",
    )
    bars = list(ratios)
    figure.add_bar(
        orientation="h",
        x=[ratios[name] for name in bars],
        y=bars,
        xaxis="x2",
        yaxis="y2",
        marker={
            "color": [VERMILION if ratios[n] > 1.005 else GREEN for n in bars]
        },
        text=[f"{ratios[name]:.2f} x" for name in bars],
        textposition="outside",
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )
    figure.add_shape(
        type="line",
        x0=1,
        x1=1,
        xref="x2",
        y0=0,
        y1=1,
        yref="paper",
        line={"color": BLUE, "dash": "dot"},
    )
    figure.update_layout(
        title=f"{size}, P = {P}, against the plain model of equal loss",
        xaxis={
            "title": "N, billions",
            "type": "log",
            "domain": [0, 0.44],
            "tickvals": [0.5, 1, 2, 4, 8],
        },
        yaxis={"title": "loss (nats per token)"},
        xaxis2={
            "title": "times the equal plain model's",
            "domain": [0.72, 0.96],
            "rangemode": "tozero",
            "range": [0, max(1.2, *ratios.values()) * 1.15],
        },
        yaxis2={"anchor": "x2", "autorange": "reversed", "showgrid": False},
        height=420,
    )
    small_print(
        figure,
        "points: published with arXiv 2505.10475, Stack-V2-Python; the rest is "
        "calculated from the fitted law and the published shapes",
    )
    return View(
        figure,
        _sentence(size, P, texts, equal, ratios),
        _table(shape, P, texts, equal),
    )


def _sentence(
    size: str, P: int, texts: int, equal: float, ratios: dict[str, float]
) -> str:
    flops, states, writing = ratios.values()
    many = "1 text" if texts == 1 else f"{texts} texts"
    return (
        f"{size} with {P} stream{'s' if P > 1 else ''} has the loss of a plain "
        f"{equal:.2f}B model, by the law. Against that it takes {flops:.2f} times the "
        f"FLOPs to train, {states:.2f} times the memory for weights, gradients and "
        f"Adam, and {writing:.2f} times the memory to write {many} of {LENGTH} tokens."
    )


def _table(
    shape: Shape, P: int, texts: int, equal: float
) -> dict[str, list[Any]]:
    N, at = shape.parameters() / 1e9, SHAPES.index(shape)
    plain, several = (LOSSES["Stack"][p][at] for p in (1, P))
    columns = [(f"{N:.2f}B, P = 1", costs(shape, 1, texts), plain)]
    if P > 1:
        columns += [
            (f"{N:.2f}B, P = {P}", costs(shape, P, texts), several),
            (
                f"plain {equal:.2f}B",
                plain_costs(equal, texts),
                law().loss(equal, 1),
            ),
        ]
    table: dict[str, list[Any]] = {"what": [*columns[0][1], "loss"]}
    for name, column, loss in columns:
        values = [round(value, 2) for value in column.values()]
        table[name] = [*values, round(loss, 4)]
    return table
