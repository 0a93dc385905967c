"""Every setting of an explorer, each looked at once."""

from __future__ import annotations

import itertools
from typing import Any

from labsupport.explore import Explorer, View


def every_view(explorer: Explorer, **only: Any) -> list[tuple[dict[str, Any], View]]:
    """All settings of an explorer, or those with the values in `only`.

    Each must have something to see, a sentence, and a table of equal columns.
    """
    values = {
        name: only.get(name, control.values)
        for name, control in explorer.controls.items()
    }
    settings = [
        dict(zip(values, each, strict=True))
        for each in itertools.product(*values.values())
    ]
    views = [(setting, explorer.draw(**setting)) for setting in settings]
    for setting, view in views:
        layout = view.figure.layout
        assert view.figure.data or layout.annotations or layout.title.text, setting
        assert view.sentence.endswith("."), setting
        assert len({len(column) for column in view.table.values()}) <= 1, setting
    return views
