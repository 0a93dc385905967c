"""The planner as a picture: every layout of a model on a cluster. Not measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from labs.lab_05a.planner import Layout, Plan
from labs.lab_05a.planner_inputs import MIXED, Cluster, Model
from labs.lab_05a.planner_presets import (
    DEEPSEEK_V3,
    GIB,
    H100,
    MODELS,
    V3_PRECISION,
)
from labs.lab_05a.planner_search import search
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE, GREEN, ORANGE, PURPLE

NAMES = {model.name: model for model in MODELS}
GPUS = (8, 64, 512, 2048, 8192, 16_384)
MEMORY = (40, 80, 192)
BATCH_TOKENS = 2**24
"""Tokens of a step, as in the training of Llama 3 405B."""
TRIED = ("1F1B", "interleaved", "DualPipe")
TENSOR = {1: (BLUE, 0), 2: (ORANGE, 1), 4: (GREEN, 2), 8: (PURPLE, 3)}
"""Colour and symbol of each size of the tensor axis."""
NO_ROOM = "#c4c9d1"
SHOWN = 8
"""Rows of the table."""


def planner_explorer() -> Explorer:
    """Which model, on how many GPUs, with how much memory each."""
    return Explorer(
        draw,
        model=choose("model", tuple(NAMES), DEEPSEEK_V3.name),
        gpus=slide("GPUs", GPUS, 2048, [f"{n:,}" for n in GPUS]),
        memory=choose("memory, GiB", MEMORY, 80),
    )


def cluster_of(gpus: int, memory: int) -> Cluster:
    """H100s with another memory."""
    return replace(H100, gpus=gpus, memory=memory * GIB)


@dataclass(frozen=True)
class Best:
    """The fastest layout with certain axes and a certain schedule.

    Attributes:
        layout: which.
        plan, index: where its numbers stand.
        fits: whether it fits; if not, memory alone is what it lacks.
    """

    layout: Layout
    plan: Plan
    index: int
    fits: bool

    @property
    def step(self) -> float:
        return float(self.plan.step[self.index])

    @property
    def memory(self) -> float:
        return float(self.plan.memory[self.index])


def of_each_axes(
    model: Model, cluster: Cluster
) -> tuple[list[Best], int, int]:
    """For all axes and schedules the fastest choice of the rest, fastest first.

    Returns:
        Them, how many layouts fit, and how many there are.
    """
    batch = BATCH_TOKENS // model.sequence
    precision = V3_PRECISION if model is DEEPSEEK_V3 else MIXED
    found: list[Best] = []
    fit = every = 0
    for schedule in TRIED:
        judged = search(model, cluster, batch, schedule, precision)
        lays, plan = judged.layouts, judged.plan
        fit += len(judged.order)
        every += len(lays.data)
        no_room = np.flatnonzero(plan.why_not == 7)
        no_room = no_room[np.argsort(plan.memory[no_room], kind="stable")]
        order = np.concatenate([judged.order, no_room])
        # Without a pipeline all schedules are the same.
        order = order[(lays.pipeline[order] > 1) | (schedule == TRIED[0])]
        axes = np.stack(
            [lays.tensor[order], lays.pipeline[order], lays.expert[order]]
        )
        _, first = np.unique(axes, axis=1, return_index=True)
        found += [
            Best(lays.at(i), plan, i, bool(plan.why_not[i] == 0))
            for i in order[first].tolist()
        ]
    return sorted(found, key=lambda b: b.step), fit, every


def draw(model: str, gpus: int, memory: int) -> View:
    """Memory and time of the best layout for all axes; grey ones do not fit."""
    cluster = cluster_of(gpus, memory)
    bests, fit, every = of_each_axes(NAMES[model], cluster)
    good = [best for best in bests if best.fits]
    figure = go.Figure()
    groups = [
        (
            f"tensor {t}",
            colour,
            symbol,
            [b for b in good if b.layout.tensor == t],
        )
        for t, (colour, symbol) in TENSOR.items()
    ]
    groups.append(("do not fit", NO_ROOM, 4, [b for b in bests if not b.fits]))
    for name, colour, symbol, group in groups:
        figure.add_scatter(
            x=[round(b.memory / 1e9, 2) for b in group],
            y=[round(b.step, 3) for b in group],
            text=[words(b.layout) for b in group],
            name=name,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8},
            hovertemplate="%{text}<br>%{x} GB, %{y} s<extra></extra>",
        )
    room = cluster.memory * cluster.usable / 1e9
    figure.add_vline(x=room, line={"dash": "dot", "color": "#111827"})
    ticks = [m * 10**k for k in range(-2, 5) for m in (1, 2, 5)]
    axis = {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{t:g}" for t in ticks],
        "tickangle": 0,
    }
    figure.update_xaxes(title="memory of the fullest GPU, GB", **axis)
    figure.update_yaxes(title="seconds a step", **axis)
    figure.update_layout(
        title=f"{model} on {gpus:,} GPUs of {memory} GiB: a model of every layout",
        height=460,
        margin={"t": 96},
        showlegend=True,
    )
    small_print(
        figure,
        "Computed, not measured. Left of the dotted line a layout fits (90 % of the "
        "memory).",
    )
    start = f"{model} on {gpus:,} GPUs of {memory} GiB:"
    if not good:
        least = min((b.memory for b in bests), default=float("nan"))
        sentence = (
            f"{start} none of {every:,} layouts fits; the smallest needs "
            f"{least / 1e9:,.0f} GB a GPU."
        )
        return View(figure, sentence, table_of([]))
    first = good[0]
    sentence = (
        f"{start} {fit:,} of {every:,} layouts fit. The fastest, "
        f"{words(first.layout)}, takes {first.step:.2f} s a step with "
        f"{first.memory / 1e9:.0f} GB a GPU; {bubble(first):.0%} of the step is "
        f"bubble, and {float(first.plan.utilisation[first.index]):.0%} of the peak is "
        "used."
    )
    return View(figure, sentence, table_of(good[:SHOWN]))


def words(layout: Layout) -> str:
    """A layout with its schedule."""
    schedule = f", {layout.schedule}" if layout.pipeline > 1 else ""
    return f"{layout}{schedule}"


def bubble(best: Best) -> float:
    """Its share of the step."""
    return float(best.plan.bubble[best.index])


def table_of(bests: list[Best]) -> dict[str, list[Any]]:
    """The fastest layouts, one a row."""
    table: dict[str, list[Any]] = {
        "layout": [words(b.layout) for b in bests],
        "s a step": [round(b.step, 3) for b in bests],
        "GB a GPU": [round(b.memory / 1e9, 1) for b in bests],
        "bubble, %": [round(100 * bubble(b), 1) for b in bests],
    }
    for axis in ("tensor", "pipeline", "expert", "data"):
        sent = [np.asarray(b.plan.sent[axis]) for b in bests]
        table[f"GB sent, {axis}"] = [
            round(
                float(np.broadcast_to(s, b.plan.step.shape)[b.index]) / 1e9, 1
            )
            for s, b in zip(sent, bests, strict=True)
        ]
    return table
