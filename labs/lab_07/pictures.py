"""One step of learning from rewards, as a picture of a real rollout."""

from __future__ import annotations

import plotly.graph_objects as go

from labsupport.explore import View
from labsupport.explore.style import BLUE, VERMILION
from labsupport.rl import group_advantages
from labsupport.rl.rollouts import Rollout
from labsupport.tasks.game import Game

GREY = "#6b7280"


def step_view(rollout: Rollout, game: Game) -> View:
    """Every completion of a few prompts, its reward, and where its tokens are pushed.

    Args:
        rollout: of a few prompts; a row of the picture for each completion.
        game: names the tokens.
    """
    P, G = rollout.rewards_PG.shape
    rewards = rollout.rewards_PG.flatten().tolist()
    A = group_advantages(rollout.rewards_PG).flatten().tolist()
    words = [
        game.vocabulary.decode(row).split()
        for row in rollout.completions.rows()
    ]
    prompts = [
        game.vocabulary.decode(row) for row in rollout.prompts_RT[::G].tolist()
    ]
    N = max(len(row) for row in words)
    # Two lines above each group for its prompt and some air.
    y = [row + 1.4 * (row // G) for row in range(P * G)]
    figure = go.Figure()
    figure.add_scatter(
        x=[at for row in words for at in range(len(row))],
        y=[y[r] for r, row in enumerate(words) for _ in row],
        text=[word for row in words for word in row],
        mode="markers+text",
        textfont={"size": 11},
        marker={
            "symbol": "square",
            "size": 28,
            "color": [A[r] for r, row in enumerate(words) for _ in row],
            "colorscale": [[0, VERMILION], [0.5, "#ffffff"], [1, BLUE]],
            "cmin": -3,
            "cmax": 3,
            "line": {"color": GREY, "width": 1},
        },
        customdata=[A[r] for r, row in enumerate(words) for _ in row],
        hovertemplate="%{text}: A = %{customdata:+.2f}<extra></extra>",
        showlegend=False,
    )
    for r, row in enumerate(y):
        figure.add_annotation(
            x=N + 0.1,
            y=row,
            text=f"R = {rewards[r]:.0f}, A = {A[r]:+.2f}",
            showarrow=False,
            xanchor="left",
        )
    for p, prompt in enumerate(prompts):
        figure.add_annotation(
            x=-0.5,
            y=y[p * G] - 1.0,
            text=f"prompt {p + 1}: {prompt}",
            showarrow=False,
            xanchor="left",
            font={"color": GREY, "size": 12},
        )
    figure.update_xaxes(visible=False, range=[-0.7, N + 3.4])
    figure.update_yaxes(visible=False, range=[y[-1] + 0.8, -1.7])
    figure.update_layout(
        title="One step: blue tokens are made likelier, orange ones less likely",
        height=120 + 36 * len(y),
        margin={"t": 48, "b": 16},
    )
    return View(
        figure,
        sentence(rollout.rewards_PG.tolist()),
        table_of(words, rewards, A),
    )


def sentence(rewards_PG: list[list[float]]) -> str:
    """Which groups teach something."""
    said = []
    for p, group in enumerate(rewards_PG, 1):
        right, G = int(sum(group)), len(group)
        teaches = (
            "the group teaches nothing"
            if right in (0, G)
            else "what won is made likelier, what lost less likely"
        )
        said.append(
            f"Of prompt {p}, {right} of {G} completions are right: {teaches}."
        )
    return " ".join(said)


def table_of(
    words: list[list[str]], rewards: list[float], A: list[float]
) -> dict[str, list[object]]:
    """The same, to be read."""
    return {
        "completion": [" ".join(row) for row in words],
        "reward": list(rewards),
        "advantage": [round(value, 2) for value in A],
    }
