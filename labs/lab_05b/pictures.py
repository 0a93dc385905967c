"""The published losses and the law through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from labs.lab_05b.arithmetic import STREAMS as HEADLINE_STREAMS
from labs.lab_05b.arithmetic import training_flops
from labs.lab_05b.published import (
    LARGE,
    LOSSES,
    SHAPES,
    SMALL,
    STREAMS,
    CorpusName,
)
from labs.lab_05b.refit import Fit
from labsupport.explore import View, small_print
from labsupport.explore.style import BLUE, GREEN, ORANGE, VERMILION

COLOURS = {1: BLUE, 2: GREEN, 4: ORANGE, 8: VERMILION}
DASHES = {1: "solid", 2: "dash", 4: "dashdot", 8: "dot"}
SYMBOLS = {1: "circle", 2: "square", 4: "diamond", 8: "triangle-up"}
"""By P."""
SOURCE = "points: published with arXiv 2505.10475; lines: the law, fitted here"


def draw_law(
    figure: go.Figure,
    corpus: CorpusName,
    fit: Fit,
    streams: Mapping[int, str],
    **where: Any,
) -> None:
    """Add points and lines of a corpus.

    Args:
        streams: the values of P to draw, and what the legend calls them.
        where: axes of a subplot.
    """
    billions = [shape.parameters() / 1e9 for shape in SHAPES]
    fine = [billions[0] * (8.2 ** (i / 24)) for i in range(25)]
    for P, name in streams.items():
        figure.add_scatter(
            x=billions,
            y=list(LOSSES[corpus][P]),
            mode="markers",
            marker={"color": COLOURS[P], "symbol": SYMBOLS[P], "size": 9},
            name=name,
            hovertemplate="%{x:.2f} billion: %{y:.4f}<extra></extra>",
            **where,
        )
        figure.add_scatter(
            x=[round(n, 4) for n in fine],
            y=[round(fit.loss(n, P), 5) for n in fine],
            mode="lines",
            line={"color": COLOURS[P], "dash": DASHES[P], "width": 1.5},
            hoverinfo="skip",
            showlegend=False,
            **where,
        )


def refit_view(corpus: CorpusName, fit: Fit) -> View:
    """All 24 losses of a corpus and the fitted law."""
    figure = go.Figure()
    names = {P: f"P = {P}" for P in STREAMS}
    draw_law(figure, corpus, fit, names)
    figure.update_xaxes(
        title="parameters N, billions",
        type="log",
        tickvals=[0.5, 1, 2, 4],
    )
    figure.update_yaxes(title="loss (nats per token)")
    figure.update_layout(title=f"{corpus}: 24 trainings and the law")
    small_print(figure, SOURCE)
    table: dict[str, list[Any]] = {
        "N, billions": [round(s.parameters() / 1e9, 3) for s in SHAPES]
    }
    for P in STREAMS:
        table[f"loss, P = {P}"] = list(LOSSES[corpus][P])
        table[f"law, P = {P}"] = [
            round(fit.loss(s.parameters(P) / 1e9, P), 4) for s in SHAPES
        ]
    sentence = (
        f"{corpus}: the fitted law has E = {fit.E:.4f}, A = {fit.A:.4g} billion, alpha "
        f"= {fit.alpha:.4f}, k = {fit.k:.4f}, and explains {fit.r2:.2%} of the "
        "variance of 24 losses."
    )
    return View(figure, sentence, table)


def flops_view() -> View:
    """FLOPs to train on a token: the headline's two models, and 1.6B plain."""
    bars = {
        "1.6B, 1 stream": training_flops(SMALL) / 1e9,
        "4.4B, 1 stream": training_flops(LARGE) / 1e9,
        f"1.6B, {HEADLINE_STREAMS} streams": training_flops(
            SMALL, HEADLINE_STREAMS
        )
        / 1e9,
    }
    figure = go.Figure()
    figure.add_bar(
        x=[round(value, 2) for value in bars.values()],
        y=list(bars),
        orientation="h",
        marker={"color": [BLUE, BLUE, VERMILION]},
        text=[f"{value:.1f}" for value in bars.values()],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.update_xaxes(title="GFLOPs to train on one token")
    figure.update_layout(
        title="What a token costs in training", margin={"l": 130}, height=260
    )
    sentence = "GFLOPs to train on one token: " + ", ".join(
        f"{name} {value:.1f}" for name, value in bars.items()
    )
    table = {
        "model": list(bars),
        "GFLOPs": [round(v, 2) for v in bars.values()],
    }
    return View(figure, sentence + ".", table)
