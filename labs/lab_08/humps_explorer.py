"""One hump that has to stand for two: what forward and reverse KL make of it."""

from __future__ import annotations

from functools import lru_cache

import plotly.graph_objects as go
import torch
from torch import Tensor

from kernels.token_divergence import token_divergence
from labsupport.explore import Explorer, View, choose, slide
from labsupport.explore.style import BLUE, VERMILION

BETAS = {
    "0: forward, KL(p || q)": 0.0,
    "0.1": 0.1,
    "0.5": 0.5,
    "0.9": 0.9,
    "1: reverse, KL(q || p)": 1.0,
}
DISTANCES = tuple(float(d) for d in range(9))
SHARE = 0.65
"""Of the left hump, so that the two are not alike."""
GRID = torch.linspace(-10, 10, 401)
SPREADS = torch.linspace(0.5, 5.0, 46)
MIDDLES = torch.linspace(-6, 6, 121)


def log_hump(middle: Tensor | float, spread: Tensor | float) -> Tensor:
    """log of a normal density on the grid, normalised on it."""
    z = (GRID - torch.as_tensor(middle)[..., None]) / torch.as_tensor(spread)[
        ..., None
    ]
    return (-0.5 * z.square()).log_softmax(-1)


def teacher(distance: float) -> Tensor:
    """log p: two humps of width 1 with this distance between them."""
    left = log_hump(-distance / 2, 1.0) + torch.tensor(SHARE).log()
    right = log_hump(distance / 2, 1.0) + torch.tensor(1 - SHARE).log()
    return torch.logaddexp(left, right)


@lru_cache(maxsize=64)
def best_hump(beta: float, distance: float) -> tuple[float, float, float]:
    """Middle and spread of the best single hump, and its divergence.

    All of a grid are tried, so this is the best one and not the nearest.
    """
    log_p = teacher(distance)
    middle, spread = torch.meshgrid(MIDDLES, SPREADS, indexing="ij")
    # Log-probs are scores of themselves.
    log_q = log_hump(middle, spread)
    each = token_divergence(log_q, log_p.expand_as(log_q), beta=beta)
    at = int(each.argmin())
    return (
        middle.flatten()[at].item(),
        spread.flatten()[at].item(),
        each.flatten()[at].item(),
    )


def humps_explorer() -> Explorer:
    """Choose a divergence and move the humps apart."""
    return Explorer(
        draw,
        beta=choose("beta", list(BETAS)),
        distance=slide("distance of the humps", DISTANCES, 6.0),
    )


def draw(beta: str, distance: float) -> View:
    """The teacher's two humps and the student's one."""
    middle, spread, apart = best_hump(BETAS[beta], distance)
    p, q = teacher(distance).exp(), log_hump(middle, spread).exp()
    figure = go.Figure()
    for density, name, colour, dash in (
        (p, "teacher p", BLUE, "solid"),
        (q, "student q", VERMILION, "dash"),
    ):
        figure.add_scatter(
            x=GRID.tolist(),
            y=(density / density.sum() / 0.05).tolist(),
            mode="lines",
            name=name,
            line={"color": colour, "dash": dash, "width": 3},
        )
    figure.update_layout(
        height=390, yaxis={"title": "density", "range": [0, 0.45]}
    )
    figure.update_xaxes(title="what is said")
    between = (
        q[(p < 0.05 * p.max()) & (GRID.abs() < distance / 2)].sum().item()
    )
    table = {"x": GRID[::20].tolist()} | {
        name: [round(v, 4) for v in (density[::20] / 0.05).tolist()]
        for name, density in (("teacher", p), ("student", q))
    }
    return View(
        figure,
        f"The best single hump stands at {middle:+.1f} with spread {spread:.1f}; "
        f"{between:.0%} of what the student says lies between the humps, where the "
        f"teacher says next to nothing. The divergence is {apart:.2f}.",
        table,
    )
