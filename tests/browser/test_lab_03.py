"""Lab 03 as a newcomer meets it: move a number, guess, forget abs, move explorers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

NO_ABS = """@lab.exercise("3.2")
def quantise_tiles(x_MK, T):
    M, K = x_MK.shape
    tiles_MJT = x_MK.reshape(M, K // T, T)
    scale_MJ = (tiles_MJT.amax(dim=2) / 448).clamp(min=2.0**-126)
    q_MJT = cast(tiles_MJT / scale_MJ[:, :, None])
    return q_MJT.view(M, K), scale_MJ"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("03", labs_home, {"quantise": NO_ABS}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The number line: a step of the slider is another byte.
    notebook.run("number-line")
    state = notebook.cell("number-line").locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("number-line", steps=3)
    expect(state).not_to_have_text(before)

    # The record waits for a guess.
    notebook.guess("most of them become 0")

    # A largest number in place of a largest size is called by its name.
    for cell_id in ("idea", "quantise", "quantise-check"):
        notebook.run(cell_id)
    check = notebook.cell("quantise-check").locator(".labs-check")
    expect(check).to_contain_text("the largest number is taken, not the largest size")

    for cell_id in ("outliers", "accumulation"):
        notebook.run(cell_id)
        state = notebook.cell(cell_id).locator(".labs-state")
        before = state.inner_text()
        notebook.move_slider(cell_id, steps=1)
        expect(state).not_to_have_text(before)
    assert notebook.errors() == []
