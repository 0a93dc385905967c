"""The small line below a figure that says where its numbers come from."""

from __future__ import annotations

import plotly.graph_objects as go


def caption_below(figure: go.Figure, text: str) -> None:
    """Write a line below the axis title, from the figure's left edge."""
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
        yshift=-54,
        font={"size": 11},
    )
    figure.update_layout(margin={"b": 84})
