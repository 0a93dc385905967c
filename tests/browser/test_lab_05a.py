"""Lab 05a as a newcomer meets it: guess, forget a sum, move the pipeline."""

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
        not any(name.startswith("05a") for name in lab_names()),
        reason="the notebook of lab 05a is a draft: it is built when it is recorded",
    ),
]
expect.set_options(timeout=PATIENCE)

ONE_WAY = """@lab.exercise("5.1")
def swiglu_on_ranks(x_ND, gate_DH, up_DH, down_HD, dist):
    y_ND = (F.silu(x_ND @ gate_DH) * (x_ND @ up_DH)) @ down_HD
    dist.all_reduce(y_ND)
    return y_ND"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("05a", labs_home, {"swiglu": ONE_WAY}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The numbers wait for a guess.
    reveal = notebook.guess("either of them")
    expect(reveal.get_by_text("only both, in two parts each").first).to_be_visible()

    # A layer that looks right and lets the layers below drift apart.
    for cell_id in ("swiglu", "swiglu-check"):
        notebook.run(cell_id)
    check = notebook.cell("swiglu-check").locator(".labs-check")
    expect(check).to_contain_text("It has to be summed on the way back")

    # The timelines: a step of the slider is another number of devices.
    notebook.run("timelines")
    state = notebook.cell("timelines").locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("timelines", steps=1)
    expect(state).not_to_have_text(before)
    assert notebook.errors() == []
