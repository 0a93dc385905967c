"""Lab 00 as a newcomer meets it: guess, look, play, train, stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from labsupport.exercise.progress import progress_file
from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

WRONG = """@lab.exercise("0.1")
def rms_norm(x_BTD, weight_D, eps=1e-6):
    return x_BTD * torch.rsqrt(x_BTD.pow(2).mean(1, True) + eps) * weight_D"""


def test_the_first_hour(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(
        working_copy("00", labs_home, {"exercise-0-1": WRONG}, scale="cpu")
    )
    page = notebook.page
    for cell_id in ("parameters", "setup", "beliefs", "sum-predict", "sum-run"):
        notebook.run(cell_id)

    # The answer waits for a guess.
    reveal = notebook.cell("sum-run")
    expect(reveal.get_by_text("Make your guess above first")).to_be_visible()
    expect(reveal.locator(".js-plotly-plot")).to_have_count(0)
    notebook.cell("sum-predict").get_by_role("button", name="1000").click()
    expect(reveal.get_by_text("You said 1000.")).to_be_visible()
    notebook.wait_plot("sum-run", "y[999] === 256", trace=1)

    # The explorer follows its slider: large updates are kept, small ones lost.
    for cell_id in ("explorer", "explorer-view", "explorer-show"):
        notebook.run(cell_id)
    notebook.wait_plot("explorer-show", "y[1999] === 1", trace=1)
    state = notebook.cell("explorer-show").locator(".labs-state")
    expect(state).to_contain_text("ends at 1 instead of 4.906")
    notebook.move_slider("explorer-show", steps=3)
    notebook.wait_plot("explorer-show", "y[1999] > 1.1", trace=1)
    expect(state).not_to_contain_text("ends at 1 instead")

    # Stop ends the training, and the next cell goes on from there.
    for cell_id in ("corpus", "plan", "batches"):
        notebook.run(cell_id)
    notebook.start("train")
    training = notebook.cell("train")
    notebook.wait_plot(
        "train", "y.length > 2", trace=plot_of("training loss", notebook)
    )
    training.get_by_role("button", name="Stop").click()
    notebook.wait_idle()
    expect(training.locator(".jp-OutputArea")).to_contain_text("Stopped")

    # A wrong answer is explained, and ours is used.
    for cell_id in ("exercise-0-1", "exercise-0-1-check", "mine"):
        notebook.run(cell_id)
    badge = notebook.cell("exercise-0-1")
    expect(badge.locator(".labs-badge")).to_contain_text("failed its check, using ours")
    check = notebook.cell("exercise-0-1-check")
    expect(check.locator(".labs-check")).to_contain_text("the mean runs over time")
    expect(notebook.output("mine")).to_contain_text("equal to 1e-4: True")

    assert not notebook.errors()
    saved = json.loads(progress_file().read_text())
    assert saved["predictions"]["00.sum"] == {"guess": "1000"}
    assert saved["exercises"]["0.1"]["passed"] is False
    training.scroll_into_view_if_needed()
    assert page.screenshot()


def plot_of(name: str, notebook: NotebookPage) -> int:
    """The number of the trace called `name` in the training figure."""
    figure = notebook.output("train").locator(".js-plotly-plot").first
    figure.wait_for(timeout=PATIENCE)
    names = figure.evaluate("plot => plot.data.map(trace => trace.name)")
    return names.index(name)
