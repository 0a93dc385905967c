"""Lab 05b as a newcomer meets it: guess, forget to smooth, move the streams."""

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
        not any(name.startswith("05b") for name in lab_names()),
        reason="the notebook of lab 05b is a draft: it is built when it is recorded",
    ),
]
expect.set_options(timeout=PATIENCE)

NOT_SMOOTHED = """@lab.exercise("5.7")
def aggregate(x_PBTD, logits_BTP, eps):
    w_BTP = logits_BTP.softmax(-1)
    return torch.einsum("btp,pbtd->btd", w_BTP, x_PBTD)"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(
        working_copy("05b", labs_home, {"aggregate": NOT_SMOOTHED})
    )
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The ratio waits for a guess.
    reveal = notebook.guess("about half")
    expect(reveal.get_by_text("2.89 times as many")).to_be_visible()

    # A softmax as it is: right in most cases, and streams die of it.
    for cell_id in ("aggregate", "aggregate-check"):
        notebook.run(cell_id)
    check = notebook.cell("aggregate-check").locator(".labs-check")
    expect(check).to_contain_text("eps is left out")

    # The explorer: a step of the slider is another number of streams.
    notebook.run("explore")
    state = notebook.cell("explore").locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("explore", steps=1)
    expect(state).not_to_have_text(before)
    assert notebook.errors() == []
