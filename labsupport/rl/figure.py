"""The picture of a training with rewards: three curves above one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labsupport.explore.style import BLUE, GREEN, PURPLE, RECORDED, VERMILION, template
from labsupport.train.figure import SPREAD
from labsupport.train.run import Band

VALIDATION = "validation"
PANELS = {
    "reward": (BLUE, "reward"),
    "length": (GREEN, "tokens written"),
    "entropy": (PURPLE, "entropy (nats)"),
}
"""Each metric, its colour, and what stands beside its axis."""


def curves(
    metrics: Sequence[Mapping[str, float]], most: int = 0
) -> dict[str, tuple[list[float], list[float]]]:
    """The x and y of each line; at most about `most` points each, 0 for all."""
    stride = 1 + len(metrics) // most if most else 1
    # Counted from the end, so that the newest point is always there.
    shown = metrics[::-1][::stride][::-1]
    steps = [row["step"] for row in shown]
    lines = {name: (steps, [row[name] for row in shown]) for name in PANELS}
    checked = [row for row in metrics if not math.isnan(row["validation"])]
    lines[VALIDATION] = (
        [row["step"] for row in checked],
        [row["validation"] for row in checked],
    )
    return lines


def rl_figure(
    metrics: Sequence[Mapping[str, float]], title: str, band: Band | None = None
) -> go.Figure:
    """A plain figure: mean reward with validation, mean length, mean entropy.

    Args:
        metrics: rows of an `RLRun`.
        title: stands above.
        band: recorded mean rewards, drawn behind the first panel.
    """
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    if band is not None:
        figure.add_scatter(
            name=f"{SPREAD} ({band.recorded_on})",
            x=[*band.steps, *reversed(band.steps)],
            y=[*band.high, *reversed(band.low)],
            fill="toself",
            fillcolor=RECORDED,
            line={"width": 0},
            hoverinfo="skip",
            row=1,
            col=1,
        )
    lines = curves(metrics)
    for row, (name, (colour, axis)) in enumerate(PANELS.items(), start=1):
        x, y = lines[name]
        figure.add_scatter(
            name=name, x=x, y=y, mode="lines", line={"color": colour}, row=row, col=1
        )
        figure.update_yaxes(title_text=axis, rangemode="tozero", row=row, col=1)
    x, y = lines[VALIDATION]
    figure.add_scatter(
        name=VALIDATION,
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": VERMILION, "dash": "dash"},
        marker={"symbol": "diamond", "size": 7},
        row=1,
        col=1,
    )
    figure.update_layout(title=title, template=template(), height=560)
    figure.update_xaxes(title_text="rollout", rangemode="tozero", row=3, col=1)
    return figure
