"""Lab 02 as a newcomer meets it: guess, let the bias weigh, move every explorer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

BIAS_WEIGHS = """@lab.exercise("2.1")
def gate(logits_NE, bias_E, top_k):
    biased_NE = torch.sigmoid(logits_NE) + bias_E
    chosen_NK, index_NK = torch.topk(biased_NE, top_k)
    return index_NK, chosen_NK / chosen_NK.sum(dim=1, keepdim=True)"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("02", labs_home, {"gate": BIAS_WEIGHS}))
    for cell_id in ("parameters", "setup", "predict", "reveal"):
        notebook.run(cell_id)

    # The record waits for a guess.
    notebook.guess("higher by more than 0.05 nats a byte")

    # The picture of the idea; and a bias that weighs is called by its name.
    for cell_id in ("idea", "gate", "gate-check"):
        notebook.run(cell_id)
    check = notebook.cell("gate-check").locator(".labs-check")
    expect(check).to_contain_text("the bias takes part in the weights")

    # Bars: by speed, by skew, by step; off, then on.
    notebook.run("bars")
    bars = notebook.cell("bars")
    state = bars.locator(".labs-state")
    expect(state).to_contain_text("update speed 0, domains even")
    notebook.move_slider("bars", steps=2)
    expect(state).to_contain_text("update speed 0.001, domains even")
    bars.get_by_role("button", name="very uneven", exact=True).click()
    expect(state).to_contain_text("update speed 0.001, domains very uneven")

    # What a mixture costs.
    notebook.run("size")
    state = notebook.cell("size").locator(".labs-state")
    expect(state).to_contain_text("671 billion weights")
    notebook.move_slider("size", steps=1)
    expect(state).to_contain_text("512 experts")

    # Who takes what.
    notebook.run("heat")
    heat = notebook.cell("heat")
    state = heat.locator(".labs-state")
    expect(state).to_contain_text("toy: domains, loss-free, seed 10")
    heat.get_by_role("button", name="before training", exact=True).click()
    expect(state).to_contain_text("toy: domains, before training, seed 10")
    heat.get_by_role("button", name="GPT: kinds of bytes", exact=True).click()
    heat.get_by_role("button", name="loss-free", exact=True).click()
    expect(state).to_contain_text("GPT: kinds of bytes, loss-free, seed 10")
    assert notebook.errors() == []
    bars.scroll_into_view_if_needed()
