"""What the ranks log, as rows and as a picture that grows while the cell runs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labsupport.distributed.folders import RunFolder, place
from labsupport.distributed.slot import Slot

if TYPE_CHECKING:
    import plotly.graph_objects as go

REDRAW_S = 0.5
POINTS = 400
"""Of each line, while it moves. The final figure has up to MOST_POINTS."""
MOST_POINTS = 4000
COLUMNS = 3
DASHES = ("solid", "dash", "dot", "dashdot")

Row = dict[str, float]


class MetricsChannel:
    """Reads the ranks' metrics while they are written, and draws them.

    Attributes:
        rows: one for each call of `log`: "rank", "step" and what was logged.
    """

    def __init__(self, folder: RunFolder, nproc: int, interactive: bool) -> None:
        self.folder = folder
        self.interactive = interactive
        self.rows: list[Row] = []
        self.read_to = [0] * nproc
        self.slot = Slot()
        self.widget: go.FigureWidget | None = None
        self.drawn, self.rows_drawn = time.monotonic(), 0

    def update(self) -> None:
        """Take what is new, and draw it now and then."""
        self.take()
        late = time.monotonic() - self.drawn >= REDRAW_S
        if self.interactive and late and len(self.rows) > self.rows_drawn:
            self.draw()

    def take(self) -> None:
        first = place(self.folder, len(self.read_to))[0]
        for local, start in enumerate(self.read_to):
            try:
                with self.folder.metrics(local).open("rb") as file:
                    file.seek(start)
                    new = file.read()
            except FileNotFoundError:
                continue
            whole = new[: new.rfind(b"\n") + 1]
            self.read_to[local] += len(whole)
            rank = first + local
            self.rows += [
                {"rank": rank} | json.loads(line) for line in whole.splitlines()
            ]

    def draw(self) -> None:
        """Show the curves as they are now."""
        import ipywidgets as widgets
        import plotly.graph_objects as go

        from labsupport.explore.explorer import replace_figure

        figure = metrics_figure(self.rows, POINTS)
        if self.widget is None:
            self.widget = go.FigureWidget(figure)
            # In a box of its own it takes the cell's width, not a fixed one.
            box = widgets.VBox([self.widget])
            self.slot.show_widget(box, "Curves that the ranks log, live.")
        else:
            replace_figure(self.widget, figure)
        self.drawn, self.rows_drawn = time.monotonic(), len(self.rows)

    def finish(self) -> None:
        """Leave a plain figure, which the notebook can store."""
        self.take()
        if not self.rows:
            return
        from labsupport.explore.show import figure_bundle

        figure = metrics_figure(self.rows, MOST_POINTS)
        self.slot.show(figure_bundle(figure, metrics_sentence(self.rows)))
        if self.widget is not None:
            self.widget.close()


def logged_names(rows: Sequence[Row]) -> list[str]:
    """What was logged, in order of appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name not in ("rank", "step")]


def metrics_figure(rows: Sequence[Row], most: int) -> go.Figure:
    """One small plot for each name that was logged, one line for each rank.

    Args:
        most: about how many points of a line are drawn; the last one always is.
    """
    from plotly.subplots import make_subplots

    from labsupport.explore.style import COLOURS, template

    names = logged_names(rows)
    columns = min(COLUMNS, len(names))
    height = -(-len(names) // columns)
    figure = make_subplots(height, columns)
    for rank in sorted({int(row["rank"]) for row in rows}):
        for place_of, name in enumerate(names):
            points = [row for row in rows if row["rank"] == rank and name in row]
            stride = 1 + len(points) // most
            points = points[::-1][::stride][::-1]
            figure.add_scatter(
                x=[row["step"] for row in points],
                y=[row[name] for row in points],
                name=f"rank {rank}",
                legendgroup=str(rank),
                showlegend=place_of == 0,
                mode="lines+markers" if len(points) < 20 else "lines",
                line={
                    "color": COLOURS[rank % len(COLOURS)],
                    "dash": DASHES[rank % len(DASHES)],
                },
                row=1 + place_of // columns,
                col=1 + place_of % columns,
            )
    figure.update_layout(template=template(), height=280 * height + 60)
    figure.update_xaxes(title_text="step")
    for place_of, name in enumerate(names):
        at = {"row": 1 + place_of // columns, "col": 1 + place_of % columns}
        figure.update_yaxes(title_text=name, **at)
    return figure


def metrics_sentence(rows: Sequence[Row]) -> str:
    """The curves in words: where each began and where it ended."""
    words = []
    for name in logged_names(rows):
        ends = []
        for rank in sorted({int(row["rank"]) for row in rows}):
            values = [row[name] for row in rows if row["rank"] == rank and name in row]
            if values:
                ends.append(f"{values[0]:.4g} to {values[-1]:.4g} on rank {rank}")
        words.append(f"{name} went from {', from '.join(ends)}")
    return "; ".join(words) + "."
