"""Bars of load with their biases, as training goes on: recorded, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labs.lab_02.experiments import SNAPSHOTS, SPEEDS, TUNING
from labs.lab_02.loads import DEAD
from labs.lab_02.plan import TOY
from labs.lab_02.toy import EXPERTS, TOP_K
from labsupport.claims.provenance import caption
from labsupport.claims.record import load_record
from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE, ORANGE, VERMILION

STEPS = (1, *range(25, TOY["cpu"].steps + 1, SNAPSHOTS["cpu"]))
SKEWS = {"even": 0.0, "uneven": 0.5, "very uneven": 1.0}
"""How the domains' frequencies differ: domain d has (d + 1) to the minus this."""
FULL = EXPERTS / TOP_K
"""The largest load that there can be: every token visits this expert."""


def bars_explorer(record: Mapping[str, Any] | None = None) -> Explorer:
    """Loads and biases by step, update speed and skew.

    Args:
        record: of the experiment 02/bars; None for the committed one.
    """
    if record is None:
        try:
            record = load_record("02", "bars")
        except LabError:
            record = {"rows": []}
    return Explorer(
        partial(draw, record),
        speed=slide(
            "update speed u",
            (0.0, *SPEEDS),
            0.0,
            ["0 (off)", *map(str, SPEEDS)],
        ),
        skew=choose("domains", list(SKEWS)),
        step=slide("step", STEPS, STEPS[-1]),
    )


def draw(
    record: Mapping[str, Any], speed: float, skew: str, step: int
) -> View:
    """The loads of one recorded training at one step."""
    rows = [
        row
        for row in record["rows"]
        if row["speed"] == speed
        and row["skew"] == SKEWS[skew]
        and row["seed"] == TUNING[0]
    ]
    title = f"Step {step}, update speed {speed:g}, domains {skew}"
    if not rows:
        figure = go.Figure()
        figure.update_layout(title=f"{title}: not measured yet")
        return View(figure, "Not measured yet: `labs record 02 bars`.")
    (row,) = rows
    at = STEPS.index(step)
    view = load_view(row["loads"][at], row["biases"][at], title)
    small_print(view.figure, caption(row["origin"]))
    sentence = (
        f"{view.sentence} At the end, on validation data: MaxVio {row['max_vio']:.2f}, "
        f"loss {row['validation']:.4f}."
    )
    return View(view.figure, sentence, view.table)


def load_view(
    loads: list[float], biases: list[float] | None, title: str
) -> View:
    """Loads over an even load, and the biases below them, if there are any."""
    E = len(loads)
    experts = list(range(E))
    colours = [
        VERMILION if load < DEAD else ORANGE if load > 2 else BLUE
        for load in loads
    ]
    if biases is None:
        figure = make_subplots(rows=1)
    else:
        figure = make_subplots(
            rows=2, row_heights=[0.68, 0.32], vertical_spacing=0.09
        )
    figure.add_bar(
        x=experts,
        y=loads,
        marker={"color": colours},
        showlegend=False,
        hovertemplate="expert %{x}: %{y:.2f} of an even load<extra></extra>",
    )
    figure.add_hline(y=1, line={"color": "#6b7280", "dash": "dash"}, row=1)
    figure.update_yaxes(
        title="load / even", range=[0, max(3.2, max(loads))], row=1
    )
    table: dict[str, list[Any]] = {"expert": experts, "load / even": loads}
    violation = max(loads) - 1
    dead = sum(load < DEAD for load in loads)
    sentence = (
        f"{title}: MaxVio {violation:.2f}; the busiest of {E} experts has "
        f"{max(loads):.2f} times an even load, the idlest {min(loads):.2f}; "
        f"{dead} {'is' if dead == 1 else 'are'} dead."
    )
    if biases is None:
        figure.update_xaxes(title="expert", dtick=1)
    else:
        figure.add_bar(
            x=experts,
            y=biases,
            marker={"color": "#9ca3af"},
            showlegend=False,
            row=2,
            col=1,
            hovertemplate="expert %{x}: bias %{y:+.3f}<extra></extra>",
        )
        far = max(0.05, *(abs(bias) for bias in biases))
        figure.update_yaxes(title="bias", range=[-1.1 * far, 1.1 * far], row=2)
        figure.update_xaxes(showticklabels=False, row=1)
        figure.update_xaxes(title="expert", dtick=1, row=2)
        table["bias"] = biases
        if any(biases):
            sentence += (
                f" Biases go from {min(biases):+.3f} to {max(biases):+.3f}."
            )
    figure.update_layout(title=title, height=430, margin={"t": 48})
    return View(figure, sentence, table)
