"""Temperature: what a teacher says of tokens that it would hardly ever write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from plotly.subplots import make_subplots
from torch import Tensor

from labsupport.distill import DistillationLoss
from labsupport.explore import Explorer, View, slide
from labsupport.explore.style import BLUE, GREEN, VERMILION

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0)
MOST = 8
"""Tokens that are drawn."""


def soft_explorer(
    scores_NV: Tensor, names: Sequence[str], places: Sequence[str]
) -> Explorer:
    """A teacher's probabilities at a place, by temperature.

    Args:
        scores_NV: at some places, a teacher's scores.
        names: of the V tokens.
        places: what stands before each of the N places, in words.
    """

    def draw(T: float, place: int) -> View:
        return drawn(scores_NV[place - 1], names, places[place - 1], T)

    return Explorer(
        draw,
        T=slide("temperature T", TEMPERATURES, 1.0),
        place=slide("place", tuple(range(1, len(places) + 1)), 1),
    )


def drawn(
    scores_V: Tensor, names: Sequence[str], place: str, T: float
) -> View:
    """Bars of the likeliest tokens, and gradients by temperature."""
    order = scores_V.argsort(descending=True)[:MOST].tolist()
    p_V = (scores_V / T).softmax(-1)
    figure = make_subplots(
        cols=2,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.14,
        subplot_titles=("the teacher's p", "size of the gradient"),
    )
    shown = [names[token] for token in order]
    figure.add_bar(
        x=list(range(len(order))),
        y=[p_V[token].item() for token in order],
        marker={"color": BLUE},
        hovertemplate="%{y:.4f}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    sizes = {
        square: gradient_sizes(scores_V, square) for square in (True, False)
    }
    for square, name, colour, dash in (
        (True, "with T^2", GREEN, "solid"),
        (False, "without", VERMILION, "dash"),
    ):
        figure.add_scatter(
            x=list(TEMPERATURES),
            y=sizes[square],
            mode="lines+markers",
            name=name,
            line={"color": colour, "dash": dash},
            row=1,
            col=2,
        )
    figure.update_xaxes(
        tickvals=list(range(len(order))), ticktext=shown, row=1, col=1
    )
    figure.update_yaxes(title="probability", range=[0, 1.04], row=1, col=1)
    figure.update_xaxes(title="T", type="log", row=1, col=2)
    figure.update_xaxes(
        tickvals=list(TEMPERATURES), ticktext=[f"{t:g}" for t in TEMPERATURES],
        row=1, col=2,
    )  # fmt: skip
    figure.update_yaxes(
        title="size", type="log", dtick=1, range=[-2.2, 0.8], row=1, col=2
    )
    figure.update_layout(
        height=400,
        margin={"t": 100, "b": 64},
        legend={"x": 0.64, "y": 1.3, "yanchor": "top"},
    )
    others = 1 - p_V.max().item()
    at = TEMPERATURES.index(T)
    return View(
        figure,
        f"Behind {place!r} at T = {T:g}, the teacher leaves {others:.1%} to other "
        f"tokens than its likeliest, {shown[0]!r}. To a student that knows nothing the "
        f"gradient has size {sizes[False][at]:.3f}, times T^2 {sizes[True][at]:.3f}.",
        {
            "token": shown,
            "p": [round(p_V[token].item(), 5) for token in order],
        },
    )


def gradient_sizes(scores_V: Tensor, square: bool) -> list[float]:
    """How hard a student with equal scores is pulled, at each temperature."""
    found = []
    for T in TEMPERATURES:
        student = torch.zeros(1, 1, len(scores_V), requires_grad=True)
        loss = DistillationLoss(0.0, T)(
            student, scores_V[None, None], torch.zeros(1, 1, dtype=torch.long)
        )
        (gradient,) = torch.autograd.grad(loss, student)
        found.append(gradient.norm().item() / (1 if square else T**2))
    return found
