"""Explorers: a pure function from parameters to a picture, plus its controls."""

from labsupport.explore.control import Control, choose, slide
from labsupport.explore.explorer import Explorer, View
from labsupport.explore.show import show_figure
from labsupport.explore.small_print import small_print

__all__ = [
    "Control",
    "Explorer",
    "View",
    "choose",
    "show_figure",
    "slide",
    "small_print",
]
