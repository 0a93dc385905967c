"""Pictures of ranks at work: who computes, who waits, and who gets how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labsupport.explore import View
from labsupport.explore.style import (
    BLUE,
    COLOURS,
    GREEN,
    ORANGE,
)

WAITING = "#d1d5db"
PARTS = (
    ("computes", "begin", "ready", BLUE, ""),
    ("waits", "ready", "met", WAITING, "/"),
    ("averages and updates", "met", "done", ORANGE, ""),
)
"""Name, where it begins and ends in a course, colour, pattern."""

Courses = Sequence[Mapping[str, Any]]
"""What every rank shared of its `Course`, as a dict."""


def timeline_view(every: Courses, first: int, last: int, title: str) -> View:
    """Steps `first` to `last` of every rank, a bar for each, from their clocks."""
    figure = go.Figure()
    zero = min(course["begin"][first] for course in every)
    for name, begins, ends, colour, pattern in PARTS:
        base, length, ranks = [], [], []
        for rank, course in enumerate(every):
            for step in range(first, last + 1):
                begin, end = course[begins][step], course[ends][step]
                base.append(round(1e3 * (begin - zero), 3))
                length.append(round(1e3 * (end - begin), 3))
                ranks.append(f"rank {rank}")
        figure.add_bar(
            name=name,
            orientation="h",
            base=base,
            x=length,
            y=ranks,
            marker={
                "color": colour,
                "line": {"color": "white", "width": 1},
                "pattern": {"shape": pattern, "fgcolor": "#6b7280"},
            },
            hovertemplate="%{y} " + name + " %{x:.1f} ms<extra></extra>",
        )
    figure.update_layout(
        barmode="overlay",
        title=title,
        height=160 + 44 * len(every),
        margin={"t": 96},
    )
    figure.update_xaxes(
        title="milliseconds since the first of these steps began"
    )
    figure.update_yaxes(autorange="reversed")
    computes, waits = (
        [
            sum(
                course[end][step] - course[begin][step]
                for step in range(first, last + 1)
            )
            for course in every
        ]
        for begin, end in (("begin", "ready"), ("ready", "met"))
    )
    words = ", ".join(
        f"rank {rank} computes {1e3 * c:.0f} ms and waits {1e3 * w:.0f} ms"
        for rank, (c, w) in enumerate(zip(computes, waits, strict=True))
    )
    table = {
        "rank": list(range(len(every))),
        "samples a step": [course["batch"][last] for course in every],
        "computes, ms": [round(1e3 * c, 1) for c in computes],
        "waits, ms": [round(1e3 * w, 1) for w in waits],
    }
    return View(figure, f"In {last + 1 - first} steps {words}.", table)


def step_ms(every: Courses, step: int) -> float:
    """Milliseconds from the first begin of a step to the last end."""
    begin = min(course["begin"][step] for course in every)
    return 1e3 * (max(course["done"][step] for course in every) - begin)


def recovery_view(equal: Courses, balanced: Courses, until: int) -> View:
    """Samples of each rank and the time of a step, before and after a change."""
    steps = list(range(len(balanced[0]["batch"])))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True)
    for rank, course in enumerate(balanced):
        figure.add_scatter(
            x=steps,
            y=course["batch"],
            name=f"samples of rank {rank}",
            row=1,
            col=1,
            line={"color": COLOURS[rank], "dash": ("solid", "dot")[rank % 2]},
        )
    both = {"equal batches": equal, "balanced": balanced}
    times = {
        name: [round(step_ms(every, step), 2) for step in steps[1:]]
        for name, every in both.items()
    }
    for number, (name, values) in enumerate(times.items()):
        figure.add_scatter(
            x=steps[1:],
            y=values,
            name=f"ms a step, {name}",
            row=2,
            col=1,
            line={
                "color": (ORANGE, GREEN)[number],
                "width": 2,
                "dash": ("dash", "solid")[number],
            },
        )
    figure.add_vline(
        x=until - 0.5, line={"color": "#111827", "width": 1}, row="all", col=1
    )
    figure.add_annotation(
        x=until,
        y=1,
        yref="y2 domain",
        xanchor="left",
        text="as fast as the other",
        showarrow=False,
        font={"size": 12},
    )
    figure.update_layout(
        title="A slow rank that becomes fast",
        margin={"t": 120},
        height=520,
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title="samples", row=1, col=1)
    figure.update_yaxes(title="ms a step", row=2, col=1)
    figure.update_xaxes(title="step", row=2, col=1)
    before = [course["batch"][until - 1] for course in balanced]
    after = [course["batch"][-1] for course in balanced]
    sentence = (
        f"Batches were {_words(before)} when rank {len(before) - 1} became as fast as "
        f"the others at step {until}, and {_words(after)} at the end."
    )
    table: dict[str, list[Any]] = {"step": steps[1:]}
    for rank, course in enumerate(balanced):
        table[f"samples of rank {rank}"] = course["batch"][1:]
    table |= {f"ms, {name}": values for name, values in times.items()}
    return View(figure, sentence, table)


def _words(numbers: Sequence[int]) -> str:
    return " and ".join(str(number) for number in numbers)


def slices_view(
    alphas: Sequence[float], curves: Mapping[str, Sequence[float]], title: str
) -> View:
    """Losses along a line through the trained weights."""
    figure = go.Figure()
    for number, (name, values) in enumerate(curves.items()):
        figure.add_scatter(
            x=list(alphas),
            y=[round(v, 4) for v in values],
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[number]},
            marker={"symbol": number, "size": 8},
        )
    figure.update_xaxes(title="alpha, distance from the trained weights")
    figure.update_yaxes(title="loss (nats per token)")
    figure.update_layout(title=title, margin={"t": 96})
    ends = "; ".join(
        f"{name}: {values[0]:.2f} at alpha {alphas[0]:g}, {min(values):.2f} at its "
        f"lowest, {values[-1]:.2f} at {alphas[-1]:g}"
        for name, values in curves.items()
    )
    table: dict[str, list[Any]] = {"alpha": list(alphas)}
    table |= {
        name: [round(v, 4) for v in values] for name, values in curves.items()
    }
    return View(figure, f"{ends}.", table)
