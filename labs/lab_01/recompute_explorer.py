"""How often to keep the lanes, so that the backward pass fits in memory.

Storing what every branch got would take n C numbers a token and branch. Instead
the first stream state of every block of L_r branches is kept, and the backward
pass makes the others anew, one block at a time (mHC, 2512.24880, equation 20):

    n C ceil(L / L_r)   the first states of all blocks, kept all the time
    (n + 2) C L_r       what one block holds while it is worked on

L branches, n lanes of width C. (What the branches themselves make, C a branch,
is kept either way and is not counted.)
"""

from __future__ import annotations

import math

import plotly.graph_objects as go

from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLACK, BLUE, GREEN, ORANGE, VERMILION

BRANCHES = (12, 24, 36, 48, 60, 80, 120)
LANES = (1, 2, 4, 8)


def recompute_explorer() -> Explorer:
    """Memory against the size of a block; starts at the paper's 60 and 4."""
    return Explorer(
        draw,
        L=slide("branches L", BRANCHES, 60),
        n=choose("lanes n", LANES, 4),
    )


def memory(L: int, n: int, block: int) -> tuple[int, int]:
    """Equation 20: (kept all the time, held by one block), in units of C.

    Args:
        L: branches.
        n: lanes.
        block: L_r, the branches of a block.

    Raises:
        LabError: L or n below 1, or a block that is empty or longer than L.
    """
    if L < 1 or n < 1:
        raise LabError(f"L={L} branches and n={n} lanes: use at least 1 each.")
    if not 1 <= block <= L:
        raise LabError(
            f"A block of {block} branches: use at least 1, at most L={L}."
        )
    return n * math.ceil(L / block), (n + 2) * block


def best_block(L: int, n: int) -> int:
    """The L_r that needs least memory; the smallest of equally good ones."""
    return min(range(1, L + 1), key=lambda block: sum(memory(L, n, block)))


def draw(L: int, n: int) -> View:
    """Memory against L_r: its two parts, their sum, and where it is least."""
    blocks = range(1, L + 1)
    kept, held = zip(*(memory(L, n, block) for block in blocks), strict=True)
    total = [a + b for a, b in zip(kept, held, strict=True)]
    best, rule = best_block(L, n), math.sqrt(n * L / (n + 2))
    least, everything = total[best - 1], n * L
    # To the right of the minimum nothing happens but growth.
    last = min(L, max(4 * best, 12))
    top = 1.22 * max(everything, *total[:last])
    figure = go.Figure()
    for name, values, colour, dash, width in (
        ("first states of all blocks", kept, BLUE, "dot", 2),
        ("one block at work", held, ORANGE, "dash", 2),
        ("together", total, BLACK, "solid", 3.5),
    ):
        figure.add_scatter(
            x=list(blocks),
            y=list(values),
            name=name,
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            hovertemplate="blocks of %{x}: %{y} C<extra>" + name + "</extra>",
        )
    figure.add_hline(
        y=everything,
        line={"color": VERMILION, "width": 2},
        annotation={
            "text": f"keep every state: {everything} C",
            "font": {"color": VERMILION},
        },
        annotation_position="top right",
    )
    figure.add_vline(x=rule, line={"color": GREEN, "width": 1.5})
    figure.add_annotation(
        x=rule,
        y=top,
        text=f"√(nL / (n + 2)) = {rule:.1f}",
        font={"color": GREEN},
        showarrow=False,
        xanchor="left",
        yanchor="top",
        xshift=5,
    )
    figure.add_scatter(
        x=[best],
        y=[least],
        mode="markers",
        marker={"size": 13, "color": GREEN, "symbol": "diamond"},
        showlegend=False,
        hovertemplate=f"least: {least} C at blocks of {best}<extra></extra>",
    )
    figure.add_annotation(
        x=best,
        y=least,
        ax=34,
        ay=-56,
        text=f"<b>{least} C</b> at blocks of {best}",
        xanchor="left",
        arrowhead=2,
    )
    figure.update_layout(title=f"Memory of the lanes, {L} branches, n = {n}")
    figure.update_xaxes(
        title="branches in a block, L<sub>r</sub>", range=[0.5, last + 0.5]
    )
    figure.update_yaxes(title="numbers a token, in units of C", range=[0, top])
    sentence = (
        f"{L} branches, {n} lanes: blocks of {best} need least, "
        f"{least} C numbers a token, against {everything} C for keeping every "
        f"state ({everything / least:.1f} times less); the formula "
        f"√(nL / (n + 2)) says {rule:.1f}."
    )
    table = {
        "L_r": list(blocks)[:last],
        "first states (C)": list(kept)[:last],
        "one block (C)": list(held)[:last],
        "together (C)": total[:last],
    }
    return View(figure, sentence, table)
