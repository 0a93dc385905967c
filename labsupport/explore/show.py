"""Show a figure with one sentence that says what it shows."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
from IPython.core.getipython import get_ipython
from IPython.display import display

import labsupport.explore.style  # noqa: F401  (sets the template)

FIGURE_MIME = "application/vnd.labs.figure+json"
"""Carries the figure to the build, which draws a PNG from it."""
PLOTLY_MIME = "application/vnd.plotly.v1+json"


def plain_figure(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain JSON, without plotly's base64 arrays."""
    content: dict[str, Any] = json.loads(figure.to_json())
    return {"data": _lists(content["data"]), "layout": content["layout"]}


def show_figure(figure: go.Figure, sentence: str) -> None:
    """Display a figure in a notebook; in a terminal print the sentence.

    Args:
        figure: any plotly figure.
        sentence: what it shows, for whoever cannot see it.
    """
    if get_ipython() is None:
        print(sentence)
        return
    display(figure_bundle(figure, sentence), raw=True)


def figure_bundle(figure: go.Figure, sentence: str) -> dict[str, Any]:
    """What a notebook stores of a figure, by mimetype."""
    content = plain_figure(figure)
    return {PLOTLY_MIME: content, FIGURE_MIME: content, "text/plain": sentence}


def _lists(value: Any) -> Any:
    """Undo plotly's {"dtype", "bdata"} encoding wherever it occurs."""
    if isinstance(value, dict):
        if set(value) >= {"dtype", "bdata"}:
            return _decode(value)
        return {key: _lists(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_lists(entry) for entry in value]
    return value


def _decode(packed: dict[str, Any]) -> Any:
    import base64

    import numpy as np

    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    shape = packed.get("shape")
    if shape:
        flat = flat.reshape([int(side) for side in str(shape).split(",")])
    return flat.tolist()
