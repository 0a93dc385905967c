"""The other ranks' newest lines in JupyterLab, while the cell runs."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from labsupport.distributed.slot import Slot

if TYPE_CHECKING:
    import ipywidgets as widgets

AFTER_S = 1.0
EVERY_S = 0.5
LINES = 40
TITLE = 80  # characters


class Panels:
    """One panel a rank, to be opened with a click.

    Closed, its title is the rank's newest line; opened, it shows the last
    forty. Nothing is shown of a cell that takes less than a second, and nothing
    is left when the cell ends: then the fold has all of it (output.py).
    """

    def __init__(self) -> None:
        self.slot = Slot()
        self.shown: widgets.Accordion | None = None
        self.lines: dict[int, list[str]] = {}
        self.next_look = time.monotonic() + AFTER_S

    def update(self, newest: Callable[[], dict[int, list[str]]]) -> None:
        """Show the newest lines by rank, now and then."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + EVERY_S
        by_rank = newest()
        if not any(by_rank.values()):
            return
        if self.shown is None:
            self.open(len(by_rank))
        assert self.shown is not None
        for panel, (rank, lines) in enumerate(by_rank.items()):
            if lines == self.lines.get(rank):
                continue
            text = html.escape("\n".join(lines[-LINES:]))
            self.shown.children[panel].value = f"<pre>{text}</pre>"
            line = next(filter(str.strip, reversed(lines)), "nothing printed yet")
            self.shown.set_title(panel, f"rank {rank}: {line[:TITLE]}")
        self.lines = by_rank

    def open(self, ranks: int) -> None:
        import ipywidgets as widgets

        panels = [widgets.HTML() for _ in range(ranks)]
        self.shown = widgets.Accordion(children=panels)
        self.shown.add_class("labs-ranks")
        self.slot.show_widget(self.shown, "The other ranks' output, live.")

    def close(self) -> None:
        if self.shown is not None:
            self.shown.close()
            self.slot.clear()
            self.shown = None
