"""The clip and advantage playground: what a group's rewards do to one token."""

from __future__ import annotations

from typing import Literal

import torch
from plotly.subplots import make_subplots

from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, VERMILION
from labsupport.rl import group_advantages
from labsupport.rl.objectives import clip_both

GROUP = 8
RATIOS = tuple(round(0.1 * i, 1) for i in range(2, 20))
CLIPS = {"0.2 / 0.2": (0.2, 0.2), "0.2 / 0.28": (0.2, 0.28), "off": (1.0, 9.0)}
DIVISIONS: dict[str, Literal["unbiased", "none"]] = {
    "yes (GRPO)": "unbiased",
    "no (Dr. GRPO)": "none",
}


def clip_explorer() -> Explorer:
    """A group of eight completions, and the gain of one token of two of them."""
    return Explorer(
        draw,
        right=slide("right ones of 8", tuple(range(GROUP + 1)), 2),
        divided=choose("divided by the spread", list(DIVISIONS)),
        clip=choose("clip, down / up", list(CLIPS)),
        rho=slide("rho", RATIOS, 1.0),
    )


def draw(right: int, divided: str, clip: str, rho: float) -> View:
    """Advantages on the left, gains by ratio on the right."""
    rewards_1G = (torch.arange(GROUP) < right).float()[None]
    A_G = group_advantages(rewards_1G, DIVISIONS[divided])[0].tolist()
    kinds = {
        "right": (A_G[0] if right else 0.0, BLUE, "solid"),
        "wrong": (A_G[-1] if right < GROUP else 0.0, VERMILION, "dash"),
    }
    figure = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.12,
        subplot_titles=("advantage of each completion", "gain of a token"),
    )
    figure.add_bar(
        x=[str(number) for number in range(1, GROUP + 1)],
        y=A_G,
        marker={"color": [BLUE] * right + [VERMILION] * (GROUP - right)},
        hovertemplate="completion %{x}: A = %{y:.2f}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    low, high = CLIPS[clip]
    ratios = torch.linspace(0.1, 2.0, 191)
    said, table = [], {"rho": list(RATIOS)}
    for kind, (A, colour, dash) in kinds.items():
        gains = clip_both(ratios, torch.tensor(A), low, high)
        figure.add_scatter(
            x=ratios.tolist(),
            y=gains.tolist(),
            mode="lines",
            name=f"of a {kind} one",
            line={"color": colour, "dash": dash},
            row=1,
            col=2,
        )
        here = clip_both(torch.tensor(rho), torch.tensor(A), low, high).item()
        figure.add_scatter(
            x=[rho],
            y=[here],
            mode="markers",
            marker={"color": colour, "size": 12},
            showlegend=False,
            hovertemplate="rho %{x}: gain %{y:.2f}<extra></extra>",
            row=1,
            col=2,
        )
        table[f"gain, {kind}"] = [
            round(
                clip_both(torch.tensor(r), torch.tensor(A), low, high).item(),
                3,
            )
            for r in RATIOS
        ]
        exists = right > 0 if kind == "right" else right < GROUP
        if exists and 0 < right < GROUP:
            still = held(rho, A, low, high)
            pull = "is held" if still else "still pulls"
            said.append(f"a {kind} one has A = {A:+.2f} and {pull}")
    figure.update_xaxes(title="completion", row=1, col=1)
    figure.update_xaxes(title="rho = pi / pi_old", row=1, col=2)
    figure.update_yaxes(title="A", range=[-3, 3], row=1, col=1)
    figure.update_yaxes(title="gain", range=[-3.2, 3.2], row=1, col=2)
    figure.update_layout(
        height=420,
        margin={"t": 110},
        legend={"orientation": "h", "y": 1.3, "yanchor": "top"},
    )
    what = (
        "; ".join(said)
        if said
        else "all rewards are equal, so every advantage is 0 and nothing is learned"
    )
    return View(figure, f"{right} of 8 right, rho = {rho:g}: {what}.", table)


def held(rho: float, A: float, low: float, high: float) -> bool:
    """Whether a token has no gradient any more."""
    return (A > 0 and rho > 1 + high) or (A < 0 and rho < 1 - low)
