"""An explorer: move a control, see the picture and its sentence change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.display import display

from labsupport.explore.control import Control
from labsupport.explore.show import plain_figure, show_figure
from labsupport.settings import is_interactive


@dataclass(frozen=True)
class View:
    """What an explorer shows for one setting of its controls.

    Attributes:
        figure: the picture.
        sentence: its state in one sentence, for whoever cannot see it.
        table: column name -> values, the numbers behind the picture.
    """

    figure: go.Figure
    sentence: str
    table: Mapping[str, list[Any]] = field(default_factory=dict)


class Explorer:
    """Joins a pure function `draw(**parameters) -> View` with its controls.

    In JupyterLab the figure follows the controls. Elsewhere the view at the
    starting values is shown once.

    Args:
        draw: the view for values of all controls.
        click: what a click on a mark means: (x, y) -> control -> its new value. The
            controls say the same, for whoever uses a keyboard. The picture needs the
            same kinds of traces for all values, as new ones hear no clicks.
        controls: by name.
    """

    def __init__(
        self,
        draw: Callable[..., View],
        click: Callable[[Any, Any], Mapping[str, Any]] | None = None,
        **controls: Control,
    ) -> None:
        self.draw = draw
        self.click = click
        self.controls = controls
        # Callbacks run on another thread than cells, and may overlap.
        self._lock = threading.Lock()

    def start_values(self) -> dict[str, Any]:
        return {name: control.start for name, control in self.controls.items()}

    def show(self) -> None:
        if is_interactive():
            display(self.panel())
        else:
            view = self.draw(**self.start_values())
            show_figure(view.figure, view.sentence)

    def panel(self) -> widgets.VBox:
        """The controls, the figure, the sentence and the folded table."""
        knobs = {name: control.widget() for name, control in self.controls.items()}
        first = self.draw(**self.start_values())
        picture = go.FigureWidget(first.figure)
        words = widgets.HTML(_words(first))
        words.add_class("labs-state")

        def changed(_: Any) -> None:
            with self._lock:
                values = {name: knob.value for name, knob in knobs.items()}
                try:
                    view = self.draw(**values)
                except Exception as error:  # a callback has nowhere to raise to
                    words.value = escape(f"{type(error).__name__}: {error}")
                    return
                replace_figure(picture, view.figure)
                words.value = _words(view)

        def clicked(_: Any, points: Any, __: Any) -> None:
            for x, y in zip(points.xs, points.ys, strict=True):
                for name, value in self.click(x, y).items():  # type: ignore[misc]
                    if value in self.controls[name].values:
                        knobs[name].value = value

        if self.click is not None:
            for trace in picture.data:
                trace.on_click(clicked)
        for knob in knobs.values():
            knob.observe(changed, "value")
        panel = widgets.VBox([*knobs.values(), picture, words])
        panel.add_class("labs-explorer")
        return panel


def replace_figure(shown: go.FigureWidget, fresh: go.Figure) -> None:
    """Make a live figure show another one, in one message to the browser."""
    content = plain_figure(fresh)
    with shown.batch_update():
        if [t.type for t in shown.data] == [t["type"] for t in content["data"]]:
            for trace, values in zip(shown.data, content["data"], strict=True):
                trace.update(values)
        else:
            shown.data = []
            shown.add_traces(list(fresh.data))
        content["layout"].pop("template", None)
        # An update of a list keeps what the old one had more of.
        for name in ("annotations", "shapes"):
            shown.layout[name] = content["layout"].pop(name, [])
        shown.layout.update(content["layout"])


def _words(view: View) -> str:
    """The sentence and the table as HTML."""
    html = f"<p>{escape(view.sentence)}</p>"
    if view.table:
        head = "".join(f"<th>{escape(name)}</th>" for name in view.table)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(_cell(v))}</td>" for v in row) + "</tr>"
            for row in zip(*view.table.values(), strict=True)
        )
        html += f"<details><summary>As a table</summary><table><tr>{head}</tr>{rows}"
        html += "</table></details>"
    return html


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
