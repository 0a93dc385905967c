"""A place in a cell's output whose content can be replaced."""

from __future__ import annotations

from typing import Any

from IPython.display import DisplayHandle, display


class Slot:
    """Shows one thing after another in the same place.

    A live widget cannot be stored in a notebook, so what it showed last is put
    in its place when the cell has ended.
    """

    def __init__(self) -> None:
        self.handle: DisplayHandle | None = None

    def show(self, bundle: dict[str, Any]) -> None:
        """Show a mimetype bundle, in place of the one before."""
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)

    def show_widget(self, widget: Any, sentence: str) -> None:
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        self.show(
            {"application/vnd.jupyter.widget-view+json": view, "text/plain": sentence}
        )

    def clear(self) -> None:
        if self.handle is not None:
            self.show({"text/html": "", "text/plain": ""})
