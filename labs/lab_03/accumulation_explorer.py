"""The error of a long sum in a narrow register, by length and promotion."""

from __future__ import annotations

from functools import lru_cache

import plotly.graph_objects as go
from torch import Tensor

from labs.lab_03.accumulator import KINDS, PROMOTE, products, worst_error
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import COLOURS

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
DOTS = 128
"""Dot products of each length; the worst one counts."""
NAMES = {32: "every 32", 64: "every 64", 128: "every 128 (V3)", 0: "never"}
WORDS = {
    "uniform": "uniform between 0 and 1",
    "log-normal": "log-normal, all positive",
    "normal": "normal, of both signs",
}


def accumulation_explorer() -> Explorer:
    """How often sums are promoted, and what is summed."""
    return Explorer(
        draw,
        promote=slide("promoted", PROMOTE, 0, [NAMES[p] for p in PROMOTE]),
        kind=choose("numbers", KINDS),
    )


@lru_cache(maxsize=3)
def _products(kind: str) -> Tensor:
    return products(kind, DOTS, max(LENGTHS))


@lru_cache(maxsize=64)
def errors(kind: str, promote: int) -> tuple[float, ...]:
    """The worst error at each length, in percent."""
    every = _products(kind)
    return tuple(100 * worst_error(every[:, :K], promote) for K in LENGTHS)


def draw(promote: int, kind: str) -> View:
    """Error against length; all ways of promoting, the chosen one in front."""
    figure = go.Figure()
    for number, each in enumerate(PROMOTE):
        chosen = each == promote
        figure.add_scatter(
            x=LENGTHS,
            y=errors(kind, each),
            name=NAMES[each],
            mode="lines+markers",
            line={"color": COLOURS[number], "width": 4 if chosen else 1.5},
            marker={"symbol": number, "size": 11 if chosen else 6},
            opacity=1.0 if chosen else 0.45,
        )
    figure.update_xaxes(
        title="K, products in a sum",
        type="log",
        tickvals=LENGTHS,
        ticktext=[str(K) for K in LENGTHS],
    )
    ticks = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
    figure.update_yaxes(
        title="largest error, %",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}" for tick in ticks],
        range=[-2.5, 1.2],
    )
    title = f"Numbers {WORDS[kind]}, promoted {NAMES[promote]}"
    figure.update_layout(title=title, margin={"t": 92})
    first, last = errors(kind, promote)[0], errors(kind, promote)[-1]
    sentence = (
        f"{title}: the largest error of {DOTS} sums is {first:.2g} % for "
        f"{LENGTHS[0]} products and {last:.2g} % for {LENGTHS[-1]}."
    )
    table: dict[str, list[object]] = {"K": list(LENGTHS)}
    for each in PROMOTE:
        table[f"{NAMES[each]}, %"] = [
            float(f"{error:.2g}") for error in errors(kind, each)
        ]
    return View(figure, sentence, table)
