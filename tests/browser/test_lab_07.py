"""Lab 07 as a newcomer meets it: a reward with a hole, a playground, a rollout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

STILL_A_HOLE = """@lab.exercise("7.1")
def reward(cup, completion):
    return float(completion.split()[-3:] == ["=", cup, "EOS"])"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("07", labs_home, {"reward": STILL_A_HOLE}))
    for cell_id in ("parameters", "setup", "predict", "weak", "reveal"):
        notebook.run(cell_id)
    expect(notebook.output("weak").last).to_contain_text("of the games won")

    # The record waits for a guess.
    notebook.guess("longer")

    # What a step does with a rollout, drawn from a real one.
    for cell_id in ("start", "step"):
        notebook.run(cell_id)
    expect(notebook.cell("step").locator(".js-plotly-plot")).to_be_visible()
    expect(notebook.cell("step")).to_contain_text("R = ")

    # A reward with a smaller hole is called by its name.
    for cell_id in ("predict-lax", "reward", "reward-check"):
        notebook.run(cell_id)
    check = notebook.cell("reward-check").locator(".labs-check")
    expect(check).to_contain_text("a completion with several `=` is paid")

    # Move the ratio: where the clip holds a token, the words say so.
    notebook.run("playground")
    playground = notebook.cell("playground")
    state = playground.locator(".labs-state")
    expect(state).to_contain_text("2 of 8 right, rho = 1:")
    notebook.move_slider("playground", steps=3, number=1)
    expect(state).to_contain_text("rho = 1.3: a right one has A = +1.62 and is held")
    notebook.move_slider("playground", steps=-2)
    expect(state).to_contain_text("nothing is learned")
    assert notebook.errors() == []
    playground.scroll_into_view_if_needed()
