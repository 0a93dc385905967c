"""How Sinkhorn-Knopp makes a matrix doubly stochastic, iteration by iteration.

What is normalised last sums to one exactly; the other side only comes near. The
paper ends with the rows, so forward gains are one and what is left of the error
is in the backward gains (mHC, 2512.24880, equation 9 and figure 7).

Shape suffixes: n rows and columns, M draws, S half-steps.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, VERMILION

N, DRAWS, LAST = 4, 200, 100
SPREADS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
ITERATIONS = (1, 2, 3, 5, 10, 20, 50, 100)
COLUMNS_FIRST = "columns first"
ORDERS = (COLUMNS_FIRST, "rows first")
ROUNDING = 1e-16
"""Of a sum near one in float64; smaller errors are drawn here."""


def sinkhorn_explorer() -> Explorer:
    """One matrix at the left, the errors of 200 at the right."""
    return Explorer(
        draw,
        spread=slide("logit spread", SPREADS, 2.0),
        iterations=slide("iterations", ITERATIONS, 20),
        order=choose("order", ORDERS),
    )


def iterates(logits_nnM: Tensor, last: int, order: str) -> list[Tensor]:
    """exp(logits), normalised 0 to `last` times; each is (n, n, M).

    Raises:
        LabError: an order that is not among ORDERS, or logits that are not square.
    """
    if order not in ORDERS:
        raise LabError(f"order={order!r}: choose one of {', '.join(ORDERS)}.")
    if logits_nnM.ndim != 3 or logits_nnM.shape[0] != logits_nnM.shape[1]:
        raise LabError(
            f"Logits have shape (n, n, M); got {tuple(logits_nnM.shape)}."
        )
    # A sum over axis 0 is the sum of a column.
    axes = (0, 1) if order == COLUMNS_FIRST else (1, 0)
    m_nnM = torch.exp(logits_nnM - logits_nnM.amax((0, 1), keepdim=True))
    found = [m_nnM]
    for _ in range(last):
        for axis in axes:
            m_nnM = m_nnM / m_nnM.sum(axis, keepdim=True)
        found.append(m_nnM)
    return found


@cache
def errors(spread: float, order: str) -> dict[str, list[float]]:
    """After each iteration 1 to LAST: how far the sums of a matrix are from one.

    Returns:
        "rows" and "columns": the largest |sum - 1| of a matrix, median over the
        draws; "worst": the same of the side that is not exact, worst draw.
    """
    found: dict[str, list[float]] = {"rows": [], "columns": [], "worst": []}
    for m_nnM in iterates(drawn(spread), LAST, order)[1:]:
        row_M = (m_nnM.sum(1) - 1).abs().amax(0)
        column_M = (m_nnM.sum(0) - 1).abs().amax(0)
        found["rows"].append(row_M.median().item())
        found["columns"].append(column_M.median().item())
        free_M = column_M if order == COLUMNS_FIRST else row_M
        found["worst"].append(free_M.max().item())
    return found


@cache
def drawn(spread: float) -> Tensor:
    """logits_nnM in float64: the same draws for every spread, only larger."""
    generator = torch.Generator().manual_seed(0)
    return spread * torch.randn(
        N, N, DRAWS, generator=generator, dtype=torch.double
    )


def draw(spread: float, iterations: int, order: str) -> View:
    """The first of the draws after some iterations, and all draws' errors."""
    curves = errors(spread, order)
    m_nn = iterates(drawn(spread)[..., :1], iterations, order)[-1][..., 0]
    figure = make_subplots(
        cols=2,
        column_widths=[0.41, 0.59],
        horizontal_spacing=0.16,
    )
    _add_matrix(figure, m_nn)
    exact, free = (
        ("rows", "columns") if order == COLUMNS_FIRST else ("columns", "rows")
    )
    colours = {"rows": BLUE, "columns": VERMILION}
    dashes = {"rows": "solid", "columns": "dash"}
    steps = list(range(1, LAST + 1))
    for name, values, colour, dash, width in (
        ("rows", curves["rows"], colours["rows"], dashes["rows"], 3),
        (
            "columns",
            curves["columns"],
            colours["columns"],
            dashes["columns"],
            3,
        ),
        (f"{free}, worst draw", curves["worst"], colours[free], "dot", 1.5),
    ):
        figure.add_scatter(
            x=steps,
            y=[max(value, ROUNDING) for value in values],
            name=name,
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            row=1,
            col=2,
            hovertemplate="after %{x}: %{y:.1e}<extra>" + name + "</extra>",
        )
    figure.add_vline(x=iterations, line={"color": "#6b7280"}, row=1, col=2)
    figure.update_xaxes(
        title="iterations", type="log", range=[-0.05, 2.05], dtick=1, col=2
    )
    figure.update_yaxes(
        title="largest |sum − 1|",
        type="log",
        range=[-16.6, 0.6],
        tickvals=[1, 1e-4, 1e-8, 1e-12, 1e-16],
        ticktext=["1", "10⁻⁴", "10⁻⁸", "10⁻¹²", "10⁻¹⁶"],
        col=2,
    )
    figure.update_layout(
        title=f"Logit spread {spread:g}, {iterations} iteration"
        f"{'s' * (iterations > 1)}, {order}",
        legend={"x": 1, "xanchor": "right", "y": 1.01},
        margin={"l": 16, "r": 16},
    )
    figure.add_annotation(
        x=0,
        y=1.02,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        text=f"one of {DRAWS} matrices",
        showarrow=False,
    )
    gain = {"rows": "forward", "columns": "backward"}
    median, worst = (curves[name][iterations - 1] for name in (free, "worst"))
    sentence = (
        f"Logits that spread by {spread:g}, {iterations} iteration"
        f"{'s' * (iterations > 1)}, {order}: {exact} sum to one exactly, and the "
        f"{gain[exact]} gain is one; {free} are off by {median:.2g} (median of "
        f"{DRAWS} draws; worst {worst:.2g}), and the {gain[free]} gain by at most "
        "that."
    )
    table: dict[str, list[Any]] = {"iterations": list(ITERATIONS)}
    for name in ("rows", "columns", "worst"):
        title = f"{free}, worst draw" if name == "worst" else f"{name}, median"
        table[title] = [curves[name][step - 1] for step in ITERATIONS]
    return View(figure, sentence, table)


