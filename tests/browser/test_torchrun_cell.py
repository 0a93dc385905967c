"""The torchrun cell in JupyterLab: live output, live curves, and Stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.driver import PATIENCE, NotebookPage
from tests.browser.test_jupyterlab import write_notebook
from tests.torchrun_notebook import below, is_agent, until

pytestmark = pytest.mark.browser
expect.set_options(timeout=PATIENCE)

# Both ranks go on until the test has seen what it wants to see.
LIVE = """%%torchrun --nproc 2 --name dp
import time
from pathlib import Path
import torch.distributed as dist

dist.init_process_group()
rank, step = dist.get_rank(), 0
while not Path("seen").exists():
    log(step, loss=1 / (1 + step + rank))
    print(f"step {step} on rank {rank}")
    step += 1
    time.sleep(0.05)
print(f"done on rank {rank}")
"""
HANG = """%%torchrun --nproc 2 --name broken
import torch
import torch.distributed as dist

dist.init_process_group()
print("waiting")
dist.recv(torch.ones(1), src=1 - dist.get_rank())
"""


def test_live_output_and_stop(
    open_notebook: Callable[[Path], NotebookPage], labs_home: Path
) -> None:
    path = write_notebook(
        labs_home / "torchrun.ipynb",
        setup="%load_ext labsupport.distributed",
        live=LIVE,
        hang=HANG,
        after="print('alive', len(dp), len(dp.metrics) > 20)",
    )
    notebook = open_notebook(path)
    notebook.run("setup")

    # While the cell runs: rank 0's lines, the other rank's panel, the curves.
    notebook.start("live")
    cell = notebook.cell("live")
    expect(cell.get_by_text("step 3 on rank 0", exact=False)).to_be_visible()
    notebook.wait_plot("live", "y.length > 20", trace=1)
    panel = cell.locator(".labs-ranks")
    expect(panel).to_contain_text("rank 1: step")
    first = panel.inner_text()
    expect(panel).not_to_have_text(first)
    panel.get_by_text("rank 1: step").click()
    expect(panel.locator("pre")).to_contain_text("on rank 1")
    (labs_home / "seen").touch()
    notebook.wait_idle()

    # What stays can be stored: a fold, and a picture without a widget.
    expect(panel).to_have_count(0)
    fold = cell.locator("details")
    expect(fold).to_contain_text("rank 1:")
    fold.locator("summary").click()
    expect(fold.locator("pre")).to_contain_text("done on rank 1")
    expect(cell.locator(".js-plotly-plot")).to_have_count(1)
    expect(cell.locator(".js-plotly-plot .legendtext").first).to_have_text("rank 0")

    # Stop, twice: the ranks end, the kernel stays.
    for _ in range(2):
        notebook.start("hang")
        waiting = notebook.cell("hang").get_by_text("waiting", exact=True)
        expect(waiting.first).to_be_visible()
        notebook.page.evaluate(
            "() => { window.jupyterapp.commands.execute('notebook:interrupt-kernel'); }"
        )
        notebook.wait_idle()
        stopped = notebook.output("hang").get_by_text("all 2 processes have ended")
        expect(stopped.first).to_be_visible()
        assert all(is_agent(process) for process in below(labs_home))
    notebook.run("after")
    expect(notebook.output("after")).to_have_text("alive 2 True")

    # The kernel ends: so does everything that it has started.
    notebook.page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"
    )
    until(lambda: not below(labs_home))
