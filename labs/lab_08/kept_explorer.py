"""How much of its teacher's skill a student keeps, by its size and by what it reads."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labs.lab_08.experiments import GRID_COUNTS, GRID_WIDTHS
from labs.lab_08.plan import PLANS
from labs.lab_08.students import newborn
from labs.lab_08.teacher import shipped_teacher
from labsupport.claims.rows import (
    Row,
    median_words,
    pick,
    record_rows,
    recorded_on,
)
from labsupport.explore import Explorer, View, slide, small_print
from labsupport.explore.style import BLUE, VERMILION

GREY = "#9ca3af"
GUESS = 0.2
"""Games that a guess wins: five cups."""


def kept_explorer() -> Explorer:
    """Choose a width and a number of traces, by slider or by a click on a mark."""
    return Explorer(
        partial(draw, record_rows("08", "kept")),
        click=clicked,
        width=slide("width of the student", GRID_WIDTHS, 32),
        traces=slide("traces of the teacher", GRID_COUNTS, 2000),
    )


def clicked(x: float, _: Any) -> dict[str, Any]:
    """Which control a mark is about: no width is also a number of traces."""
    return {"width" if round(x) in GRID_WIDTHS else "traces": round(x)}


def won(rows: list[Row], width: int, traces: int) -> list[float]:
    """Games won, one share a seed."""
    mine = pick(rows, width=width, traces=traces)
    return [row["accuracy"] for row in mine]


def draw(rows: list[Row], width: int, traces: int) -> View:
    """Games won by traces, for every width; and by width, for every number of them."""
    stored = shipped_teacher("cpu")
    teacher = float(stored.about["games won"].split()[0])
    by_traces = {
        (w, n): won(rows, w, n) for w in GRID_WIDTHS for n in GRID_COUNTS
    }
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        subplot_titles=(f"width {width}", f"{traces} traces"),
    )
    add_lines(
        figure,
        1,
        GRID_COUNTS,
        {w: [by_traces[w, n] for n in GRID_COUNTS] for w in GRID_WIDTHS},
        width,
        traces,
        "width {}, %{{x}} traces: %{{y:.2f}} of the games",
    )
    add_lines(
        figure,
        2,
        GRID_WIDTHS,
        {n: [by_traces[w, n] for w in GRID_WIDTHS] for n in GRID_COUNTS},
        traces,
        width,
        "width %{{x}}, {} traces: %{{y:.2f}} of the games",
    )
    for height, name in ((teacher, "teacher"), (GUESS, "a guess")):
        figure.add_hline(y=height, line={"dash": "dot", "color": GREY})
        figure.add_annotation(
            x=0.5,
            xref="paper",
            y=height,
            text=name,
            showarrow=False,
            bgcolor="white",
            font={"size": 11},
        )
    axes = {"type": "log", "showgrid": False}
    figure.update_xaxes(
        title="traces of the teacher", tickvals=GRID_COUNTS, **axes, col=1
    )
    figure.update_xaxes(
        title="width of the student", tickvals=GRID_WIDTHS, **axes, col=2
    )
    figure.update_yaxes(title="games won", col=1)
    figure.update_yaxes(range=[0, 1.06])
    figure.update_layout(height=400, showlegend=False)
    small_print(figure, recorded_on(rows))
    mine = by_traces[width, traces]
    size = newborn(0, replace(PLANS["cpu"], width=width)).parameter_count()
    share = size / stored.model.parameter_count()
    kept = statistics.median(mine) / teacher
    return View(
        figure,
        f"Width {width}, {size:,} weights ({share:.0%} of the teacher's), "
        f"{traces} traces: {median_words(mine, digits=2)} of the games won (median of "
        f"{len(mine)} seeds, lowest and highest). That keeps {kept:.0%} of what the "
        f"teacher wins, {teacher:.2f}.",
        {"traces": list(GRID_COUNTS)}
        | {
            f"width {w}": [
                statistics.median(by_traces[w, n]) for n in GRID_COUNTS
            ]
            for w in GRID_WIDTHS
        },
    )


def add_lines(
    figure: go.Figure,
    col: int,
    x: tuple[int, ...],
    lines: dict[int, list[list[float]]],
    chosen: int,
    at: int,
    hover: str,
) -> None:
    """A line of medians for each of `lines`; the chosen one with its spread, on top.

    Args:
        x: where the points are.
        lines: games won at each x, one share a seed.
        chosen: which of the lines.
        at: which x of it.
        hover: what a mark says, with {} for the line's name.
    """
    for name in sorted(lines, key=lambda name: name == chosen):
        middle = [statistics.median(shares) for shares in lines[name]]
        picked = name == chosen
        figure.add_scatter(
            x=x,
            y=middle,
            mode="lines+markers",
            name=str(name),
            line={
                "color": BLUE if picked else GREY,
                "width": 3 if picked else 1,
            },
            marker={
                "size": [13 if picked and v == at else 7 for v in x],
                "color": [
                    VERMILION
                    if picked and v == at
                    else BLUE
                    if picked
                    else GREY
                    for v in x
                ],
            },
            error_y={
                "type": "data",
                "symmetric": False,
                "visible": picked,
                "array": [
                    max(shares) - m
                    for shares, m in zip(lines[name], middle, strict=True)
                ],
                "arrayminus": [
                    m - min(shares)
                    for shares, m in zip(lines[name], middle, strict=True)
                ],
            },
            hovertemplate=hover.format(name) + "<extra></extra>",
            row=1,
            col=col,
        )
