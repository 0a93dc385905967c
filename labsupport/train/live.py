"""What a reader sees while a model trains.

Three displays with the same four methods: widgets in JupyterLab, lines of text
elsewhere, nothing at all.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

from labsupport.settings import is_interactive
from labsupport.train.run import Run

if TYPE_CHECKING:
    import ipywidgets as widgets

LINES = 10
REDRAW_SECONDS = 0.4
POINTS = 400
"""Of the loss curve, while it moves. The final figure has all of them."""


class Display(Protocol):
    """What the training session tells its display."""

    def start(self) -> None:
        """Before the first step."""

    def update(self) -> None:
        """After each step; `run` holds the new metrics."""

    def say(self, sentence: str) -> None:
        """Something the reader should know now."""

    def finish(self) -> None:
        """After the last step; `run.sentence` says how it ended."""


def open_display(run: Run, stop: threading.Event, live: bool) -> Display:
    """The display that fits where this process runs."""
    if not live:
        return SilentDisplay(run)
    return WidgetDisplay(run, stop) if is_interactive() else TextDisplay(run)


class SilentDisplay:
    """Says nothing but warnings."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def start(self) -> None:
        pass

    def update(self) -> None:
        pass

    def say(self, sentence: str) -> None:
        print(sentence, flush=True)

    def finish(self) -> None:
        if self.run.stopped == "nan":
            self.say(self.run.sentence)


class Clock:
    """How long the rest will take, judged by the steps of this session."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.began, self.first_step = time.monotonic(), run.steps_done

    def words(self) -> str:
        steps = self.run.steps_done - self.first_step
        if not steps:
            return ""
        each = (time.monotonic() - self.began) / steps
        return f"{each * (self.run.steps - self.run.steps_done):.1f} s left"


def status(run: Run, clock: Clock) -> str:
    """One line: step, the latest numbers, time left."""
    width = len(str(run.steps))
    step = f"step {run.steps_done:>{width}}/{run.steps}"
    return "  ".join([step, *run.numbers(), clock.words()])


class TextDisplay:
    """About ten lines on stdout; in a notebook the figure once, at the end."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def start(self) -> None:
        self.clock = Clock(self.run)
        self.every = math.ceil(self.run.steps / LINES)
        print(f"{self.run.title}: {self.run.steps} steps", flush=True)

    def update(self) -> None:
        done = self.run.steps_done
        if done % self.every == 0 or done == self.run.steps:
            self.say(status(self.run, self.clock))

    def say(self, sentence: str) -> None:
        # Flushed, because stdout is a pipe when a lab runs without a person.
        print(sentence, flush=True)

    def finish(self) -> None:
        self.say(self.run.sentence)
        if self.run.metrics and in_notebook():
            from labsupport.explore.show import show_figure

            show_figure(self.run.figure(), f"{self.run.title}. {self.run.sentence}")


class WidgetDisplay:
    """A sentence, a progress bar, a Stop button and a curve that moves.

    JupyterLab runs the button's callback on another thread while the cell is
    busy. It only sets an event; everything else happens on the loop's thread.
    """

    def __init__(self, run: Run, stop: threading.Event) -> None:
        self.run, self.stop = run, stop
        self.notes: list[str] = []

    def start(self) -> None:
        import ipywidgets as widgets
        import plotly.graph_objects as go

        self.clock = Clock(self.run)
        self.drawn = 0.0
        self.text = widgets.HTML(f"{self.run.title}: starting")
        self.bar = widgets.IntProgress(value=self.run.steps_done, max=self.run.steps)
        self.button = widgets.Button(description="Stop", icon="stop")
        self.button.on_click(lambda _: self.stop.set())
        self.figure = go.FigureWidget(self.run.figure())
        top = widgets.HBox([self.button, self.bar, self.text])
        show_widget(widgets.VBox([top, self.figure]), f"{self.run.title}, live.")

    def update(self) -> None:
        # A few pictures a second are enough, and each one costs training time.
        if time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.draw(status(self.run, self.clock), POINTS)

    def draw(self, sentence: str, points: int) -> None:
        self.bar.value = self.run.steps_done
        self.text.value = "<br>".join([sentence, *self.notes])
        lines = self.run.curves(points)
        with self.figure.batch_update():
            for trace in self.figure.data:
                if trace.name in lines:
                    trace.x, trace.y = lines[trace.name]
        self.drawn = time.monotonic()

    def say(self, sentence: str) -> None:
        self.notes.append(sentence)
        self.text.value = "<br>".join([status(self.run, self.clock), *self.notes])

    def finish(self) -> None:
        self.draw(self.run.sentence, points=0)
        self.button.disabled = True
        if self.run.stopped != "finished":
            self.bar.bar_style = "warning"
        # Widgets are gone when the notebook is opened again; this line is not.
        print(self.run.sentence, flush=True)


def in_notebook() -> bool:
    """Whether IPython runs this code, so that a picture can be displayed."""
    from IPython.core.getipython import get_ipython

    return get_ipython() is not None


def show_widget(box: widgets.Widget, sentence: str) -> None:
    """Display a widget with a sentence for whoever cannot see it."""
    from IPython.display import display

    view: dict[str, Any] = {
        "version_major": 2,
        "version_minor": 0,
        "model_id": box.model_id,
    }
    display(
        {"application/vnd.jupyter.widget-view+json": view, "text/plain": sentence},
        raw=True,
    )
