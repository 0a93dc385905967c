"""Lab 04a as a newcomer meets it: guess, forget the residual, move the link."""

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
        not any(name.startswith("04a") for name in lab_names()),
        reason="the notebook of lab 04a is a draft: it is built when it is recorded",
    ),
]
expect.set_options(timeout=PATIENCE)

FORGETS_SOME = """@lab.exercise("4.2")
def with_feedback(g, e, compress):
    sent = compress((g + e).clone())
    return sent, g - sent"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("04a", labs_home, {"feedback": FORGETS_SOME}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The record waits for a guess.
    notebook.guess("where everything is sent")

    # A residual that forgets what waited is called by its name.
    for cell_id in ("feedback", "feedback-check"):
        notebook.run(cell_id)
    check = notebook.cell("feedback-check").locator(".labs-check")
    expect(check).to_contain_text("the new residual is g minus what was sent")

    # The explorer of links: a step of the slider is another number of workers.
    notebook.run("speedup")
    state = notebook.cell("speedup").locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("speedup", steps=1)
    expect(state).not_to_have_text(before)
    assert notebook.errors() == []
