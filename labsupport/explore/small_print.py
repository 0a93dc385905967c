"""The line below a figure that says where its numbers come from."""

from __future__ import annotations

import plotly.graph_objects as go

FROM_PLOT = 54
"""Pixels below the plot: past tick labels and the axis title."""


def small_print(figure: go.Figure, text: str) -> None:
    """Write a line in small letters below the axis title, from the figure's left edge.

    Call it last: it makes room below, and starts at the margin that is set by then.
    """
    left = figure.layout.margin.l or 64
    figure.add_annotation(
        text=text,
        showarrow=False,
        x=0,
        xref="paper",
        xanchor="left",
        xshift=8 - left,
        y=0,
        yref="paper",
        yanchor="top",
        yshift=-FROM_PLOT,
        font={"size": 11},
    )
    below = figure.layout.margin.b or 0
    figure.update_layout(margin={"b": max(below, FROM_PLOT + 30)})
