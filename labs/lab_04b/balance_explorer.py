"""What balancing can save: one slow worker among many, by the closed form."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from labsupport.distributed.balance import (
    StepCost,
    balanced_batches,
    balanced_time,
    equal_batches,
)
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, ORANGE

SLOWER = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
WORKERS = (2, 4, 8, 64)
FIXED = (0.0, 4.0, 16.0)
EACH = 16
"""Samples for a worker, on the mean."""
WAITING = "#d1d5db"


def balance_explorer() -> Explorer:
    """How slow one worker is, how many there are, and their fixed time."""
    return Explorer(
        draw,
        slower=slide("times slower", SLOWER, 3.0, [f"{x:g}" for x in SLOWER]),
        workers=choose("workers", WORKERS, 4),
        fixed=choose("fixed time", FIXED),
    )


def costs_of(slower: float, workers: int, fixed: float) -> list[StepCost]:
    """One unit of time for a sample; the last worker takes `slower` times as long."""
    fast = [StepCost(fixed, 1.0)] * (workers - 1)
    return [*fast, StepCost(fixed, slower)]


def step_times(
    slower: float, workers: int, fixed: float
) -> tuple[list[int], list[int], float, float]:
    """Equal and balanced batches, and how long a step takes with each."""
    costs, B = costs_of(slower, workers, fixed), EACH * workers
    both = equal_batches(workers, B), balanced_batches(costs, B)
    longest = [
        max(cost.time(b) for cost, b in zip(costs, batches, strict=True))
        for batches in both
    ]
    return both[0], both[1], longest[0], longest[1]


def draw(slower: float, workers: int, fixed: float) -> View:
    """Fixed time, computing and waiting, of a fast worker and the slow one."""
    costs = costs_of(slower, workers, fixed)
    equal, balanced, before, after = step_times(slower, workers, fixed)
    others = (
        "the other one" if workers == 2 else f"each of {workers - 1} others"
    )
    table: dict[str, list[Any]] = {
        "batches": [],
        "worker": [],
        "samples": [],
        "fixed": [],
        "computes": [],
        "waits": [],
    }
    for name, batches, longest in (
        ("equal", equal, before),
        ("balanced", balanced, after),
    ):
        # Of the fast ones the first, which has the most samples.
        for worker, index in ((others, 0), ("the slow one", workers - 1)):
            cost, b = costs[index], batches[index]
            row = (name, worker, b, cost.fixed, cost.per_sample * b)
            for column, value in zip(
                table, (*row, longest - cost.time(b)), strict=True
            ):
                table[column].append(value)
    figure = go.Figure()
    x = [table["batches"], table["worker"]]
    for part, colour, pattern in (
        ("fixed", ORANGE, ""),
        ("computes", BLUE, ""),
        ("waits", WAITING, "/"),
    ):
        figure.add_bar(
            x=x,
            y=table[part],
            name=part,
            text=table["samples"] if part == "computes" else None,
            texttemplate="%{text} samples" if part == "computes" else None,
            textposition="inside",
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fgcolor": "#6b7280"},
            },
        )
    bound = balanced_time(costs, EACH * workers)
    figure.add_hline(y=bound, line={"dash": "dot", "color": "#111827"})
    figure.update_layout(
        barmode="stack",
        title=f"{workers} workers, one {slower:g} times slower",
        margin={"t": 96},
    )
    figure.update_yaxes(title="time (one sample of a fast worker = 1)")
    sentence = (
        f"{workers} workers with {EACH * workers} samples and a fixed time of "
        f"{fixed:g}, one {slower:g} times slower: a step takes {before:g} with equal "
        f"batches and {after:g} balanced ({equal[-1]} and {balanced[-1]} samples for "
        f"the slow one), {1 - after / before:.0%} less. The dotted line is the closed "
        f"form's {bound:.1f}."
    )
    return View(figure, sentence, table)


CHOICES = ("about a quarter", "about 40 %", "about 60 %")
"""Of the prediction: what balancing saves with one of four workers 3 x slower."""


def saving_answer() -> tuple[str, str]:
    """The right choice, and the numbers behind it."""
    costs, B = costs_of(3.0, 4, 0.0), EACH * 4
    before = max(cost.time(B / 4) for cost in costs)
    after = balanced_time(costs, B)
    saving = 1 - after / before
    distance = {0.25: CHOICES[0], 0.4: CHOICES[1], 0.6: CHOICES[2]}
    answer = distance[min(distance, key=lambda share: abs(share - saving))]
    return answer, (
        f"With {B} samples, one unit of time for each on a fast worker, equal batches "
        f"take {before:g}. If samples could be cut, all would end at {after:.1f} "
        f"(dotted): {saving:.0%} less. Whole samples end a little later."
    )
