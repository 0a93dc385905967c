"""Recorded planes through the end of a training, with the way there."""

from __future__ import annotations

from functools import partial
from typing import Any

import plotly.graph_objects as go

from labs.lab_04b.exploring import NAMES
from labs.lab_04b.record_tables import caption, rows_of
from labs.lab_04b.slices import ARMS, PLANES
from labsupport.claims.rows import pick
from labsupport.explore import Explorer, View, choose, small_print

PLANE_NAMES = {
    "random": "two random directions",
    "path": "along the path",
}
WHERE = {name: plane for plane, name in PLANE_NAMES.items()}


def landscape_explorer(compare: bool = False) -> Explorer:
    """Which plane, and which of the trainings; to compare, how it was trained, too."""
    trainings = sorted({row["seed"] for row in rows_of("slices")})
    controls = {
        "plane": choose(
            "plane", [PLANE_NAMES[p] for p in PLANES], "along the path"
        ),
        "training": choose("seed", trainings),
    }
    if not compare:
        return Explorer(partial(draw, NAMES["plain"]), **controls)
    method = choose("trained", [NAMES[arm] for arm in ARMS])
    return Explorer(draw, method=method, **controls)


def draw(method: str, plane: str, training: int) -> View:
    """Loss as colour and contours, the path as a line that ends in a star."""
    arm = next(arm for arm in ARMS if NAMES[arm] == method)
    (row,) = pick(
        rows_of("slices"), arm=arm, plane=WHERE[plane], seed=training
    )
    flat = [loss for line in row["grid"] for loss in line]
    low = min(flat)
    # Far from the end losses are large and of no interest.
    high = min(max(flat), low + 3.0)
    figure = go.Figure()
    figure.add_contour(
        x=row["x"],
        y=row["y"],
        z=row["grid"],
        zmin=low,
        zmax=high,
        contours={"start": low, "end": high, "size": (high - low) / 12 or 1},
        colorscale="Blues",
        reversescale=True,
        colorbar={"title": "loss", "thickness": 14},
        hovertemplate="loss %{z}<extra></extra>",
    )
    xs, ys = zip(*row["path"], strict=True)
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines+markers",
        line={"color": "#d55e00", "width": 2},
        marker={"size": 6},
        hovertemplate="point %{pointNumber} of the path<extra></extra>",
        showlegend=False,
    )
    figure.add_scatter(
        x=[0],
        y=[0],
        mode="markers",
        marker={"symbol": "star", "size": 15, "color": "black"},
        hovertemplate="the trained weights<extra></extra>",
        showlegend=False,
    )
    units = "relative to the rows" if WHERE[plane] == "random" else "distance"
    figure.update_xaxes(title=f"first direction, {units}")
    figure.update_yaxes(title="second direction")
    figure.update_layout(title=f"{method}, {plane}", height=460)
    small_print(figure, caption("slices"))
    middle = row["grid"][len(row["grid"]) // 2]
    sentence = (
        f"{method}, {plane}: the lowest loss of the plane is {low:.2f}, at its corners "
        f"it is {_corners(row['grid'])}. The plane shows {row['share']:.0%} of the "
        f"path's squared distance from its end."
    )
    table: dict[str, list[Any]] = {
        "first direction": row["x"],
        "loss in the middle row": middle,
    }
    return View(figure, sentence, table)


def _corners(grid: list[list[float]]) -> str:
    corners = (grid[0][0], grid[0][-1], grid[-1][0], grid[-1][-1])
    return ", ".join(f"{loss:.2f}" for loss in corners)
