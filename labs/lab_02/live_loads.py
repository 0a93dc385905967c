"""Bars that move while a mixture trains."""

from __future__ import annotations

import time

import plotly.graph_objects as go
from IPython.display import display
from torch import Tensor

from labs.lab_02.bars_explorer import load_view
from labsupport.explore import show_figure
from labsupport.explore.explorer import replace_figure
from labsupport.settings import is_interactive

REDRAW_SECONDS = 0.4


class LiveLoads:
    """Draws loads and biases during a training; elsewhere once, at the end.

    Hand `watch` to the training. A single batch is lumpy, so loads are means over
    the latest steps.

    Args:
        title: stands above the bars.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.step = 0
        self.mean_E: Tensor | None = None
        self.bias_E: Tensor | None = None
        self.shown: go.FigureWidget | None = None
        self.drawn = 0.0

    def watch(self, step: int, load_E: Tensor, bias_E: Tensor) -> None:
        """Take the loads of one step."""
        even_E = (load_E / load_E.mean()).cpu()
        self.mean_E = (
            even_E if self.mean_E is None else self.mean_E.lerp(even_E, 0.1)
        )
        self.step, self.bias_E = step, bias_E.cpu()
        if is_interactive() and time.monotonic() - self.drawn > REDRAW_SECONDS:
            self._redraw()

    def finish(self) -> None:
        """The last picture."""
        if self.mean_E is None or self.bias_E is None:
            return
        if is_interactive():
            self._redraw()
            return
        view = self._view()
        show_figure(view.figure, view.sentence)

    def _view(self):  # type: ignore[no-untyped-def]
        assert self.mean_E is not None and self.bias_E is not None
        return load_view(
            [round(value, 3) for value in self.mean_E.tolist()],
            [round(value, 4) for value in self.bias_E.tolist()],
            f"{self.title}, step {self.step}",
        )

    def _redraw(self) -> None:
        self.drawn = time.monotonic()
        view = self._view()
        if self.shown is None:
            self.shown = go.FigureWidget(view.figure)
            display(self.shown)
        else:
            replace_figure(self.shown, view.figure)
