"""Four collectives as before and after, run on four practice ranks."""

from __future__ import annotations

import plotly.graph_objects as go
import torch
from torch import Tensor

from labs.lab_processes.glasses import (
    COLOUR_OF_RANK,
    GREY,
    Glasses,
    contributions,
    on_canvas,
)
from labs.lab_processes.ranks_ours import collective
from labsupport.exercise.practice import on_ranks
from labsupport.explore import View

NAMES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
WORLD = 4
GLASS = (24, 32)
PITCH = (30, 56)  # from glass to glass, and from rank to rank
BLOCK = 154  # from one collective to the next
LEFT = 92  # of the first block
WIDTH, HEIGHT = 720, 2 * WORLD * PITCH[1] + 84


def before_and_after(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ranks hold, and which chunk each number belongs to.

    Returns:
        terms before, chunks before, terms after, chunks after: each with one
        row a rank. Rank r's terms are 10 ** r, see glasses.py.
    """
    chunks_RC = torch.arange(WORLD).repeat(WORLD, 1).double()
    if name == "all_gather":  # each rank begins with a chunk of its own
        chunks_RC = torch.arange(WORLD)[:, None].double()
    terms_RC = contributions(WORLD, chunks_RC.shape[1])

    def run(x_RC: Tensor) -> Tensor:
        return torch.stack(
            on_ranks(lambda x_C, dist: collective(name, x_C, dist), x_RC)
        )

    after_RC, which_RC = run(terms_RC), run(chunks_RC)
    summed = name in ("all_reduce", "reduce_scatter")
    return (
        terms_RC,
        chunks_RC,
        after_RC,
        which_RC / WORLD if summed else which_RC,
    )


def collectives_view() -> View:
    """The four, side by side: before above, after below."""
    glasses, figure = Glasses(WORLD), go.Figure()
    upper = HEIGHT - 48
    lower = upper - WORLD * PITCH[1] - 30
    for place, name in enumerate(NAMES):
        left = LEFT + place * BLOCK
        before, chunks, after, which = before_and_after(name)
        _grid(glasses, left, upper, before, chunks)
        _grid(glasses, left, lower, after, which)
        figure.add_annotation(
            x=left + 1.5 * PITCH[0],
            y=HEIGHT - 10,
            text=f"<b>{name}</b>",
            showarrow=False,
        )
    for top, when in ((upper, "before"), (lower, "after")):
        for rank in range(WORLD):
            square = f'<span style="color:{COLOUR_OF_RANK[rank]}">■</span>'
            figure.add_annotation(
                x=LEFT - 24,
                y=top - rank * PITCH[1] - GLASS[1] / 2,
                xanchor="right",
                text=f"{square} rank {rank}",
                showarrow=False,
            )
        figure.add_annotation(
            x=4,
            y=top + 18,
            xanchor="left",
            text=f"<i>{when}</i>",
            font={"color": GREY},
            showarrow=False,
        )
    glasses.draw(figure)
    on_canvas(figure, WIDTH, HEIGHT, "Four collectives on four ranks")
    sentence = (
        "all_reduce: every rank gets every sum. all_gather: every rank gets every "
        "rank's chunk. reduce_scatter: rank r gets the sum of chunk r. all_to_all: "
        "rank r gets chunk r of every rank."
    )
    return View(figure, sentence)


def _grid(
    glasses: Glasses,
    left: float,
    top: float,
    terms_RC: Tensor,
    chunks_RC: Tensor,
) -> None:
    """One row of glasses a rank, under each the number of its chunk.

    A rank's only chunk stands where it belongs among the others.
    """
    for rank, (terms, chunks) in enumerate(
        zip(terms_RC.tolist(), chunks_RC.tolist(), strict=True)
    ):
        bottom = top - rank * PITCH[1] - GLASS[1]
        for place, (value, chunk) in enumerate(
            zip(terms, chunks, strict=True)
        ):
            x = left + (place if len(terms) > 1 else chunk) * PITCH[0]
            glasses.add(x, bottom, GLASS, value, name=f"{chunk:.0f}")
