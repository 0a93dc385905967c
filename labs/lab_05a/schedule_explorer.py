"""A pipeline's timeline: who computes what, when, and who waits. Simulated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import plotly.graph_objects as go

from labs.lab_05a.schedules import (
    SCHEDULES,
    Action,
    Durations,
    Schedule,
    Span,
    Timeline,
    alone,
    closed_bubble,
    simulate,
)
from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION

STAGES = (2, 4, 8)
MICROBATCHES = (2, 4, 8, 16, 32)
TIMES = Durations(F=1.0, I=1.0, W=1.0)
KINDS = (
    ("forward", "F", BLUE),
    ("backward", "B", ORANGE),
    ("backward, inputs", "I", VERMILION),
    ("backward, weights", "W", GREEN),
    ("forward and backward", "FB", PURPLE),
)
"""Name, what it is, colour."""


def schedule_explorer() -> Explorer:
    """How many devices and microbatches, and which schedule."""
    return Explorer(
        draw,
        stages=slide("devices", STAGES, 4),
        microbatches=slide("microbatches", MICROBATCHES, 8),
        schedule=choose("schedule", tuple(SCHEDULES), "1F1B"),
    )


def kind_of(span: Span) -> str:
    """ "F", "B", "I", "W", or "FB" for a pair."""
    return "FB" if len(span.step) == 2 else span.step[0].kind


@cache
def played(name: str, S: int, M: int) -> Timeline:
    """A schedule of the literature.

    Raises:
        LabError: it does not work with these numbers.
    """
    return simulate(SCHEDULES[name](S, M), TIMES)


def own_view(
    order: Callable[[int, int, int], tuple[list[tuple[str, int]], float]],
    S: int,
    M: int,
) -> View:
    """The timeline of exercise 5.3's lists.

    Args:
        order: (s, S, M) -> what stage s does, and the share that it waits.
    """
    orders = [
        alone([Action(kind, s, i) for kind, i in order(s, S, M)[0]])
        for s in range(S)
    ]
    timeline = simulate(Schedule("yours", tuple(orders), S, M), TIMES)
    figure = timeline_figure(timeline)
    figure.update_layout(title=f"Your schedule: {S} stages, {M} microbatches")
    small_print(figure, "Simulated: F = 1, B = 2, sending takes no time.")
    words = ", ".join(str(peak) for peak in timeline.peaks)
    sentence = (
        f"{S} stages are done with {M} microbatches after {timeline.makespan:g}; each "
        f"waits {timeline.bubble_share:.1%} of the time, and they hold {words} "
        "microbatches at most."
    )
    return View(figure, sentence)


def draw(stages: int, microbatches: int, schedule: str) -> View:
    """A bar for each step of each device; white is waiting."""
    S, M = stages, microbatches
    try:
        timeline = played(schedule, S, M)
    except LabError as refused:
        figure = go.Figure()
        figure.update_layout(title=f"{schedule}: not with these numbers")
        return View(figure, str(refused), comparison(S, M))
    figure = timeline_figure(timeline)
    share = timeline.bubble_share
    figure.update_layout(
        title=f"{schedule}, {S} devices, {M} microbatches: {share:.0%} waiting"
    )
    small_print(
        figure,
        "Simulated: F = I = W = 1, sending takes no time, a pair takes F + B.",
    )
    formula = closed_bubble(schedule, S, TIMES)
    sentence = (
        f"{schedule} with {M} microbatches on {S} devices is done after "
        f"{timeline.makespan:g}; a device computes for {timeline.busy(0):g} and waits "
        f"for {timeline.longest_bubble:g} ({share:.0%}), which the formula says, too "
        f"({formula:g}). The fullest device holds the activations of "
        f"{float(max(timeline.peaks)):g} microbatches."
    )
    return View(figure, sentence, comparison(S, M))


def timeline_figure(timeline: Timeline) -> go.Figure:
    """All spans; numbers are microbatches, if there is room for them."""
    S = timeline.schedule.devices
    figure = go.Figure()
    small = len(timeline.spans) > 300
    for name, kind, colour in KINDS:
        spans = [span for span in timeline.spans if kind_of(span) == kind]
        figure.add_bar(
            name=name,
            orientation="h",
            base=[round(span.begin, 3) for span in spans],
            x=[round(span.end - span.begin, 3) for span in spans],
            y=[f"device {span.device}" for span in spans],
            text=[_label(span) for span in spans],
            textposition="none" if small else "inside",
            insidetextanchor="middle",
            textangle=0,
            marker={
                "color": colour,
                "line": {"color": "white", "width": 0.5 if small else 1},
            },
            hovertemplate=f"%{{y}}: {name}, microbatch %{{text}}<extra></extra>",
            showlegend=bool(spans),
        )
    figure.update_layout(
        barmode="overlay",
        height=190 + 34 * S,
        margin={"t": 96, "l": 80},
        bargap=0.12,
        uniformtext={"minsize": 8, "mode": "hide"},
    )
    figure.update_xaxes(title="time", range=[0, timeline.makespan * 1.01])
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=[f"device {s}" for s in reversed(range(S))],
    )
    return figure


def _label(span: Span) -> str:
    return "&".join(str(action.microbatch) for action in span.step)


def comparison(S: int, M: int) -> dict[str, list[Any]]:
    """All schedules with these numbers, side by side."""
    table: dict[str, list[Any]] = {
        "schedule": [],
        "done after": [],
        "waiting": [],
        "microbatches held": [],
        "copies of the weights": [],
    }
    for name in SCHEDULES:
        try:
            timeline = played(name, S, M)
        except LabError:
            row: tuple[Any, ...] = (name, "not allowed", "", "", "")
        else:
            row = (
                name,
                timeline.makespan,
                f"{timeline.bubble_share:.1%}",
                float(max(timeline.peaks)),
                timeline.schedule.copies,
            )
        for column, value in zip(table.values(), row, strict=True):
            column.append(value)
    return table


def comparison_lines(S: int, M: int) -> list[str]:
    """The same as text."""
    table = comparison(S, M)
    head = f"{'':14}{'done after':>12}{'waiting':>10}{'held':>8}{'copies':>8}"
    rows = zip(*table.values(), strict=True)
    return [
        head,
        *(
            f"{name:14}{after!s:>12}{waits:>10}{held!s:>8}{copies!s:>8}".rstrip()
            for name, after, waits, held, copies in rows
        ),
    ]
