"""Two pictures that explain: what steps change, and what a cache saves."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labsupport.explore import View
from labsupport.explore.style import BLUE, VERMILION

PROMPT = ("C", "AB", "CE", "DE", "?")
STATES = ("C", "E", "D")
GREY = "#6b7280"


def idea_view() -> View:
    """Three swaps: what each written token has to be made of."""
    direct = (*PROMPT, "=", "D")
    steps = (*PROMPT, *STATES, "=", "D")
    n, T = len(STATES), len(PROMPT)
    figure = make_subplots(
        rows=2,
        vertical_spacing=0.14,
        subplot_titles=(
            "Directly: one token is made of all three swaps",
            "In steps: each is made of one state and one swap",
        ),
    )
    # (written token, what it needs), as positions in the row of tokens.
    needs = {
        1: [(T + 1, s) for s in range(n + 1)],
        2: [
            *((T, 0), (T, 1)),
            *((T + i, T + i - 1) for i in range(1, n)),
            *((T + i, i + 1) for i in range(1, n)),
            (T + n + 1, T + n - 1),
        ],
    }
    for row, tokens in ((1, direct), (2, steps)):
        for at, source in needs[row]:
            arc(figure, row, source, at, VERMILION if row == 1 else BLUE)
        read = [i < T for i in range(len(tokens))]
        figure.add_scatter(
            x=list(range(len(tokens))),
            y=[0.0] * len(tokens),
            text=[f"<b>{token}</b>" for token in tokens],
            mode="markers+text",
            marker={
                "size": 34,
                "symbol": "square",
                "color": ["#eef0f3" if r else "#dbeafe" for r in read],
                "line": {"color": GREY, "width": 1},
            },
            hovertemplate=[
                f"{'read' if r else 'written'}: {token}<extra></extra>"
                for r, token in zip(read, tokens, strict=True)
            ],
            showlegend=False,
            row=row,
            col=1,
        )
        figure.update_yaxes(visible=False, range=[-0.4, 2.1], row=row, col=1)
        figure.update_xaxes(
            visible=False, range=[-0.6, len(steps) - 0.4], row=row, col=1
        )
    figure.update_layout(height=380, margin={"t": 48, "b": 16})
    sentence = (
        "The prompt C AB CE DE ? and what is written behind it. Directly, the answer D "
        "needs the first cup and all three swaps at once. In steps, each state needs "
        "the state before it and one swap, and the answer copies the last state."
    )
    table = {
        "way": ["directly"] + ["in steps"] * 4,
        "written": ["D", *STATES, "= D"],
        "made of": [
            "C, AB, CE, DE",
            "C, AB",
            "C, CE",
            "E, DE",
            "D",
        ],
    }
    return View(figure, sentence, table)


def arc(
    figure: go.Figure, row: int, start: int, end: int, colour: str
) -> None:
    """A half circle, flattened, from one token to another."""
    height = 0.35 + 0.17 * (end - start)
    points = [i / 16 for i in range(17)]
    figure.add_scatter(
        x=[start + (end - start) * p for p in points],
        y=[0.22 + 4 * height * p * (1 - p) for p in points],
        mode="lines",
        line={"color": colour, "width": 2},
        hoverinfo="skip",
        showlegend=False,
        row=row,
        col=1,
    )


def cache_view(read: int = 5, written: int = 6) -> View:
    """How often each pair of tokens is looked at: read again, and kept.

    Args:
        read: tokens of the prompt.
        written: tokens written behind it. (The last one is never read.)
    """
    S = read + written - 1
    again = [
        [written - max(0, t + 1 - read) if s <= t else None for s in range(S)]
        for t in range(S)
    ]
    kept = [[1 if s <= t else None for s in range(S)] for t in range(S)]
    totals = [
        sum(v or 0 for line in grid for v in line) for grid in (again, kept)
    ]
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        subplot_titles=(
            f"all read again: {totals[0]} pairs",
            f"kept: {totals[1]} pairs",
        ),
    )
    for col, grid in ((1, again), (2, kept)):
        figure.add_heatmap(
            z=grid,
            text=[["" if v is None else v for v in line] for line in grid],
            texttemplate="%{text}",
            colorscale=[[0, "#dbeafe"], [1, BLUE]],
            zmin=1,
            zmax=written,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="token %{y} looks at token %{x}: %{z} times<extra></extra>",
            row=1,
            col=col,
        )
        figure.add_hline(
            y=read - 0.5,
            line={"color": VERMILION, "dash": "dot"},
            row=1,
            col=col,
        )
        figure.update_xaxes(
            title="token that is looked at", dtick=1, row=1, col=col
        )
    figure.update_yaxes(title="token that looks", dtick=1, row=1, col=1)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=400, margin={"t": 48})
    sentence = (
        f"A prompt of {read} tokens, then {written} written ones. A number says how "
        "often a pair of tokens is computed. When all is read again for each new "
        f"token, that is {totals[0]} pairs in all; with keys and values kept each pair "
        f"is computed once, {totals[1]} in all. Written tokens lie below the dotted "
        "line."
    )
    table = {
        "way": ["all read again", "kept"],
        "pairs": totals,
    }
    return View(figure, sentence, table)
