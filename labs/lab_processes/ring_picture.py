"""The picture of the primer: messages that move round a ring, step by step.

Nothing is drawn that did not happen: the function to be shown, the reader's or
ours, runs on practice ranks, and what moved is what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go
from torch import Tensor

from labs.lab_processes.glasses import (
    COLOUR_OF_RANK,
    GREY,
    Glasses,
    contributions,
    on_canvas,
    terms_words,
)
from labsupport.exercise.practice import Message, PracticeGroup
from labsupport.explore import Explorer, View, choose, slide

AllReduce = Callable[[Tensor, Any], Any]

WIDTH = 720
WORLDS = (2, 3, 4, 6, 8)
LAST = 2 * (max(WORLDS) - 1)
SIZES = {2: (34, 56), 3: (32, 56), 4: (28, 52), 6: (18, 48), 8: (13, 48)}
"""World -> width and height of a glass, in pixels."""


def ring_explorer(
    algorithms: Mapping[str, AllReduce], step: int = 0, world: int = 4
) -> Explorer:
    """Watch all-reduces run on practice ranks.

    Args:
        algorithms: name -> a function of (x_N, dist) that sums in place; of an
            exercise the function in use is shown.
        step: how many steps are done at first.
        world: how many ranks there are at first.
    """
    controls = {
        "world": choose("ranks", WORLDS, world),
        "step": slide("steps done", range(LAST + 1), step),
    }
    if len(algorithms) > 1:
        choice = choose("all-reduce", list(algorithms))
        controls = {"algorithm": choice, **controls}

    def draw(world: int, step: int, algorithm: str = "") -> View:
        name = algorithm or next(iter(algorithms))
        return ring_view(algorithms[name], name, world, step)

    return Explorer(draw, **controls)


def ring_view(function: AllReduce, name: str, world: int, done: int) -> View:
    """What every rank holds after `done` steps, and what moves next.

    Args:
        function: an all-reduce in place of a vector with one chunk a rank.
        name: what the picture calls it.
        world: how many ranks.
        done: steps that are over; more than there are shows the end.
    """
    group = PracticeGroup(world)
    trouble = ""
    try:
        group.run(function, contributions(world, world))
    except Exception as error:  # the picture shows how far it came
        trouble = f" Then it fails: {error}."
    steps = max((message.round for message in group.messages), default=0)
    done = min(done, steps)
    moving = [
        message for message in group.messages if message.round == done + 1
    ]
    held = [_held(group.states[rank], done) for rank in range(world)]
    title = f"{name[:1].upper()}{name[1:]}, {world} ranks, "
    if moving:
        title += f"step {done + 1} of {steps}{_effect(group, done, moving)}"
    else:
        title += f"done after {steps} steps"
    sentence = _sentence(group, done, steps, moving) + trouble
    return View(_figure(title, held, moving), sentence, _table(held, moving))


def _effect(group: PracticeGroup, done: int, moving: list[Message]) -> str:
    """What becomes of the messages of a step: added, or put in place."""
    added = replaced = 0
    for message in moving:
        states = group.states[message.to]
        before, after = _held(states, done), _held(states, done + 1)
        values = message.payload.flatten().tolist()
        for chunk, value in zip(_chunks(message), values, strict=False):
            replaced += after[chunk] == value
            added += after[chunk] == before[chunk] + value
    if added and not replaced:
        return ": what arrives is added"
    if replaced and not added:
        return ": what arrives replaces what was there"
    return ""


def _held(states: dict[int, Tensor], done: int) -> list[float]:
    """A rank's chunks after `done` steps; it may have rested in some."""
    last = max(step for step in states if step <= done)
    return states[last].tolist()


def _figure(
    title: str, held: list[list[float]], moving: list[Message]
) -> go.Figure:
    world = len(held)
    wide, high = SIZES[world]
    glasses = Glasses(world)
    figure = go.Figure()
    places = [_place(rank, world) for rank in range(world)]
    panel = (world * (wide + 4) + 12, high + 44)
    sent = {(m.source, chunk) for m in moving for chunk in _chunks(m)}
    for rank, (x, y) in enumerate(places):
        left = x - (world - 1) / 2 * (wide + 4)
        square = f'<span style="color:{COLOUR_OF_RANK[rank]}">■</span>'
        bottom = y - high / 2
        for chunk, value in enumerate(held[rank]):
            glasses.add(
                left + chunk * (wide + 4),
                bottom,
                (wide, high),
                value,
                name=str(chunk),
                bold=(rank, chunk) in sent,
            )
        figure.add_annotation(
            x=x,
            y=bottom + high + 12,
            text=f"{square} <b>rank {rank}</b>",
            showarrow=False,
        )
    for message in moving:
        _arrow(figure, glasses, message, places, panel, (wide, high))
    glasses.draw(figure)
    on_canvas(figure, WIDTH, _height(world), title)
    return figure


