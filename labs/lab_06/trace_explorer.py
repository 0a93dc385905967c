"""The trace inspector: change a state, and see whether the answer follows."""

from __future__ import annotations

from functools import partial
from typing import Any

import plotly.graph_objects as go
import torch

from labs.lab_06.thinker import Thinker
from labs.lab_06.traces import answer_of
from labs.lab_06.verifying import where
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, VERMILION

GAMES = tuple(range(1, 9))
GREY = "#9ca3af"


def trace_explorer(
    thinkers: dict[str, Thinker], *, seed: int = 1000
) -> Explorer:
    """Games of some models, whose traces can be changed by a click.

    Args:
        thinkers: name -> model; all of one game.
        seed: of the games.
    """
    first, *_ = thinkers.values()
    game = first.game
    cups = game.vocabulary.names[: game.cups]
    prompts_PT = game.prompts(len(GAMES), seed=seed, split="validation")
    numbers = (0, *range(1, game.swaps + 1))

    def clicked(x: float, y: Any) -> dict[str, Any]:
        return (
            {"number": round(x), "cup": str(y)} if 1 <= x <= game.swaps else {}
        )

    return Explorer(
        partial(draw, thinkers, prompts_PT),
        click=clicked,
        model=choose("model", list(thinkers)),
        number_of_game=slide("game", GAMES, 1),
        number=slide(
            "change the state behind swap",
            numbers,
            0,
            ["none", *map(str, numbers[1:])],
        ),
        cup=choose("to", list(cups)),
    )


def draw(
    thinkers: dict[str, Thinker],
    prompts_PT: torch.Tensor,
    model: str,
    number_of_game: int,
    number: int,
    cup: str,
) -> View:
    """One game: where the ball is, and what the model writes."""
    thinker = thinkers[model]
    game, names = thinker.game, thinker.game.vocabulary
    prompt_T = prompts_PT[number_of_game - 1]
    prompt = names.decode(prompt_T)
    truth = [names.names[c] for c in game.states(prompt_T[None])[0].tolist()]
    own = thinker.write(prompt_T[None]).rows()[0]
    shown, kept = own, 0
    if number:
        begun = [*own[: number - 1], names[cup]]
        start_1T = torch.tensor([[*prompt_T.tolist(), *begun]])
        shown = [*begun, *thinker.write(start_1T).rows()[0]]
        kept = number
    figure = picture(thinker, prompt.split(), truth, own, shown, kept)
    right = where(prompt)
    before, after = (answer_of(game, row) or "no cup" for row in (own, shown))
    if not number:
        sentence = (
            f"The ball ends under {right}. The model writes {names.decode(own)}: its "
            f"answer is {before}."
        )
    else:
        verdict = (
            "the answer stays"
            if after == before
            else "the answer changes with it"
        )
        sentence = (
            f"The ball ends under {right}; the model by itself answers {before}. With "
            f"{cup} behind swap {number} it goes on {names.decode(shown[number:])}: "
            f"{verdict}, {after}."
        )
    figure.update_layout(title=f"Game {number_of_game}: {prompt}")
    swaps = prompt.split()[1:-1]
    table = {
        "swap": swaps,
        "ball": truth,
        "written": [
            names.decode(shown[i : i + 1]) if i < len(shown) else ""
            for i in range(len(swaps))
        ],
    }
    return View(figure, sentence, table)


def picture(
    thinker: Thinker,
    prompt: list[str],
    truth: list[str],
    own: list[int],
    shown: list[int],
    changed: int,
) -> go.Figure:
    """A column for each swap, a row for each cup."""
    game = thinker.game
    names = game.vocabulary.names
    cups = list(names[: game.cups])
    columns = list(range(1, game.swaps + 1))
    figure = go.Figure()
    # Every place can be clicked.
    figure.add_scatter(
        x=[i for i in columns for _ in cups],
        y=cups * len(columns),
        mode="markers",
        marker={"size": 22, "color": "#eef0f3", "symbol": "square"},
        hovertemplate="write %{y} behind swap %{x}<extra></extra>",
        showlegend=False,
    )
    figure.add_scatter(
        x=[0, *columns],
        y=[prompt[0], *truth],
        name="the ball",
        mode="lines",
        line={"color": GREY, "width": 8},
        hoverinfo="skip",
    )
    for row, name, colour, dash in (
        (own, "the model by itself", BLUE, "dot" if changed else "solid"),
        # Empty without a change: a picture that gains lines hears no more clicks.
        (shown if changed else [], "after the change", VERMILION, "solid"),
    ):
        written = [
            (i, names[t]) for i, t in enumerate(row, 1) if t < game.cups
        ]
        states = [(i, c) for i, c in written if i <= game.swaps]
        answer = answer_of(game, row)
        figure.add_scatter(
            x=[i for i, _ in states],
            y=[c for _, c in states],
            name=name,
            showlegend=bool(row),
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            hovertemplate=f"{name}: %{{y}} behind swap %{{x}}<extra></extra>",
        )
        figure.add_scatter(
            x=[game.swaps + 1.2] if answer else [],
            y=[answer] if answer else [],
            mode="markers",
            marker={"symbol": "star", "size": 18, "color": colour},
            name=f"answer, {name}",
            hovertemplate="answer %{y}<extra></extra>",
            showlegend=False,
        )
    if changed:
        figure.add_vline(x=changed, line={"color": VERMILION, "width": 1})
    figure.update_xaxes(
        title="swap",
        tickvals=[0, *columns, game.swaps + 1.2],
        ticktext=["start", *prompt[1:-1], "answer"],
        range=[-0.5, game.swaps + 1.8],
    )
    figure.update_yaxes(
        title="cup", categoryorder="array", categoryarray=cups[::-1]
    )
    figure.update_layout(height=380, margin={"t": 60})
    return figure
