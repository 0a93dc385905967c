"""The recorded size of the residual stream beside the loss: picture and words."""

from __future__ import annotations

import math
import statistics
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labs.lab_01.arms import NAMES
from labs.lab_01.gain_explorer import LOOK, number
from labs.lab_01.record_tables import caption, rows_of
from labs.lab_01.stream_size import FLOAT16_MAX
from labsupport.claims.rows import Row, pick
from labsupport.explore import View, small_print

TICKS = {1: "1", 1e2: "100", 1e4: "10⁴", 1e6: "10⁶", 1e8: "10⁸"}


def stream_lines() -> list[str]:
    """The stream's largest number in float32, which holds all of them."""
    rows = pick(rows_of("stream"), stream="float32")
    rate = rows[0]["lr"]
    title = f"largest number in a float32 stream, learning rate {rate:g}"
    lines = [f"{title}:"]
    for arm in ("residual", "hc", "mhc"):
        most = sorted(max(row["largest"]) for row in pick(rows, arm=arm))
        lines.append(
            f"{NAMES[arm]:9} median {statistics.median(most):12,.0f}"
            f"   lowest {most[0]:10,.0f}   highest {most[-1]:13,.0f}"
        )
    lines.append(f"{'float16':9} ends at {FLOAT16_MAX:11,.0f}")
    return lines


def stream_view(stream: str) -> View:
    """Loss above, largest number of the stream below.

    HC has a line for each training, the others the median of theirs.

    Args:
        stream: "float16" or "float32". A cross marks where a training ended in
            NaN.
    """
    rows = pick(rows_of("stream"), stream=stream)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06)
    for arm in ("residual", "mhc"):
        _add_training(figure, arm, _median(pick(rows, arm=arm)), named=True)
    for count, row in enumerate(pick(rows, arm="hc")):
        _add_training(figure, "hc", row, named=not count)
    figure.add_hline(
        y=FLOAT16_MAX, row=2, col=1, line={"dash": "dash", "color": "#6b7280"}
    )
    figure.add_annotation(
        text="float16 ends here: 65,504",
        x=1, xref="x domain", xanchor="right", xshift=-4,
        y=math.log10(FLOAT16_MAX), yref="y2", yanchor="top",
        showarrow=False, font={"size": 12},
    )  # fmt: skip
    figure.update_yaxes(title_text="nats per token", row=1)
    figure.update_yaxes(title_font={"size": 13})
    figure.update_yaxes(
        title_text="largest number",
        type="log",
        tickvals=list(TICKS),
        ticktext=list(TICKS.values()),
        row=2,
    )
    figure.update_xaxes(showgrid=False)  # a smaller picture
    figure.update_xaxes(title_text="step", row=2)
    figure.update_layout(
        title=f"The loss falls while HC's stream grows ({stream} stream)",
        height=370,
    )
    small_print(figure, caption("stream"))
    return View(figure, _words(rows, stream), _table(rows))


def _median(rows: list[Row]) -> Row:
    """The median of trainings that all went to the end, window by window."""
    curves = {
        name: [
            statistics.median(column)
            for column in zip(*(row[name] for row in rows), strict=True)
        ]
        for name in ("loss", "largest")
    }
    return {"step": rows[0]["step"], "failed": 0, **curves}


def _add_training(figure: go.Figure, arm: str, row: Row, named: bool) -> None:
    colour, dash, _ = LOOK[arm]
    line = {"color": colour, "dash": dash, "width": 1.5 if arm == "hc" else 3}
    for place, name in ((1, "loss"), (2, "largest")):
        figure.add_scatter(
            x=row["step"],
            y=row[name],
            name="HC, five trainings"
            if arm == "hc"
            else f"{NAMES[arm]}, median",
            legendgroup=arm,
            showlegend=named and place == 1,
            mode="lines",
            line=line,
            row=place,
            col=1,
        )
        if row["failed"]:
            figure.add_scatter(
                x=row["step"][-1:],
                y=row[name][-1:],
                mode="markers",
                marker={"symbol": "x", "size": 11, "color": colour},
                hovertemplate=f"NaN at step {row['steps_done'] + 1}",
                name="NaN",
                showlegend=False,
                row=place,
                col=1,
            )


def _words(rows: list[Row], stream: str) -> str:
    words = []
    for arm in ("residual", "hc", "mhc"):
        runs = pick(rows, arm=arm)
        ends = sorted(row["steps_done"] + 1 for row in runs if row["failed"])
        most = statistics.median(max(row["largest"]) for row in runs)
        text = f"{NAMES[arm]} {number(most)}"
        if ends:
            steps = ", ".join(map(str, ends))
            text += f", and {len(ends)} end in NaN, at step {steps}"
        words.append(text)
    return (
        f"Largest number in a {stream} stream at learning rate "
        f"{rows[0]['lr']:g}, median of {len(runs)} seeds: {'; '.join(words)}."
    )


def _table(rows: list[Row]) -> dict[str, list[Any]]:
    return {
        "kind": [NAMES[row["arm"]] for row in rows],
        "seed": [row["seed"] for row in rows],
        "steps": [row["steps_done"] for row in rows],
        "last loss": [row["loss"][-1] for row in rows],
        "largest number": [max(row["largest"]) for row in rows],
    }
