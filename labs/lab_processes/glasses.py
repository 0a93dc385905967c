"""How the primer's pictures show a sum: a glass with one layer for each term.

A number that may be a sum over ranks is drawn as a glass. Rank r's term is a
layer of rank r's colour at height r, with r written on it where there is room.
A full glass is a complete sum.

To know the terms, rank r contributes 10 ** r: the decimal digits of any sum say
how often each rank is in it, whatever function has computed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
import torch
from torch import Tensor

from labsupport.explore.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
)

COLOUR_OF_RANK = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
LIGHT = (ORANGE, SKY, YELLOW)  # these need black letters
EDGE, GREY, CLEAR = "#6b7280", "#39424e", "rgba(0,0,0,0)"
LEGIBLE = 11  # the lowest layer, in pixels, that holds a digit


def contributions(world: int, chunks: int) -> Tensor:
    """What every rank puts in: rank r has 10 ** r in each chunk."""
    terms_R = torch.tensor(
        [10**rank for rank in range(world)], dtype=torch.float64
    )
    return terms_R[:, None].repeat(1, chunks)


def terms_of(value: float, world: int) -> list[int] | None:
    """How often each rank is in a sum; None if it is no such sum."""
    whole = round(value) if value == value else -1
    if value != whole or not 0 <= whole < 10**world:
        return None
    return [whole // 10**rank % 10 for rank in range(world)]


def terms_words(value: float, world: int) -> str:
    """ "0+1+3": the ranks whose terms are in a sum."""
    terms = terms_of(value, world)
    if terms is None:
        return "?"
    ranks = [
        str(rank) for rank, count in enumerate(terms) for _ in range(count)
    ]
    return "+".join(ranks) or "nothing"


@dataclass
class Glasses:
    """Collects glasses, then adds them to a figure as a few traces of bars.

    Coordinates are pixels. Attributes:
        world: how many ranks, and so layers, there are.
        font: the size of what stands under a glass.
    """

    world: int
    font: int = 11
    _edges: list[tuple[float, ...]] = field(default_factory=list)
    _bold: list[tuple[float, ...]] = field(default_factory=list)
    _layers: dict[int, list[tuple[float, ...]]] = field(default_factory=dict)
    _twice: list[tuple[float, ...]] = field(default_factory=list)
    _letters: list[tuple[float, float, str, str]] = field(default_factory=list)

    def add(
        self,
        x: float,
        y: float,
        size: tuple[float, float],
        value: float,
        name: str = "",
        bold: bool = False,
    ) -> None:
        """A glass whose bottom has its middle at (x, y).

        Args:
            size: width and height.
            value: what it holds; see the module.
            name: what stands under it.
            bold: it is about to be sent.
        """
        wide, high = size
        (self._bold if bold else self._edges).append((x, y, wide, high))
        layer = high / self.world
        terms = terms_of(value, self.world)
        if terms is None:
            self._letters.append((x, y + high / 2, "?", GREY))
        for rank, count in enumerate(terms or []):
            if not count:
                continue
            bar = (x, y + rank * layer, wide, layer)
            self._layers.setdefault(rank, []).append(bar)
            if count > 1:
                self._twice.append(bar)
            elif layer >= LEGIBLE:
                ink = BLACK if COLOUR_OF_RANK[rank] in LIGHT else "white"
                self._letters.append(
                    (x, y + (rank + 0.5) * layer, str(rank), ink)
                )
        if name:
            self._letters.append((x, y - 0.75 * self.font, name, GREY))

    def draw(self, figure: go.Figure) -> None:
        """Add everything. The number of traces depends on `world` alone."""
        figure.add_trace(_bars(self._edges + self._bold, "white", EDGE, 1))
        for rank in range(self.world):
            layers = self._layers.get(rank, [])
            figure.add_trace(_bars(layers, COLOUR_OF_RANK[rank], "white", 0.5))
        twice = _bars(self._twice, CLEAR, BLACK, 1)
        twice.marker.pattern = {"shape": "x", "fgcolor": "black", "size": 6}
        figure.add_trace(twice)
        figure.add_trace(_bars(self._bold, CLEAR, BLACK, 2.5))
        columns = list(zip(*self._letters, strict=True)) or [(), (), (), ()]
        x, y, text, ink = map(list, columns)
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="text",
            textfont={"size": self.font, "color": ink},
            hoverinfo="skip",
        )
        figure.update_layout(barmode="overlay", showlegend=False)


def _bars(
    bars: Sequence[tuple[float, ...]], fill: str, line: str, width: float
) -> go.Bar:
    x, base, wide, high = (
        map(list, zip(*bars, strict=True)) if bars else ([],) * 4
    )
    return go.Bar(
        x=x,
        base=base,
        width=wide,
        y=high,
        marker={"color": fill, "line": {"color": line, "width": width}},
        hoverinfo="skip",
    )


def on_canvas(
    figure: go.Figure, width: float, height: float, title: str
) -> None:
    """Make the axes pixels: x from 0 to width, y from 0 to height."""
    top = 44
    figure.update_layout(
        title={"text": title, "y": 1 - 14 / (height + top)},
        width=width,
        height=height + top,
        margin={"l": 0, "r": 0, "t": top, "b": 0},
        xaxis={"visible": False, "range": [0, width], "fixedrange": True},
        yaxis={"visible": False, "range": [0, height], "fixedrange": True},
    )
