"""Lab 01 as a newcomer meets it: guess, get a direction wrong, move every explorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

TRANSPOSED = """@lab.exercise("1.3")
def connect(x_MnC, pre_nM, post_nM, res_nnM, branch):
    made_MC = branch(torch.einsum("jm,mjc->mc", pre_nM, x_MnC))
    kept_MnC = torch.einsum("jim,mjc->mic", res_nnM, x_MnC)
    return kept_MnC + torch.einsum("im,mc->mic", post_nM, made_MC)"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("01", labs_home, {"connect": TRANSPOSED}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The record waits for a guess.
    notebook.guess("none")

    # The picture of the idea; and a transpose is called by its name.
    for cell_id in ("idea", "connect", "connect-check"):
        notebook.run(cell_id)
    check = notebook.cell("connect-check").locator(".labs-check")
    expect(check).to_contain_text("transpose")

    # Gains: by what is shown, by learning rate, by depth.
    notebook.run("gains")
    gains = notebook.cell("gains")
    state = gains.locator(".labs-state")
    expect(state).to_contain_text("branches")
    seen = {state.inner_text()}
    for name in ("backward gain", "least column sum", "lanes kept apart"):
        gains.get_by_role("button", name=name, exact=True).click()
        expect(state).not_to_have_text(list(seen)[-1])
        seen.add(state.inner_text())
    notebook.move_slider("gains", steps=-2)
    gains.get_by_role("button", name="random, N(0, 1)", exact=True).click()
    expect(gains.locator(".js-plotly-plot")).to_contain_text("random numbers")

    # Sinkhorn: spread, iterations and order.
    notebook.run("sinkhorn-explore")
    explorer = notebook.cell("sinkhorn-explore")
    state = explorer.locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("sinkhorn-explore", steps=1)
    expect(state).not_to_have_text(before)

    # Recomputation: the block size.
    notebook.run("memory")
    state = notebook.cell("memory").locator(".labs-state")
    before = state.inner_text()
    notebook.move_slider("memory", steps=1)
    expect(state).not_to_have_text(before)
    assert notebook.errors() == []
    gains.scroll_into_view_if_needed()
