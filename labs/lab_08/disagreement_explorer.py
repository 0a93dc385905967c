"""Where teacher and student disagree, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from plotly.subplots import make_subplots
from torch import Tensor

from labsupport.distill.loss import disagreement
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, VERMILION
from labsupport.nn import GPT
from labsupport.tasks.game import IGNORED

MOST = 5
"""Tokens whose probabilities are compared at one place."""


def disagreement_explorer(
    teacher: GPT,
    students: Mapping[str, GPT],
    tokens_BS: Tensor,
    targets_BS: Tensor,
    names: Sequence[str],
) -> Explorer:
    """Choose a student, a text and a place in it.

    Args:
        teacher: scores every place.
        students: by name; the same vocabulary.
        tokens_BS, targets_BS: texts, and what comes next in them; IGNORED where
            nothing is learned.
        names: of the tokens.
    """
    with torch.no_grad():
        teacher_BSV = teacher(tokens_BS)
        scores = {
            name: student(tokens_BS) for name, student in students.items()
        }

    counted = [int(n) for n in (targets_BS != IGNORED).sum(1)]

    def draw(student: str, text: int, place: int) -> View:
        b = text - 1
        where_S = (targets_BS[b] != IGNORED).nonzero()[:, 0]
        at = min(place, counted[b]) - 1
        return drawn(
            teacher_BSV[b, where_S],
            scores[student][b, where_S],
            targets_BS[b, where_S],
            names,
            at,
        )

    return Explorer(
        draw,
        student=choose("student", list(students)),
        text=slide("text", tuple(range(1, len(tokens_BS) + 1)), 1),
        place=slide("place", tuple(range(1, max(counted) + 1)), 1),
    )


def drawn(
    teacher_SV: Tensor,
    student_SV: Tensor,
    written_S: Tensor,
    names: Sequence[str],
    at: int,
) -> View:
    """Bars of disagreement along a text; both probabilities at one place."""
    apart_S = disagreement(student_SV, teacher_SV, written_S).tolist()
    text = [names[token] for token in written_S.tolist()]
    p_V, q_V = teacher_SV[at].softmax(-1), student_SV[at].softmax(-1)
    # The likeliest of either, so that no tall bar is missing.
    order = torch.maximum(p_V, q_V).argsort(descending=True)[:MOST].tolist()
    order.sort(key=lambda token: -p_V[token].item())
    figure = make_subplots(
        rows=2,
        vertical_spacing=0.28,
        subplot_titles=(
            "KL(teacher || student) of each token",
            f"what both say at place {at + 1}",
        ),
    )
    figure.add_bar(
        x=list(range(1, len(text) + 1)),
        y=apart_S,
        marker={
            "color": [
                VERMILION if i == at else "#9ca3af" for i in range(len(text))
            ]
        },
        hovertemplate="place %{x}: %{y:.3f} nats<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    for who, each_V, colour in (
        ("teacher", p_V, BLUE),
        ("student", q_V, VERMILION),
    ):
        figure.add_bar(
            x=list(range(MOST)),
            y=[each_V[token].item() for token in order],
            name=who,
            marker={"color": colour},
            row=2,
            col=1,
        )
    figure.update_xaxes(
        tickvals=list(range(1, len(text) + 1)), ticktext=text, row=1, col=1
    )
    figure.update_xaxes(
        tickvals=list(range(MOST)),
        ticktext=[names[token] for token in order],
        row=2,
        col=1,
    )
    figure.update_yaxes(
        title="nats", range=[0, max(0.5, *apart_S)], row=1, col=1
    )
    figure.update_yaxes(title="probability", range=[0, 1.04], row=2, col=1)
    figure.update_layout(
        height=520, legend={"y": 0.44, "yanchor": "top", "x": 0.7}
    )
    worst = max(range(len(text)), key=apart_S.__getitem__)
    likeliest = int(q_V.argmax())
    return View(
        figure,
        f"At place {at + 1} ({text[at]!r} was written) they are {apart_S[at]:.3f} nats "
        f"apart: the teacher's likeliest is {names[order[0]]!r} with "
        f"{p_V[order[0]].item():.0%}, the student's {names[likeliest]!r} with "
        f"{q_V[likeliest].item():.0%}. Farthest apart is place {worst + 1} with "
        f"{apart_S[worst]:.3f}.",
        {
            "place": list(range(1, len(text) + 1)),
            "written": text,
            "nats": [round(value, 4) for value in apart_S],
        },
    )
