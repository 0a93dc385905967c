"""One token at the gate: scores, biases, who is chosen, with what weight."""

from __future__ import annotations

import plotly.graph_objects as go
import torch

from labs.lab_02.exercises_core import gate
from labsupport.explore import View
from labsupport.explore.style import BLUE, VERMILION

SCORES = (0.71, 0.34, 0.62, 0.15, 0.58, 0.44, 0.27, 0.50)
BIASES = (-0.20, 0.05, 0.03, 0.10, 0.02, 0.05, 0.12, -0.08)
K = 2


def idea_view() -> View:
    """Eight experts: the bias moves the choice, the weights come without it."""
    score_NE = torch.tensor([SCORES])
    bias_E = torch.tensor(BIASES)
    index_NK, weight_NK = gate(torch.logit(score_NE), bias_E, K)
    chosen = dict(
        zip(index_NK[0].tolist(), weight_NK[0].tolist(), strict=True)
    )
    best = sorted(range(len(SCORES)), key=lambda i: -SCORES[i])[:K]
    biased = [s + b for s, b in zip(SCORES, BIASES, strict=True)]
    experts = list(range(len(SCORES)))
    figure = go.Figure()
    figure.add_bar(
        x=experts,
        y=SCORES,
        name="score s",
        marker={
            "color": [BLUE if i in chosen else "#c4c9d1" for i in experts]
        },
    )
    figure.add_scatter(
        x=experts,
        y=biased,
        name="s + b",
        mode="markers",
        marker={"symbol": "line-ew", "size": 34, "line": {"width": 3}},
        marker_line_color=VERMILION,
    )
    for i in experts:
        figure.add_annotation(
            x=i,
            y=max(SCORES[i], biased[i]),
            yshift=16,
            showarrow=False,
            text=f"<b>g = {chosen[i]:.2f}</b>"
            if i in chosen
            else f"b {BIASES[i]:+.2f}",
            font={"size": 12},
        )
    last = sorted(biased)[-K]
    figure.add_hline(y=last - 0.005, line={"color": VERMILION, "dash": "dot"})
    figure.update_xaxes(title="expert", dtick=1)
    figure.update_yaxes(title="score", range=[0, 0.85])
    figure.update_layout(
        title="Expert 0 scores highest, but it is busy: its bias keeps this token away"
    )
    sentence = (
        f"One token, eight experts, K = {K}. By score it would go to experts "
        f"{best[0]} and {best[1]}; with the biases it goes to "
        f"{' and '.join(map(str, chosen))}, with weights "
        + " and ".join(f"{w:.2f}" for w in chosen.values())
        + " made of their scores alone."
    )
    table = {
        "expert": experts,
        "s": list(SCORES),
        "b": list(BIASES),
        "s + b": biased,
    }
    return View(figure, sentence, table)
