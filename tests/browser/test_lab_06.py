"""Lab 06 as a newcomer meets it: a gullible verifier, a click on a trace, votes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

GULLIBLE = """@lab.exercise("6.1")
def verify(prompt, completion):
    cup, *swaps, _ = prompt.split()
    for a, b in swaps:
        if cup in (a, b):
            cup = b if cup == a else a
    return cup in completion.split("=")[-1]"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("06", labs_home, {"verify": GULLIBLE}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The record waits for a guess.
    notebook.guess("about half")

    # A verifier that takes all five cups for an answer is called by its name.
    for cell_id in ("idea", "verify", "verify-check"):
        notebook.run(cell_id)
    check = notebook.cell("verify-check").locator(".labs-check")
    expect(check).to_contain_text("naming all five wins every game")

    # Train, then write another cup into the trace: by buttons, and by a click.
    for cell_id in ("live", "inspector"):
        notebook.run(cell_id)
    inspector = notebook.cell("inspector")
    state = inspector.locator(".labs-state")
    expect(state).to_contain_text("its answer is")
    notebook.move_slider("inspector", steps=1, number=1)
    expect(state).to_contain_text("behind swap 1")
    third_cup_of_third_swap = 12
    notebook.click_mark(
        "inspector", third_cup_of_third_swap, "write C", "With C behind swap 3"
    )

    # Votes, by temperature and model.
    notebook.run("votes")
    votes = notebook.cell("votes")
    expect(votes.locator(".labs-state")).to_contain_text("a vote of 64")
    votes.get_by_role("button", name="always thinks, slips", exact=True).click()
    expect(votes).to_contain_text("A model that always thinks, slips")
    assert notebook.errors() == []
    inspector.scroll_into_view_if_needed()
