"""How often a vote of several answers is right; recorded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_06.experiments import TEMPERATURES, VOTES
from labs.lab_06.record_tables import rows_of
from labsupport.claims.provenance import caption
from labsupport.claims.rows import pick
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE, COLOURS

CORPORA = {
    "rarely thinks": "hasty",
    "always thinks, slips": "carried",
}


def vote_explorer(yours: Mapping[int, float] | None = None) -> Explorer:
    """Accuracy by the number of votes.

    Args:
        yours: votes -> accuracy of the reader's own run at temperature 1.
    """
    return Explorer(
        partial(draw, yours or {}),
        model=choose("model", list(CORPORA)),
        temperature=slide("temperature", TEMPERATURES, 1.0),
    )


def draw(yours: Mapping[int, float], model: str, temperature: float) -> View:
    """One temperature, three seeds."""
    rows = pick(rows_of("voting"), arm=CORPORA[model])
    figure = go.Figure()
    table: dict[str, list[Any]] = {"votes": list(VOTES)}
    for row in rows:
        shares = row[f"accuracy_{temperature:g}"]
        table[f"seed {row['seed']}"] = shares
        figure.add_scatter(
            x=list(VOTES),
            y=shares,
            mode="lines+markers",
            line={"color": BLUE},
            name=f"recorded, {len(rows)} seeds",
            legendgroup="recorded",
            showlegend=row is rows[0],
        )
        figure.add_scatter(
            x=[VOTES[0], VOTES[-1]],
            y=[row["greedy"]] * 2,
            mode="lines",
            line={"color": COLOURS[1], "dash": "dot", "width": 1},
            name="one answer of the likeliest tokens",
            legendgroup="greedy",
            showlegend=row is rows[0],
            hoverinfo="skip",
        )
    if yours and model == "rarely thinks" and temperature == 1.0:
        figure.add_scatter(
            x=list(yours),
            y=list(yours.values()),
            mode="markers",
            marker={"symbol": "star", "size": 14, "color": COLOURS[4]},
            name="yours",
        )
    figure.add_hline(y=0.2, line={"color": "#6b7280", "dash": "dash"})
    figure.update_xaxes(title="votes", type="log", tickvals=list(VOTES))
    figure.update_yaxes(title="share of games won", range=[0, 1.04])
    figure.update_layout(
        title=f"A model that {model}, temperature {temperature:g}",
        margin={"t": 96},
    )
    small_print(figure, caption(rows[0]["origin"]))
    first, last = (
        [row[f"accuracy_{temperature:g}"][at] for row in rows]
        for at in (0, -1)
    )
    greedy = [row["greedy"] for row in rows]
    sentence = (
        f"A single sampled answer is right in {span(first)} of the games, a vote of "
        f"{VOTES[-1]} in {span(last)}; the likeliest tokens in {span(greedy)}. A guess "
        "is right in 20 %."
    )
    return View(figure, sentence, table)


def span(shares: list[float]) -> str:
    """The lowest and the highest of some shares."""
    low, high = min(shares), max(shares)
    if round(100 * low) == round(100 * high):
        return f"{high:.0%}".replace("%", " %")
    return f"{100 * low:.0f} to {100 * high:.0f} %"
