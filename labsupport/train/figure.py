"""The picture of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from labsupport.explore.style import BLUE, RECORDED, VERMILION, template
from labsupport.train.run import Band
from labsupport.train.windows import window_means

LOSS, VALIDATION, SPREAD = "training loss", "validation loss", "recorded spread"
MEAN = "its mean"
"""The training loss, averaged as the band's values were."""


def curves(
    metrics: Sequence[Mapping[str, float]],
    most: int = 0,
    band: Band | None = None,
    eval_name: str = "validation",
) -> dict[str, tuple[list[float], list[float]]]:
    """The x and y of each line; at most about `most` loss points, 0 for all."""
    stride = 1 + len(metrics) // most if most else 1
    # Counted from the end, so that the newest point is always there.
    shown = metrics[::-1][::stride][::-1]
    checked = [row for row in metrics if not math.isnan(row["validation"])]
    window = 1 if band is None else band.window
    return {
        MEAN: window_means([row["loss"] for row in metrics], window),
        LOSS: ([row["step"] for row in shown], [row["loss"] for row in shown]),
        score_name(eval_name): (
            [row["step"] for row in checked],
            [row["validation"] for row in checked],
        ),
    }


def score_name(eval_name: str) -> str:
    """A score that is not called otherwise is a loss."""
    return VALIDATION if eval_name == "validation" else eval_name


def loss_figure(
    metrics: Sequence[Mapping[str, float]],
    title: str,
    band: Band | None = None,
    eval_name: str = "validation",
) -> go.Figure:
    """A plain figure: training loss, validation loss, recorded spread.

    The lines differ in dash and marker as well as in colour.
    """
    figure = go.Figure()
    if band is not None:
        figure.add_scatter(
            name=SPREAD,
            x=[*band.steps, *reversed(band.steps)],
            y=[*band.high, *reversed(band.low)],
            fill="toself",
            fillcolor=RECORDED,
            line={"width": 0},
            hoverinfo="skip",
        )
        figure.add_annotation(
            text="grey: lowest to highest of the recorded seeds, means of "
            f"{band.window} steps<br>recorded on {band.recorded_on}",
            xref="paper",
            yref="paper",
            x=1,
            y=1,
            xanchor="right",
            showarrow=False,
            font={"size": 11},
        )
    lines, score = curves(metrics, 0, band, eval_name), score_name(eval_name)
    x, y = lines[LOSS]
    thin = {"color": BLUE, "width": 1.5 if band is None else 0.8}
    figure.add_scatter(name=LOSS, x=x, y=y, mode="lines", line=thin)
    if band is not None:
        x, y = lines[MEAN]
        figure.add_scatter(
            name=MEAN, x=x, y=y, mode="lines", line={"color": BLUE, "width": 3}
        )
    x, y = lines[score]
    figure.add_scatter(
        name=score,
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": VERMILION, "dash": "dash"},
        marker={"symbol": "diamond", "size": 7},
    )
    figure.update_layout(
        title=title,
        template=template(),
    )
    figure.update_xaxes(title_text="step", rangemode="tozero")
    unit = "loss (nats per token)"
    named = unit if score == VALIDATION else f"{unit}; {score}"
    figure.update_yaxes(title_text=named)
    return figure