def _add_matrix(figure: go.Figure, m_nn: Tensor) -> None:
    """A heat map with its row sums at the right and its column sums below."""
    n = len(m_nn)
    figure.add_heatmap(
        z=m_nn.tolist(),
        zmin=0,
        zmax=1,
        colorscale=[(0, "white"), (1, BLUE)],
        showscale=False,
        xgap=1,
        ygap=1,
        text=[[f"{value:.2f}" for value in row] for row in m_nn.tolist()],
        texttemplate="%{text}",
        hovertemplate="of lane %{x} to lane %{y}: %{z:.4f}<extra></extra>",
        row=1,
        col=1,
    )
    sums = [(n, row, m_nn[row].sum(), BLUE) for row in range(n)]
    sums += [
        (column, n, m_nn[:, column].sum(), VERMILION) for column in range(n)
    ]
    for x, y, value, colour in sums:
        figure.add_annotation(
            x=x - (0.05 if x == n else 0),
            y=y - (0.15 if y == n else 0),
            text=f"{value:.3f}",
            font={"color": colour, "size": 13},
            showarrow=False,
            row=1,
            col=1,
        )
    figure.add_annotation(
        x=n - 0.05,
        y=n - 0.15,
        text="<i>sums</i>",
        font={"size": 12},
        showarrow=False,
        row=1,
        col=1,
    )
    figure.update_xaxes(visible=False, range=[-0.55, n + 0.5], col=1)
    figure.update_yaxes(visible=False, range=[n + 0.5, -0.55], col=1)
