"""Drive a notebook in JupyterLab as a person does, waiting on conditions only.

Cells are named by their id. JupyterLab hands out its application object
(`--expose-app-in-browser`), which tells where a cell is and whether it runs;
clicks, keys and what is seen go through the page itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page, TimeoutError, expect

from labsupport.workcopy import open_copy

PATIENCE = 60_000  # milliseconds that any one condition may take

# Other notebooks stay on the page, hidden behind the current tab.
CELLS = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell"
PANEL = "window.jupyterapp.shell.currentWidget"
READY = f"""() => {{
  const panel = window.jupyterapp && {PANEL};
  return !!(panel && panel.sessionContext && panel.content.widgets.length
    && panel.sessionContext.isReady
    && panel.sessionContext.session?.kernel?.status === 'idle');
}}"""
# A cell that runs or waits for its turn shows [*]. The kernel's status is not
# enough: it says "idle" whenever a widget's message was answered meanwhile.
IDLE = f"""() => {{
  const panel = {PANEL};
  const busy = panel.content.widgets.some(
    cell => cell.model.type === 'code' && cell.promptNode?.textContent === '[*]:');
  return !busy && panel.sessionContext.session?.kernel?.status === 'idle';
}}"""
PLACE = f"id => {PANEL}.content.widgets.findIndex(cell => cell.model.id === id)"
SELECT = f"place => {{ {PANEL}.content.activeCellIndex = place; }}"
# No `return`: the promise would make the page wait for the cell's end.
COMMAND = "name => { window.jupyterapp.commands.execute(name); }"
COUNT = f"""id => {PANEL}.content.widgets
  .find(cell => cell.model.id === id).model.executionCount"""
PROMPT = f"""id => {PANEL}.content.widgets
  .find(cell => cell.model.id === id).promptNode.textContent"""


def working_copy(
    lab: str, labs_home: Path, attempts: Mapping[str, str], scale: str | None = None
) -> Path:
    """The copy that `labs open` opens, with a reader's attempts in it.

    Args:
        lab: "01".
        labs_home: where the copy has to lie.
        attempts: cell id -> what the reader has written there.
        scale: set in the parameters cell; None leaves it to the environment.
    """
    path = open_copy(lab)
    assert path.is_relative_to(labs_home)
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "spoiled"
    missing = set(attempts) - {cell.id for cell in notebook.cells}
    assert not missing, f"no such cells: {missing}"
    for cell in notebook.cells:
        cell.source = attempts.get(cell.id, cell.source)
        if cell.id == "parameters" and scale is not None:
            cell.source = cell.source.replace("scale = None", f'scale = "{scale}"')
    nbformat.write(notebook, path)
    return path


@dataclass
class NotebookPage:
    """One notebook, open in JupyterLab.

    Attributes:
        page: playwright's page.
        path: the notebook on disk.
    """

    page: Page
    path: Path

    def wait(self, script: str, argument: Any = None) -> None:
        """Wait until a JavaScript function returns something true."""
        self.page.wait_for_function(script, arg=argument, timeout=PATIENCE)

    def wait_ready(self) -> None:
        """Wait until the notebook is shown and its kernel answers."""
        self.wait(READY)

    def wait_idle(self) -> None:
        """Wait until no cell runs or waits for its turn."""
        self.wait(IDLE)

    def cell(self, cell_id: str) -> Locator:
        """The cell on the page."""
        place = self.page.evaluate(PLACE, cell_id)
        assert place >= 0, f"no cell {cell_id} in {self.path.name}"
        return self.page.locator(CELLS).nth(place)

    def output(self, cell_id: str) -> Locator:
        """What a cell shows below its code; empty before it has run."""
        return self.cell(cell_id).locator(".jp-OutputArea-output")

    def start(self, cell_id: str) -> None:
        """Run a cell and wait only until it is running or done."""
        before = self.page.evaluate(COUNT, cell_id)
        self.page.evaluate(SELECT, self.page.evaluate(PLACE, cell_id))
        self.page.evaluate(COMMAND, "notebook:run-cell")
        changed = f"""([id, before]) => ({PROMPT})(id) === '[*]:'
          || ({COUNT})(id) !== before"""
        self.wait(changed, [cell_id, before])

    def run(self, cell_id: str) -> None:
        """Run a cell to its end."""
        self.start(cell_id)
        self.wait_idle()

    def run_all(self) -> None:
        """Run > Run All Cells, to the end of the last one."""
        self.page.evaluate(COMMAND, "notebook:run-all-cells")
        # The last cell gets its [*] at once, in the same turn as the first.
        self.wait(f"() => !({IDLE})()")
        self.wait_idle()

    def guess(
        self, choice: str, asked: str = "predict", shown: str = "reveal"
    ) -> Locator:
        """Make a guess; what `shown` holds back until then has to come.

        Returns:
            The cell with the answer.
        """
        reveal = self.cell("reveal")
        expect(reveal.get_by_text("Make your guess above first")).to_be_visible()
        button = self.cell("predict").get_by_role("button", name=choice, exact=True)
        button.click()
        expect(reveal.get_by_text(f"You said {choice}.")).to_be_visible()
        expect(reveal.locator(".js-plotly-plot")).to_be_visible()
        return reveal

    def errors(self) -> list[str]:
        """Every error output on the page."""
        red = self.page.locator(
            "[data-mime-type='application/vnd.jupyter.stderr'], "
            "[data-mime-type='application/vnd.jupyter.error']"
        )
        return red.all_inner_texts()

    def move_slider(self, cell_id: str, steps: int, number: int = 0) -> None:
        """Move a cell's slider with the arrow keys, to the left if negative."""
        handle = self.output(cell_id).locator(".noUi-handle").nth(number)
        handle.focus()
        for _ in range(abs(steps)):
            handle.press("ArrowRight" if steps > 0 else "ArrowLeft")

    def click_mark(self, cell_id: str, mark: int, hint: str, shown: str) -> None:
        """Click a mark of the first trace until the state beside it says so.

        A click is lost when the picture is redrawn or moves between the mouse's
        arrival and its click, which a busy machine makes likely. A person clicks
        again then, and so does this, three times.

        Args:
            cell_id: the cell with the picture.
            mark: which one, counted in the order of the trace.
            hint: a part of what plotly shows when the mouse is over the mark.
            shown: a part of the explorer's sentence after the click.
        """
        output, mouse = self.output(cell_id), self.page.mouse
        state = output.locator(".labs-state").filter(has_text=shown)
        place = output.locator(".scatterlayer .trace").first.locator(".point").nth(mark)
        for _ in range(3):
            place.scroll_into_view_if_needed()
            box = place.bounding_box()
            assert box is not None
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            # Plotly says what is clicked once it has found what the mouse is over.
            mouse.move(x - 30, y - 10)
            mouse.move(x, y, steps=5)
            over = output.locator(".hovertext").filter(has_text=hint)
            try:
                over.wait_for(timeout=PATIENCE / 6)
                self.page.wait_for_timeout(300)  # who sees it first clicks too early
                mouse.click(x, y, delay=60)
                state.wait_for(timeout=PATIENCE / 6)
                return
            except TimeoutError:
                continue
        expect(output.locator(".labs-state")).to_contain_text(shown)

    def plot_data(self, cell_id: str, trace: int = 0) -> list[float]:
        """The y values that a cell's plotly figure shows now."""
        figure = self.output(cell_id).locator(".js-plotly-plot").first
        figure.wait_for(timeout=PATIENCE)
        return figure.evaluate("(plot, trace) => Array.from(plot.data[trace].y)", trace)

    def wait_plot(self, cell_id: str, condition: str, trace: int = 0) -> None:
        """Wait until `condition`, JavaScript over the array y, holds."""
        self.output(cell_id).locator(".js-plotly-plot").first.wait_for(timeout=PATIENCE)
        self.wait(
            f"""([place, trace]) => {{
              const cell = document.querySelectorAll('{CELLS}')[place];
              const plot = cell.querySelector('.js-plotly-plot');
              const y = plot && plot.data && Array.from(plot.data[trace].y);
              return !!y && ({condition});
            }}""",
            [self.page.evaluate(PLACE, cell_id), trace],
        )

    def save(self) -> None:
        """File > Save, waited for."""
        self.page.evaluate(
            "() => window.jupyterapp.commands.execute('docmanager:save')"
        )
        self.wait(f"() => !{PANEL}.context.model.dirty")
