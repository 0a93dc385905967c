"""Pictures of what ranks hold, and of a layer that is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from labs.lab_05a.opening import ADAM_BYTES, arrangement_bytes, budget_of, mb
from labs.lab_05a.opening import total_weights as count
from labsupport.explore import View, small_print
from labsupport.explore.style import BLUE, GREEN, ORANGE
from labsupport.nn import GPTConfig

PARTS = (
    ("weights", BLUE),
    ("gradients", ORANGE),
    ("Adam's means", GREEN),
)


def held_view(
    held: Sequence[Mapping[str, int]], limit: int, need: int, title: str
) -> View:
    """A bar for each rank, and the budget as a line.

    Args:
        held: what each rank holds, by name, in bytes.
        limit: the budget.
        need: what training needs in one place; what a rank lacks of it is hatched.
        title: of the figure.
    """
    ranks = [f"rank {rank}" for rank in range(len(held))]
    figure = go.Figure()
    for name, colour in PARTS:
        figure.add_bar(
            x=ranks,
            y=[round(each.get(name, 0) / 1e6, 4) for each in held],
            name=name,
            marker={"color": colour},
        )
    totals = [sum(each.values()) for each in held]
    if any(len(each) < len(PARTS) for each in held):
        figure.add_bar(
            x=ranks,
            y=[round((need - total) / 1e6, 4) for total in totals],
            name="did not fit",
            marker={
                "color": "white",
                "line": {"color": GREEN, "width": 1},
                "pattern": {"shape": "/", "fgcolor": GREEN},
            },
        )
    budget_line(figure, limit)
    figure.update_layout(barmode="stack", title=title, margin={"t": 96})
    figure.update_yaxes(title="MB held from step to step")
    words = ", ".join(
        f"rank {rank} holds {mb(total)}" for rank, total in enumerate(totals)
    )
    sentence = (
        f"{words}; the budget of each is {mb(limit)}. In one place training needs "
        f"{mb(need)}."
    )
    table: dict[str, list[Any]] = {"rank": list(range(len(held)))}
    for name, _ in PARTS:
        table[f"{name}, MB"] = [each.get(name, 0) / 1e6 for each in held]
    return View(figure, sentence, table)


def budget_line(figure: go.Figure, limit: float) -> None:
    """The most that a rank may hold."""
    figure.add_hline(
        y=limit / 1e6,
        line={"dash": "dot", "color": "#111827"},
        annotation_text="budget of a rank",
        annotation_position="top right",
        annotation_bgcolor="rgba(255, 255, 255, 0.85)",
    )


def arrangements_view(config: GPTConfig) -> View:
    """What a rank would hold in each arrangement. A formula, nothing measured."""
    sizes, limit = arrangement_bytes(config), budget_of(config)
    figure = go.Figure()
    figure.add_bar(
        x=[name.replace(" in ", "<br>in ") for name in sizes],
        y=[round(size / 1e6, 4) for size in sizes.values()],
        marker={
            "color": [
                GREEN if s <= limit else "#c4c9d1" for s in sizes.values()
            ]
        },
        text=[
            f"{size / (ADAM_BYTES * count(config)):.0%}"
            for size in sizes.values()
        ],
        textposition="inside",
        insidetextanchor="middle",
    )
    budget_line(figure, limit)
    figure.update_yaxes(title="MB on each of four ranks")
    figure.update_layout(title="Which arrangement fits?")
    small_print(
        figure, "By a formula: 16 bytes a weight, cut as the label says."
    )
    words = ", ".join(f"{name} {mb(size)}" for name, size in sizes.items())
    table: dict[str, list[Any]] = {
        "arrangement": list(sizes),
        "MB": [size / 1e6 for size in sizes.values()],
    }
    return View(
        figure,
        f"On each of four ranks: {words}. The budget: {mb(limit)}.",
        table,
    )


RANK_COLOURS = (BLUE, ORANGE)
GREY = "#d1d5db"


def cut_view() -> View:
    """A SwiGLU on two ranks: columns of gate and up, rows of down."""
    figure = go.Figure()

    def box(x: float, y: float, w: float, h: float, colour: str) -> None:
        figure.add_shape(
            type="rect",
            x0=x,
            x1=x + w,
            y0=y,
            y1=y + h,
            fillcolor=colour,
            line={"color": "white", "width": 2},
        )

    def word(x: float, y: float, text: str, size: int = 14) -> None:
        figure.add_annotation(
            x=x, y=y, text=text, showarrow=False, font={"size": size}
        )

    # x, gate and up, hidden, down, y: widths D = 3 and F = 4, N = 2 rows.
    box(0, 1, 3, 2, GREY)
    word(1.5, 3.8, "x<br>N × D")
    word(3.5, 2, "·", 22)
    for half, colour in enumerate(RANK_COLOURS):
        box(4 + 2 * half, 0.5, 2, 3, colour)
        box(10 + 2 * half, 1, 2, 2, colour)
        box(15, 4 - 2 * (half + 1), 3, 2, colour)
        box(19.5 + 4 * half, 1, 3, 2, colour)
    word(6, 4.3, "gate, and up<br>D × F, columns")
    word(9, 2, "→", 22)
    word(12, 3.8, "hidden<br>N × F")
    word(14.5, 2, "·", 22)
    word(16.5, 4.8, "down<br>F × D, rows")
    word(18.75, 2, "=", 20)
    word(23, 2, "+", 20)
    word(23, 3.8, "y = sum of two parts<br>N × D each")
    figure.update_xaxes(visible=False, range=[-0.5, 27])
    figure.update_yaxes(
        visible=False, range=[-0.5, 5.8], scaleanchor="x", scaleratio=1
    )
    figure.update_layout(
        title="Blue on rank 0, orange on rank 1; grey on both",
        height=250,
        margin={"t": 48, "l": 8, "r": 8, "b": 8},
    )
    return View(
        figure,
        "The input x is on both ranks. Each has half of the columns of gate and up, so "
        "it makes half of the hidden numbers, finished. It has the rows of down that "
        "belong to them, so it makes a part of every output number; the two parts are "
        "summed.",
    )
