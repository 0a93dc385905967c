"""JupyterLab as the course starts it: live widgets, and a Stop that stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

PLOT = """
from labsupport.jupyter.live_comms import answer_during_cells

answer_during_cells()  # as Lab() does
import ipywidgets as widgets
import plotly.graph_objects as go

figure = go.FigureWidget(data=[{"y": [1, 2, 3]}], layout={"height": 250})
slider = widgets.IntSlider(value=1, min=1, max=9, description="factor")


def follow(change):
    with figure.batch_update():
        figure.data[0].y = [change.new * n for n in (1, 2, 3)]


slider.observe(follow, "value")
widgets.VBox([slider, figure])
"""

STOP_BUTTON = """
import threading

stopped = threading.Event()
button = widgets.Button(description="Stop")
button.on_click(lambda _: stopped.set())
button
"""

# Runs until Stop is pressed. The limit ends a failing test only.
LOOP = "print('stopped' if stopped.wait(60) else 'ran to its end', flush=True)"


def write_notebook(path: Path, **cells: str) -> Path:
    """A notebook with one code cell per keyword, the keyword as its id."""
    notebook = new_notebook(
        cells=[new_markdown_cell("# Widgets", id="title")]
        + [new_code_cell(source.strip(), id=name) for name, source in cells.items()],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


Open = Callable[[Path], NotebookPage]


def test_widgets_live_and_stop_takes_effect_while_a_cell_runs(
    open_notebook: Open, labs_home: Path
):
    path = write_notebook(
        labs_home / "widgets.ipynb",
        plot=PLOT,
        button=STOP_BUTTON,
        loop=LOOP,
        session="import os; print('person', 'JPY_SESSION_NAME' in os.environ)",
    )
    notebook = open_notebook(path)

    notebook.run("plot")
    assert notebook.plot_data("plot") == [1, 2, 3]
    notebook.move_slider("plot", steps=3)
    notebook.wait_plot("plot", "y[2] === 12")
    expect(notebook.output("plot").locator(".widget-readout").first).to_have_text("4")

    notebook.run("button")
    notebook.start("loop")
    expect(notebook.cell("loop").locator(".jp-InputPrompt")).to_have_text("[*]:")
    # While that cell runs, a slider still moves its plot ...
    notebook.move_slider("plot", steps=-1)
    notebook.wait_plot("plot", "y[2] === 9")
    expect(notebook.cell("loop").locator(".jp-InputPrompt")).to_have_text("[*]:")
    # ... and Stop stops it.
    notebook.output("button").get_by_role("button", name="Stop").click()
    expect(notebook.output("loop")).to_have_text("stopped")
    notebook.wait_idle()

    notebook.run("session")
    expect(notebook.output("session")).to_have_text("person True")
    assert notebook.errors() == []

    notebook.save()
    saved = nbformat.read(path, as_version=4)
    assert "widgets" not in saved.metadata
    assert path.stat().st_size < 100_000


def test_run_all_waits_for_the_last_cell_and_scrolled_away_widgets_stay(
    open_notebook: Open, labs_home: Path
):
    many = {f"filler-{n}": f"print('\\n' * 30, {n})" for n in range(12)}
    path = write_notebook(labs_home / "long.ipynb", plot=PLOT, **many)
    notebook = open_notebook(path)
    notebook.run_all()
    expect(notebook.output("filler-11")).to_contain_text("11")
    notebook.output("filler-11").scroll_into_view_if_needed()
    expect(notebook.output("plot").locator(".js-plotly-plot")).to_be_attached()
    expect(notebook.output("plot")).not_to_be_in_viewport()
    notebook.move_slider("plot", steps=1)
    notebook.wait_plot("plot", "y[2] === 6")


def test_nothing_pops_up_and_nothing_is_asked_of_the_network(
    open_notebook: Open, labs_home: Path
):
    path = write_notebook(labs_home / "quiet.ipynb", plot=PLOT, one="print(1)")
    notebook = open_notebook(path)
    asked: list[str] = []
    notebook.page.on("request", lambda request: asked.append(request.url))
    notebook.page.reload()
    notebook.wait_ready()
    notebook.run_all()
    expect(notebook.output("one")).to_have_text("1")
    assert notebook.plot_data("plot") == [1, 2, 3]
    own = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
    assert asked and [url for url in asked if not url.startswith(own)] == []
    expect(notebook.page.locator(".jp-toastContainer .Toastify__toast")).to_have_count(
        0
    )
    expect(notebook.page.locator(".jp-Dialog")).to_have_count(0)
