"""One look for every plot: colour-blind safe, readable in a small window.

Colours are Okabe and Ito's eight, told apart by every common form of colour
blindness; lines differ in dash as well, so that print in grey still works.
"""

from __future__ import annotations

import plotly.graph_objects as go
import plotly.io as pio

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)

RECORDED = "rgba(90, 90, 90, 0.18)"
"""The fill of everything that was recorded elsewhere, not measured here."""


def template() -> go.layout.Template:
    """The plot template that every figure of the course uses."""
    axis = {
        "showline": True,
        "linecolor": "#6b7280",
        "gridcolor": "#e5e7eb",
        "zeroline": False,
        "ticks": "outside",
        "title": {"standoff": 8},
    }
    return go.layout.Template(
        layout={
            "colorway": COLOURS,
            "font": {"family": "system-ui, sans-serif", "size": 14},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "margin": {"l": 64, "r": 24, "t": 64, "b": 52},
            "height": 390,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            # Above the legend, flush with the plot.
            "title": {
                "x": 0,
                "xref": "paper",
                "y": 0.97,
                "yanchor": "top",
                "font": {"size": 15},
            },
        }
    )


def use_style() -> None:
    """Make the template the default of this process."""
    pio.templates["labs"] = template()
    pio.templates.default = "labs"


use_style()
