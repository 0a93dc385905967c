"""The map of the course: which lab needs which, and how far the reader is."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from labsupport.build.names import lab_names
from labsupport.exercise.progress import read_progress
from labsupport.explore.style import BLUE, GREEN, VERMILION
from labsupport.settings import is_interactive

PLANNED = "#9ca3af"


@dataclass(frozen=True)
class Stop:
    """One lab on the map.

    Attributes:
        name: "01".
        title: what it is about, in at most three words.
        x, y: where it is drawn.
        needs: the labs to do first.
    """

    name: str
    title: str
    x: float
    y: float
    needs: tuple[str, ...]


STOPS = (
    Stop("00", "the first hour", 0, 1.5, ()),
    Stop("01", "signal stability", 1, 3, ("00",)),
    Stop("02", "experts", 1, 2.25, ("00",)),
    Stop("03", "eight bits", 1, 1.5, ("00",)),
    Stop("04", "gradients", 2, 2.25, ("01", "02", "03")),
    Stop("05", "parallelism", 3, 2.25, ("04",)),
    Stop("06", "chain of thought", 1, 0.25, ("00",)),
    Stop("07", "reinforcement", 2, 0.25, ("06",)),
    Stop("08", "distillation", 3, 0.25, ("07",)),
    Stop("09", "the bill", 4, 1.25, ("05", "08")),
)


def passed_labs() -> set[str]:
    """Labs in which the reader has passed at least one exercise; no primers."""
    if not is_interactive():
        return set()
    tried = read_progress().get("exercises", {})
    return {
        number.split(".")[0].zfill(2)
        for number, entry in tried.items()
        if entry.get("passed") and number[0].isdigit()
    }


def built_labs() -> set[str]:
    """The labs that exist: 04 counts when 04a does."""
    return {name[:2] for name in lab_names()}


def map_figure(passed: set[str]) -> go.Figure:
    """The map as a figure: cheap training above, reasoning below.

    Labs with a passed exercise are green, labs still to be written grey.
    """
    built = built_labs()
    place = {stop.name: stop for stop in STOPS}
    figure = go.Figure()
    for stop in STOPS:
        for need in stop.needs:
            start = place[need]
            figure.add_annotation(
                x=stop.x - 0.14,
                y=stop.y,
                ax=start.x + 0.14,
                ay=start.y,
                xref="x",
                yref="y",
                axref="x",
                ayref="y",
                showarrow=True,
                arrowhead=2,
                arrowcolor="#9ca3af",
            )
    upper = {"01", "02", "03", "04", "05"}

    def colour(name: str) -> str:
        if name in passed:
            return GREEN
        if name not in built:
            return PLANNED
        return VERMILION if name in upper else BLUE

    figure.add_scatter(
        x=[stop.x for stop in STOPS],
        y=[stop.y for stop in STOPS],
        mode="markers+text",
        marker={
            "size": 40,
            "color": [colour(stop.name) for stop in STOPS],
        },
        text=[f"<b>{stop.name}</b>" for stop in STOPS],
        textfont={"color": "white", "size": 15},
        hovertext=[stop.title for stop in STOPS],
        hoverinfo="text",
    )
    for stop in STOPS:
        # White behind the words, so that no arrow runs through them.
        figure.add_annotation(
            x=stop.x,
            y=stop.y - 0.4,
            text=stop.title + ("" if stop.name in built else "<br><i>planned</i>"),
            showarrow=False,
            bgcolor="white",
            borderpad=0,
        )
    figure.update_layout(
        showlegend=False,
        xaxis={"visible": False, "range": [-0.4, 4.4]},
        yaxis={"visible": False, "range": [-0.4, 3.4]},
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
    )
    return figure


def map_sentence(passed: set[str]) -> str:
    """The same in words."""
    planned = sorted({stop.name for stop in STOPS} - built_labs())
    later = f" Still to be written: {', '.join(planned)}." if planned else ""
    done = f" You have passed exercises in {', '.join(sorted(passed))}."
    return (
        "From 00 two roads lead to 09: 01, 02, 03, then 04 and 05 (cheap training); "
        f"06, 07, 08 (reasoning).{later}{done if passed else ''}"
    )
