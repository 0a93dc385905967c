"""How near a kernel comes to what its GPU can do, as it was recorded.

The bars are shares of the roofline: the time in which the GPU, measured in the
same run, could at best have moved the operation's bytes and done its
arithmetic, divided by the time that it took. At 100 % nothing is left to gain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from kernels.bench_record import stale
from labsupport.claims.provenance import caption
from labsupport.errors import LabError
from labsupport.explore.explorer import View
from labsupport.explore.show import show_figure
from labsupport.explore.style import BLUE, GREEN, ORANGE, PURPLE, VERMILION, template
from labsupport.paths import MEASUREMENTS

BARS = {
    "kernel": ("our kernel", BLUE, ""),
    "eager": ("PyTorch's operator", VERMILION, "/"),
    "reference": ("plain PyTorch operations", ORANGE, "."),
    "compile": ("torch.compile", GREEN, "x"),
}
"""Implementation -> its name, colour and hatching; any other is a peer."""
_PEER = (PURPLE, "-")

COMMAND = "python -m kernels.bench"


def load_kernel_record(folder: Path = MEASUREMENTS) -> dict[str, Any] | None:
    """The newest committed record of kernel times; None if nobody has one."""
    records = [json.loads(file.read_text()) for file in folder.glob("*/kernels.json")]
    return max(records, key=lambda each: each["origin"]["date"], default=None)


def show_roofline(
    operation: str, direction: str = "forward", dtype: str = "bfloat16"
) -> None:
    """Show the recorded figures of one operation in a notebook."""
    view = roofline_view(operation, direction, dtype)
    show_figure(view.figure, view.sentence)


def roofline_view(
    operation: str,
    direction: str = "forward",
    dtype: str = "bfloat16",
    folder: Path = MEASUREMENTS,
    changed: Iterable[str] | None = None,
) -> View:
    """Share of the roofline by shape, the kernel beside everything else.

    Args:
        operation: "softmax".
        direction: "forward" or "backward".
        dtype: "float32", "float16" or "bfloat16".
        folder: where records are.
        changed: operations whose kernels changed since; found out if None.

    Raises:
        LabError: there is no such direction.
    """
    if direction not in ("forward", "backward"):
        raise LabError(f"direction must be 'forward' or 'backward'; got {direction!r}.")
    title = f"{operation}, {direction}, {dtype}"
    record = load_kernel_record(folder)
    rows = [] if record is None else _rows_of(record, operation, direction, dtype)
    if record is None or not rows:
        return _not_measured(title)
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    figure = go.Figure()
    for name in names:
        label, colour, hatching = BARS.get(name, (name, *_PEER))
        own = [row for row in rows if row["implementation"] == name]
        figure.add_bar(
            name=label,
            x=[_shape(row) for row in own],
            y=[100 * row["share"] for row in own],
            marker={"color": colour, "pattern": {"shape": hatching}},
            customdata=[[row["ms"][p] for p in ("p50", "p20", "p80")] for row in own],
            hovertemplate="%{y:.0f} % of the roofline<br>%{customdata[0]:.4f} ms "
            "(%{customdata[1]:.4f} to %{customdata[2]:.4f})",
        )
    figure.add_hline(y=100, line={"dash": "dash", "color": "#6b7280"})
    old = operation in (stale(record) if changed is None else changed)
    below = [caption(record["origin"])]
    if old:
        below.insert(0, f"Stale: the {operation} kernel has changed since.")
        title += " (stale)"
    _finish(figure, title, below)
    figure.update_xaxes(title_text=rows[0]["axes"], type="category")
    figure.update_yaxes(title_text="share of the roofline (%)", rangemode="tozero")
    return View(figure, " ".join([_words(title, rows), *below]), _table(rows))


def _rows_of(
    record: Mapping[str, Any], operation: str, direction: str, dtype: str
) -> list[dict[str, Any]]:
    wanted = (operation, direction, dtype)
    return [
        row
        for row in record["rows"]
        if (row["operation"], row["direction"], row["dtype"]) == wanted
    ]


def _not_measured(title: str) -> View:
    """A picture that says so, rather than an empty one."""
    sentence = (
        f"Not measured: there is no recorded time of {title}. "
        f"`{COMMAND}` on a machine with a CUDA GPU records one."
    )
    figure = go.Figure()
    _finish(figure, title, [])
    figure.add_annotation(
        text=f"Not measured yet: <b>{COMMAND}</b><br>on a machine with a CUDA GPU "
        "records it, and the picture then stands here.",
        showarrow=False,
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=150)  # there is nothing to see
    return View(figure, sentence)


def _finish(figure: go.Figure, title: str, below: list[str]) -> None:
    figure.update_layout(
        title=title, template=template(), barmode="group", margin={"b": 104}
    )
    if below:
        figure.add_annotation(
            text="<br>".join(below),
            align="left",
            showarrow=False,
            x=0,
            xref="paper",
            xanchor="left",
            y=0,
            yref="paper",
            yanchor="top",
            yshift=-58,
            font={"size": 11},
        )


def _shape(row: Mapping[str, Any]) -> str:
    return " × ".join(str(side) for side in row["shape"])


def _label(name: str) -> str:
    return BARS[name][0] if name in BARS else name


def _words(title: str, rows: list[dict[str, Any]]) -> str:
    """The largest shape in one sentence."""
    largest = max(math.prod(row["shape"]) for row in rows)
    first = next(row for row in rows if math.prod(row["shape"]) == largest)
    chosen = [row for row in rows if row["shape"] == first["shape"]]
    shares = [
        f"{_label(row['implementation'])} {100 * row['share']:.0f} %" for row in chosen
    ]
    where = f"{title}, {_shape(chosen[0])}"
    return f"{where}: share of the roofline: {', '.join(shares)}."


def _table(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {
        "shape": [_shape(row) for row in rows],
        "implementation": [_label(row["implementation"]) for row in rows],
        "p20 (ms)": [row["ms"]["p20"] for row in rows],
        "p50 (ms)": [row["ms"]["p50"] for row in rows],
        "p80 (ms)": [row["ms"]["p80"] for row in rows],
        "GB/s": [row["gbytes_per_s"] for row in rows],
        "share (%)": [100 * row["share"] for row in rows],
    }
