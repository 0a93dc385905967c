"""Step times as the model predicts them, beside measured ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import plotly.graph_objects as go

from labs.lab_04a.speedup_picture import LINES
from labsupport.errors import LabError
from labsupport.explore import View, small_print
from labsupport.explore.style import RECORDED

Row = Mapping[str, Any]
NEAR = 0.2
"""Of the band around the diagonal: predictions this near."""
WITHIN = f"{100 * NEAR:.0f} %"
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")
GREY = "#6b7280"


def check_view(rows: Sequence[Row], caption: str = "") -> View:
    """Predicted against measured; on the diagonal they agree.

    Args:
        rows: each has `method` and `link`, which are names, and `predicted_ms` and
            `measured_ms`, milliseconds of one step.
        caption: where they were recorded, if they were.

    Raises:
        LabError: no rows, or a time that is not above 0.
    """
    if not rows:
        raise LabError(
            "rows is empty: measure at least one step time to compare with."
        )
    for row in rows:
        for name in ("predicted_ms", "measured_ms"):
            if not 0 < row[name] < math.inf:
                raise LabError(
                    f"{row['method']} at {row['link']}: {name}={row[name]:g}; "
                    "use a finite number above 0."
                )
    errors = [row["predicted_ms"] / row["measured_ms"] - 1 for row in rows]
    table: dict[str, list[Any]] = {
        "method": [row["method"] for row in rows],
        "link": [row["link"] for row in rows],
        "predicted, ms": [round(row["predicted_ms"], 2) for row in rows],
        "measured, ms": [round(row["measured_ms"], 2) for row in rows],
        "error, %": [round(100 * error, 1) for error in errors],
    }
    figure = _figure(rows)
    if caption:
        small_print(figure, caption)
    return View(figure, _sentence(rows, errors), table)


def _sentence(rows: Sequence[Row], errors: Sequence[float]) -> str:
    near = sum(abs(error) <= NEAR for error in errors)
    row, worst = max(zip(rows, errors, strict=True), key=lambda p: abs(p[1]))
    return (
        f"{near} of {len(rows)} predicted step times are within {WITHIN} of the "
        f"measured ones; the median error is {100 * median(map(abs, errors)):.0f} %, "
        f"the largest {100 * worst:+.0f} % ({row['method']} at {row['link']}: "
        f"predicted {row['predicted_ms']:.3g} ms, measured "
        f"{row['measured_ms']:.3g} ms)."
    )


def _figure(rows: Sequence[Row]) -> go.Figure:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    links = list(dict.fromkeys(row["link"] for row in rows))
    symbols = {link: SYMBOLS[i % len(SYMBOLS)] for i, link in enumerate(links)}
    times = [row[n] for row in rows for n in ("predicted_ms", "measured_ms")]
    low, high = min(times) / 1.3, max(times) * 1.3
    figure = go.Figure()
    figure.add_scatter(
        x=[low, high, high, low],
        y=[side * (1 + sign * NEAR) for side, sign in _corners(low, high)],
        fill="toself",
        fillcolor=RECORDED,
        line={"width": 0},
        mode="lines",
        name=f"within {WITHIN}",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": GREY, "width": 1.5},
        name="predicted = measured",
        hoverinfo="skip",
    )
    for number, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method]
        colour = LINES[number % len(LINES)]
        figure.add_scatter(
            x=[row["measured_ms"] for row in own],
            y=[row["predicted_ms"] for row in own],
            mode="markers",
            marker={
                "color": colour,
                "symbol": [symbols[row["link"]] for row in own],
                "size": 11,
                "line": {"color": "white", "width": 1},
            },
            text=[f"{method}, {row['link']}" for row in own],
            hovertemplate="%{text}: measured %{x:.1f} ms, predicted "
            "%{y:.1f} ms<extra></extra>",
            showlegend=False,
        )
        _legend_entry(figure, "colour: method", method, colour, "square")
    for link in links:
        _legend_entry(figure, "symbol: link", link, GREY, symbols[link])
    ticks = _ticks(low, high)
    axis = {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
    figure.update_xaxes(title="measured, ms a step", **axis)
    figure.update_yaxes(title="predicted, ms a step", **axis)
    figure.update_layout(
        title="Step time: the model's prediction against the measurement",
        height=600,  # the legend has a line for each method and each link
        margin={"r": 190},
        legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"},
    )
    return figure


def _corners(low: float, high: float) -> list[tuple[float, int]]:
    """Of the band, once around: where on the diagonal, above or below it."""
    return [(low, 1), (high, 1), (high, -1), (low, -1)]


def _legend_entry(
    figure: go.Figure, group: str, name: str, colour: str, symbol: str
) -> None:
    """Colours stand for methods and symbols for links: each is named once."""
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 10},
        name=name,
        legendgroup=group,
        legendgrouptitle={"text": group},
        hoverinfo="skip",
    )


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 ... between both ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    every = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [tick for tick in every if low <= tick <= high]
