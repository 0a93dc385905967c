"""Lab 08 as a newcomer meets it: a loss without T^2, a teacher, two humps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage, working_copy

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

NO_SQUARE = """@lab.exercise("8.1")
def soft_loss(student_NV, teacher_NV, T):
    p = (teacher_NV / T).softmax(-1)
    q = (student_NV / T).softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()"""


def test_the_lab(open_notebook: Callable[[Path], NotebookPage], labs_home: Path):
    notebook = open_notebook(working_copy("08", labs_home, {"soft-loss": NO_SQUARE}))
    for cell_id in ("parameters", "setup", "sizes", "predict", "labels"):
        notebook.run(cell_id)
    expect(notebook.output("setup").last).to_contain_text("The teacher is the course's")

    # Look into the teacher: at a higher temperature it leaves more to other tokens.
    notebook.run("soft")
    soft = notebook.cell("soft").locator(".labs-state")
    expect(soft).to_contain_text("at T = 1, the teacher leaves 0.")
    notebook.move_slider("soft", steps=3, number=0)
    expect(soft).to_contain_text("at T = 8, the teacher leaves 7")

    # A forgotten factor is called by its name.
    for cell_id in ("soft-loss", "soft-check"):
        notebook.run(cell_id)
    check = notebook.cell("soft-check").locator(".labs-check")
    expect(check).to_contain_text("the factor T^2 is missing")

    # Where they disagree: at the answer the student of answers guesses.
    for cell_id in ("reject", "right", "disagree"):
        notebook.run(cell_id)
    apart = notebook.cell("disagree").locator(".labs-state")
    expect(apart).to_contain_text("At place 1 (")
    notebook.move_slider("disagree", steps=1, number=1)
    expect(apart).to_contain_text("At place 2 (")

    # Sizes and traces: by slider, and by a click on a mark.
    notebook.run("kept")
    kept = notebook.cell("kept").locator(".labs-state")
    expect(kept).to_contain_text(
        "Width 32, 13,632 weights (27% of the teacher's), 2000"
    )
    notebook.move_slider("kept", steps=-2, number=0)
    expect(kept).to_contain_text("Width 8, 1,104 weights (2% of the teacher's), 2000")
    notebook.move_slider("kept", steps=-4, number=1)
    expect(kept).to_contain_text("60 traces: 0.98 (0.17 - 0.98)")
    notebook.click_mark("kept", 4, "width 4, 2000 traces", "2000 traces: 1.00")

    # One hump for two: forward KL covers both, reverse takes a side.
    notebook.run("humps")
    humps = notebook.cell("humps")
    state = humps.locator(".labs-state")
    expect(state).to_contain_text("The best single hump stands at -0.9")
    humps.get_by_role("button", name="1: reverse", exact=False).click()
    expect(state).to_contain_text("The best single hump stands at -3.0")
    assert notebook.errors() == []
    humps.scroll_into_view_if_needed()