def _place(rank: int, world: int) -> tuple[float, float]:
    """The middle of a rank's panel; rank 0 is on top, and they go clockwise."""
    angle = math.pi / 2 - 2 * math.pi * rank / world
    middle = (WIDTH / 2, _height(world) / 2)
    return (
        middle[0] + (middle[0] - 88) * math.cos(angle),
        middle[1] + (middle[1] - 63) * math.sin(angle),
    )


def _height(world: int) -> int:
    return {2: 360, 8: 620}.get(world, 470)


def _arrow(
    figure: go.Figure,
    glasses: Glasses,
    message: Message,
    places: list[tuple[float, float]],
    panel: tuple[float, float],
    size: tuple[float, float],
) -> None:
    """An arrow between two panels, and what moves: on it, or inside it if short."""
    start = _edge(places[message.source], places[message.to], panel)
    end = _edge(places[message.to], places[message.source], panel)
    if len(places) == 2:  # the two ways side by side
        side = 40 if message.source == 0 else -40
        start, end = (start[0] + side, start[1]), (end[0] + side, end[1])
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    values = message.payload.flatten().tolist()
    wide, high = size if len(values) == 1 else (0.6 * size[0], size[1])
    load = (len(values) * (wide + 4) + 8, high + 22)
    across = 2 * math.dist(middle, _edge(middle, end, load))
    if length > across + 24:
        _line(figure, start, _edge(middle, start, load), head=False)
        _line(figure, _edge(middle, end, load), end)
    else:
        _line(figure, start, end)
        away = (abs(dy) * load[0] + abs(dx) * load[1]) / 2 / length + 4
        middle = (
            middle[0] + dy / length * away,
            middle[1] - dx / length * away,
        )
    left = middle[0] - (len(values) - 1) / 2 * (wide + 4)
    bottom = middle[1] - high / 2 + 6
    for place, value in enumerate(values):
        chunks = _chunks(message)
        name = str(chunks[place]) if chunks else ""
        x = left + place * (wide + 4)
        glasses.add(x, bottom, (wide, high), value, name=name, bold=True)


def _line(
    figure: go.Figure,
    start: tuple[float, float],
    end: tuple[float, float],
    head: bool = True,
) -> None:
    figure.add_annotation(
        x=end[0],
        y=end[1],
        ax=start[0],
        ay=start[1],
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        showarrow=True,
        arrowhead=2 if head else 0,
        arrowwidth=2,
        arrowcolor=GREY,
    )


def _edge(
    inside: tuple[float, float],
    towards: tuple[float, float],
    panel: tuple[float, float],
) -> tuple[float, float]:
    """Where the line from the middle of a panel leaves it."""
    dx, dy = towards[0] - inside[0], towards[1] - inside[1]
    along = min(
        panel[0] / 2 / abs(dx) if dx else math.inf,
        panel[1] / 2 / abs(dy) if dy else math.inf,
    )
    return inside[0] + along * dx, inside[1] + along * dy


def _chunks(message: Message) -> range:
    """Which chunks of its vector a rank sends; none if it sends something else."""
    if message.offset is None:
        return range(0)
    return range(message.offset, message.offset + message.payload.numel())


def _what(message: Message, world: int) -> str:
    """ "chunk 2 (0+1)"."""
    chunks = _chunks(message)
    values = message.payload.flatten().tolist()
    if len(values) > 1 and len(set(values)) == 1:
        return (
            f"{len(values)} chunks ({terms_words(values[0], world)} in each)"
        )
    name = f"chunk {chunks[0]}" if chunks else "a copy"
    return (
        f"{name} ({', '.join(terms_words(value, world) for value in values)})"
    )


def _sentence(
    group: PracticeGroup, done: int, steps: int, moving: list[Message]
) -> str:
    world = group.world
    if moving:
        each = [
            f"rank {m.source} sends {_what(m, world)} to rank {m.to}"
            for m in moving
        ]
        return f"Step {done + 1} of {steps}: {'; '.join(each)}."
    whole = [0.0] * world
    for message in group.messages:
        whole[message.source] += message.payload.numel() / world
    most = max(whole)
    return (
        f"Done after {steps} steps. The rank that sent most, rank "
        f"{whole.index(most)}, sent {most:.3g} times its vector."
    )


def _table(
    held: list[list[float]], moving: list[Message]
) -> dict[str, list[Any]]:
    world = len(held)
    table: dict[str, list[Any]] = {"rank": list(range(world))}
    for chunk in range(world):
        table[f"chunk {chunk}"] = [
            terms_words(row[chunk], world) for row in held
        ]
    sends = {m.source: f"{_what(m, world)} to rank {m.to}" for m in moving}
    table["sends next"] = [sends.get(rank, "") for rank in range(world)]
    return table
