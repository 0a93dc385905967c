"""The published losses and the law through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from labs.lab_05b.published import LOSSES, SHAPES, STREAMS, CorpusName
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
