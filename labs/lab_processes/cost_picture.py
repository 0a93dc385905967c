"""Measured times of messages, and the line that was fitted through them."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from labsupport.explore import View
from labsupport.explore.style import BLACK, BLUE, VERMILION


def cost_view(
    mb_S: Sequence[float],
    ms_S: Sequence[float],
    fit: tuple[float, float],
    seventh: tuple[float, float],
) -> View:
    """Time against size, both on logarithmic axes.

    Args:
        mb_S, ms_S: the sizes that the fit has seen, in MB, and their times.
        fit: latency in ms and bandwidth in MB/ms.
        seventh: size and time of the message that it has not seen.
    """
    latency, bandwidth = fit
    first, last = min(*mb_S, seventh[0]), max(*mb_S, seventh[0])
    line = [first * (last / first) ** (step / 60) for step in range(61)]
    figure = go.Figure(
        [
            go.Scatter(
                x=line,
                y=[latency + mb / bandwidth for mb in line],
                name="latency + n / bandwidth",
                line={"color": BLUE},
            ),
            go.Scatter(
                x=list(mb_S),
                y=list(ms_S),
                name="six sizes",
                mode="markers",
                marker={"color": BLACK, "size": 9},
            ),
            go.Scatter(
                x=[seventh[0]],
                y=[seventh[1]],
                name="the seventh",
                mode="markers",
                marker={"color": VERMILION, "size": 13, "symbol": "diamond"},
            ),
        ]
    )
    figure.update_xaxes(title_text="message (MB)", type="log", dtick=1)
    figure.update_yaxes(title_text="time (ms)", type="log", dtick=1)
    predicted = latency + seventh[0] / bandwidth
    sentence = (
        f"Small messages all take about {latency:.2g} ms; large ones grow by "
        f"{1 / bandwidth:.2g} ms a MB. The seventh, {seventh[0]:g} MB, was predicted "
        f"at {predicted:.2g} ms and took {seventh[1]:.2g} ms."
    )
    return View(figure, sentence)


def cost_lines(
    mb_S: Sequence[float], ms_S: Sequence[float], fit: tuple[float, float]
) -> list[str]:
    """A line for each size: measured, fitted, and by how much they differ."""
    latency, bandwidth = fit
    lines = ["     MB   measured     fitted   measured / fitted - 1"]
    for mb, ms in zip(mb_S, ms_S, strict=True):
        fitted = latency + mb / bandwidth
        lines.append(
            f"{mb:7g} {ms:7.3f} ms {fitted:7.3f} ms {ms / fitted - 1:+10.0%}"
        )
    return lines
