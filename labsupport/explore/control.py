"""The controls of an explorer: a name and a list of values to choose from.

Every control is a finite list, so a test can try all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ipywidgets as widgets


@dataclass(frozen=True)
class Control:
    """One parameter of an explorer.

    Attributes:
        label: what stands beside it.
        values: everything it can be set to.
        start: what it is set to at first.
        kind: "slide" for an ordered list, "choose" for a few names.
        names: what is shown for each value; by default the value itself.
    """

    label: str
    values: tuple[Any, ...]
    start: Any
    kind: Literal["slide", "choose"]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.start not in self.values:
            raise ValueError(f"{self.label}: {self.start!r} is not among its values")

    def widget(self) -> widgets.Widget:
        """The ipywidget that sets it; its `value` trait is the parameter."""
        names = self.names or tuple(map(_name, self.values))
        options = list(zip(names, self.values, strict=True))
        common = {"options": options, "value": self.start, "description": self.label}
        style = {"description_width": "initial"}
        if self.kind == "slide":
            wide = widgets.Layout(width="95%")
            return widgets.SelectionSlider(**common, style=style, layout=wide)
        return widgets.ToggleButtons(**common, style=style)


def slide(
    label: str, values: Sequence[Any], start: Any, names: Sequence[str] = ()
) -> Control:
    """A slider over an ordered list of values, shown as `names` if given."""
    return Control(label, tuple(values), start, "slide", tuple(names))


def choose(label: str, values: Sequence[Any], start: Any | None = None) -> Control:
    """Buttons for a few values; the first is chosen unless `start` says so."""
    return Control(
        label, tuple(values), values[0] if start is None else start, "choose"
    )


def _name(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
