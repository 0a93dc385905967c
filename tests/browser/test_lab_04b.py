"""Lab 04b as a newcomer meets it: guess, round each share, move the workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from labsupport.build.names import lab_names
from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not any(name.startswith("04b") for name in lab_names()),
        reason="the notebook of lab 04b is a draft: it is built when it is recorded",
    ),
]
expect.set_options(timeout=PATIENCE)

ROUNDED = """@lab.exercise("4.8")
def balance(a_W, c_W, B):
    both = list(zip(a_W, c_W))
    T = (B + sum(a / c for a, c in both)) / sum(1 / c for c in c_W)
    return [round((T - a) / c) for a, c in both]"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("04b", labs_home, {"balance": ROUNDED}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The closed form waits for a guess.
    reveal = notebook.guess("about a quarter")
    expect(reveal.get_by_text("about 60 %")).to_be_visible()

    # Shares rounded one by one are called by their name.
    for cell_id in ("balance", "balance-check"):
        notebook.run(cell_id)
    check = notebook.cell("balance-check").locator(".labs-check")
    expect(check).to_contain_text("each share is rounded by itself")

    # The explorer of workers: a step of the slider is another slow worker.
    notebook.run("workers")
    state = notebook.cell("workers").locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("workers", steps=1)
    expect(state).not_to_have_text(before)
    assert notebook.errors() == []
