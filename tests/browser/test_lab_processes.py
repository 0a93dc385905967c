"""The processes primer as a newcomer meets it: guess, get stuck, play, be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = [pytest.mark.browser, pytest.mark.distributed]
expect.set_options(timeout=PATIENCE)

POLITE = """@lab.exercise("P.2")
def swap(x_N, dist):
    other, y_N = 1 - dist.get_rank(), torch.empty_like(x_N)
    dist.recv(y_N, other)
    dist.send(x_N, other)
    return y_N"""


@pytest.mark.slow  # like a lab's browser test; those run in CI
def test_the_primer(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("processes", labs_home, {"swap": POLITE}))
    for cell_id in ("parameters", "setup", "stuck-predict"):
        notebook.run(cell_id)
    choice = "no letter arrives, and nobody ever goes on"
    notebook.cell("stuck-predict").get_by_role("button", name=choice).click()

    # The deadlock ends at its timeout, and the guess is answered.
    for cell_id in ("stuck", "stuck-check", "stuck-reveal"):
        notebook.run(cell_id)
    expect(notebook.cell("stuck")).to_contain_text("not finished after 8 s")
    expect(notebook.output("stuck-check")).to_contain_text("letters that arrived: 0")
    expect(notebook.cell("stuck-reveal")).to_contain_text(f"You said {choice}.")

    # The same mistake in the exercise is explained without any waiting.
    for cell_id in ("swap", "swap-check"):
        notebook.run(cell_id)
    check = notebook.cell("swap-check").locator(".labs-check")
    expect(check).to_contain_text("rank 0 waits to receive from rank 1, rank 1 waits")
    expect(check).to_contain_text("both ranks receive first, so nobody ever sends")

    # Messages move round the ring as the slider moves, and with another world.
    for cell_id in ("shift", "ring-picture"):
        notebook.run(cell_id)
    picture = notebook.cell("ring-picture")
    state = picture.locator(".labs-state")
    expect(state).to_contain_text("Step 1 of 6: rank 0 sends chunk 0 (0) to rank 1")
    notebook.move_slider("ring-picture", steps=2)
    expect(state).to_contain_text("rank 0 sends chunk 2 (0+2+3) to rank 1")
    picture.get_by_role("button", name="8", exact=True).click()
    expect(state).to_contain_text("Step 3 of 14")
    picture.get_by_role("button", name="2", exact=True).click()
    expect(state).to_contain_text("Done after 2 steps")
    expect(picture.locator(".annotation-text")).to_have_count(2)
    picture.get_by_role("button", name="through rank 0").click()
    expect(state).to_contain_text("rank 0, sent 1 times its vector")
    assert notebook.errors() == []
    picture.scroll_into_view_if_needed()
