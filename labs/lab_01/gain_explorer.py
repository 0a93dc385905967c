"""How a signal grows over many branches: trained maps as recorded, and random ones.

Only the lanes' own path is shown, the product of all H_res: what branches add to
it is left out. Names of the four quantities: see gains.py.

Shape suffixes as there: L maps, n lanes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from statistics import median
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from labs.lab_01.arms import ARMS, NAMES
from labs.lab_01.experiments import RATES
from labs.lab_01.gains import composite_gains
from labs.lab_01.plan import LANES
from labsupport.claims.provenance import caption
from labsupport.claims.record import load_record
from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE, GREEN, PURPLE, VERMILION
from labsupport.nn.hyper_connections import (
    OFF_DIAGONAL,
    row_softmax,
    sinkhorn,
)

SHOWN = {
    "forward gain": ("forward", "largest row sum of |H|"),
    "backward gain": ("backward", "largest column sum of |H|"),
    "least column sum": ("least", "smallest column sum of |H|"),
    "lanes kept apart": ("mixed", "second / first singular value of H"),
}
"""What is drawn -> its name in the record, and what it is of H, the product of
all H_res so far."""
TRAINED = {f"trained, lr {rate:g}": rate for rate in (1e-3, *RATES)}
SMALL, LARGE = "random, I + 0.1 N", "random, N(0, 1)"
DEPTHS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
DRAWS = 5
ITERATIONS = 20
"""Of Sinkhorn-Knopp, as in the paper."""

# Lines lie on one another where gains are one: wide ones first, thin ones last.
LOOK = {
    "residual": ("#c4c9d1", "solid", 11),
    "identity": (PURPLE, "solid", 6.5),
    "row_softmax": (GREEN, "solid", 3.5),
    "mhc": (BLUE, "dash", 2.5),
    "hc": (VERMILION, "solid", 3),
}
GREY = "#6b7280"  # for letters; the line is lighter
HEIGHT, TOP, BOTTOM = 420, 52, 84  # pixels: all, above and below the plot
LINE = 17  # pixels between two labels

Curves = dict[str, list[list[float]]]
"""Arm -> one curve over the branches for every seed or draw."""


def gain_explorer(record: Mapping[str, Any] | None = None) -> Explorer:
    """Gains against depth.

    Args:
        record: of the experiment 01/gain; None for the committed one. Without
            one the trained choices say that nothing has been measured.
    """
    if record is None:
        try:
            record = load_record("01", "gain")
        except LabError:
            record = {"rows": []}
    return Explorer(
        partial(draw, record),
        shown=choose("show", list(SHOWN)),
        maps=choose("maps", [*TRAINED, SMALL, LARGE], "trained, lr 0.01"),
        depth=slide("branches", DEPTHS, 24),
    )


def draw(record: Mapping[str, Any], shown: str, maps: str, depth: int) -> View:
    """One quantity against depth for every arm: median, lowest and highest."""
    if maps in TRAINED:
        curves = trained_curves(record, shown, TRAINED[maps])
        if not curves:
            return _not_measured(f"{shown}, {maps}")
    else:
        curves = random_curves(maps, shown)
    most = max(len(curve) for each in curves.values() for curve in each)
    depth = min(depth, most)
    cut = {
        arm: [curve[:depth] for curve in each] for arm, each in curves.items()
    }
    figure = _figure(cut, shown, maps, depth)
    below = (
        caption(record["rows"][-1]["origin"])
        if maps in TRAINED
        else f"Computed here from {DRAWS} draws of random numbers, seeds 0 to "
        f"{DRAWS - 1}."
    )
    small_print(figure, below)
    return View(figure, _sentence(cut, shown, maps, depth), _table(cut))


def trained_curves(
    record: Mapping[str, Any], shown: str, rate: float
) -> Curves:
    """The recorded curves at one learning rate; {} if there are none."""
    name, _ = SHOWN[shown]
    curves: Curves = {}
    for row in record["rows"]:
        if row["lr"] == rate and not row["failed"]:
            curves.setdefault(row["arm"], []).append(row[name])
    return curves


@cache
def random_curves(maps: str, shown: str) -> Curves:
    """Curves of random maps, up to the greatest depth."""
    name, _ = SHOWN[shown]
    return {
        arm: [gains[name] for gains in _random_gains(maps, arm)]
        for arm in ARMS
    }


@cache
def _random_gains(maps: str, arm: str) -> list[dict[str, list[float]]]:
    return [
        composite_gains(random_maps(maps, arm, seed)).as_dict()
        for seed in range(DRAWS)
    ]


def random_maps(maps: str, arm: str, seed: int) -> Tensor:
    """res_Lnn in float64: what an arm makes of the same random numbers N.

    N is added to what the arm learns: to HC's matrix, to the logits of mHC and
    row softmax. SMALL adds a tenth of N to what training starts from, LARGE takes
    N alone. Residual and identity-mHC learn no H_res.
    """
    n, L = LANES, max(DEPTHS)
    if arm == "residual":
        return torch.ones(L, 1, 1, dtype=torch.double)
    eye_nn = torch.eye(n, dtype=torch.double)
    if arm == "identity":
        return eye_nn.expand(L, n, n)
    generator = torch.Generator().manual_seed(seed)
    noise_Lnn = torch.randn(L, n, n, generator=generator, dtype=torch.double)
    start_nn = eye_nn if arm == "hc" else OFF_DIAGONAL * (1 - eye_nn)
    learned_Lnn = start_nn + 0.1 * noise_Lnn if maps == SMALL else noise_Lnn
    if arm == "hc":
        return learned_Lnn
    logits_nnL = learned_Lnn.permute(1, 2, 0)
    res_nnL = (
        sinkhorn(logits_nnL, ITERATIONS)
        if arm == "mhc"
        else row_softmax(logits_nnL)
    )
    return res_nnL.permute(2, 0, 1)


def spread(curves: Sequence[Sequence[float]]) -> tuple[list[float], ...]:
    """Lowest, median and highest of some curves, branch by branch."""
    columns = list(zip(*curves, strict=True))
    return (
        [min(column) for column in columns],
        [median(column) for column in columns],
        [max(column) for column in columns],
    )


def number(value: float) -> str:
    """ "1.007", "153", "28,895", "2.9 × 10²⁹"."""
    if 1e-2 <= value < 1e5:
        if value >= 1000:
            return f"{value:,.0f}"
        return f"{value:.4g}" if 1 <= value < 10 else f"{value:.3g}"
    digits, power = f"{value:.1e}".split("e")
    raised = str(int(power)).translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )
    return f"{digits} × 10{raised}"


def _figure(cut: Curves, shown: str, maps: str, depth: int) -> go.Figure:
    name, what = SHOWN[shown]
    logarithmic = name != "mixed"
    branches = list(range(1, depth + 1))
    figure = go.Figure()
    ends: dict[str, float] = {}
    seen: list[float] = []
    for arm, (colour, dash, width) in LOOK.items():
        if arm not in cut:
            continue
        low, middle, high = spread(cut[arm])
        seen += [*low, *high]
        ends[arm] = middle[-1]
        figure.add_scatter(
            x=[*branches, *branches[::-1]],
            y=[*high, *low[::-1]],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=branches,
            y=middle,
            name=NAMES[arm],
            mode="lines",
            line={"color": colour, "dash": dash, "width": width},
            hovertemplate="%{x} branches: %{y:.3g}<extra>"
            + NAMES[arm]
            + "</extra>",
            showlegend=False,
        )
    bottom, top = _range(seen, logarithmic)
    _label_ends(figure, ends, bottom, top, logarithmic)
    figure.update_xaxes(
        title="branches passed", range=[1, depth], visible=True
    )
    # Whatever another view has set must be set here, or it stays in a live figure.
    figure.update_yaxes(
        title=what,
        range=[bottom, top],
        visible=True,
        **_ticks(top - bottom, logarithmic),
    )
    note = {LARGE: ": not trained", SMALL: ": near the start"}.get(maps, "")
    figure.update_layout(
        title=f"{shown.capitalize()} after {depth} branches, {maps}{note}",
        height=HEIGHT,
        margin={"l": 76, "r": 176, "t": TOP, "b": BOTTOM},
    )
    return figure


def _ticks(height: float, logarithmic: bool) -> dict[str, Any]:
    """The y axis: powers of ten, or 1, 2, 5, 10, 20 where there are few of them."""
    if not logarithmic:
        return {"type": "linear", "tickmode": "auto"}
    if height > 2:
        return {
            "type": "log",
            "tickmode": "linear",
            "dtick": math.ceil(height / 8),
            "exponentformat": "power",
        }
    if height > 0.6:  # plotly would leave out the zeros of 20 and 50
        ticks = [a * 10**b for b in range(-3, 4) for a in (1, 2, 5)]
        names = [f"{tick:g}" for tick in ticks]
        return {
            "type": "log",
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": names,
        }
    return {"type": "log", "tickmode": "auto"}


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """The ends of the y axis, with a little room; logarithms on such an axis."""
    if not logarithmic:
        return -0.03, 1.05
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.06 * (high - low), 0.02)
    return low - room, high + room


def _label_ends(
    figure: go.Figure,
    ends: Mapping[str, float],
    bottom: float,
    top: float,
    logarithmic: bool,
) -> None:
    """Each line's name and last value at its end, moved apart where they meet."""
    places = {
        arm: math.log10(value) if logarithmic else value
        for arm, value in ends.items()
    }
    pixels = (HEIGHT - TOP - BOTTOM) / (top - bottom)
    order = sorted(places, key=lambda arm: (places[arm], ARMS.index(arm)))
    free = -math.inf
    heights = {}
    for arm in order:
        wanted = (places[arm] - bottom) * pixels
        heights[arm] = free = max(wanted, free + LINE)
    # What does not fit below the upper edge goes down again, as a stack.
    ceiling = HEIGHT - TOP - BOTTOM + 6
    for arm in reversed(order):
        heights[arm] = min(heights[arm], ceiling)
        ceiling = heights[arm] - LINE
    for arm in order:
        colour = GREY if arm == "residual" else LOOK[arm][0]
        figure.add_annotation(
            x=1,
            xref="paper",
            xanchor="left",
            xshift=7,
            y=0,
            yref="paper",
            yanchor="middle",
            yshift=heights[arm],
            text=f"{NAMES[arm]} <b>{number(ends[arm])}</b>",
            font={"size": 13, "color": colour},
            showarrow=False,
        )


def _not_measured(title: str) -> View:
    """A picture that says so, rather than an empty one."""
    figure = go.Figure()
    figure.update_layout(title=title, height=HEIGHT)
    figure.add_annotation(
        text="Not measured yet",
        showarrow=False,
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    sentence = (
        f"Not measured yet: {title}. `labs record 01 gain` trains the models; "
        "the random maps need no record."
    )
    return View(figure, sentence)


def _sentence(cut: Curves, shown: str, maps: str, depth: int) -> str:
    """The last values; a range where seeds differ by more than a percent."""
    words = []
    for arm in ARMS:
        if arm not in cut:
            continue
        low, middle, high = (values[-1] for values in spread(cut[arm]))
        text = f"{NAMES[arm]} {number(middle)}"
        if high > 1.01 * low:
            text += f" ({number(low)} to {number(high)})"
        words.append(text)
    count = min(map(len, cut.values()))
    runs = "seed" if maps in TRAINED else "draw"
    origin = {
        LARGE: "random maps (H_res or its logits drawn from N(0, 1); maps trained "
        "at rates up to 0.01 grow far less)",
        SMALL: "random maps (a tenth of N(0, 1) added to what HC's matrix or the "
        "others' logits start from)",
    }.get(maps) or f"maps trained at learning rate {TRAINED[maps]:g}"
    return (
        f"{shown.capitalize()} after {depth} branches, {origin}, median of {count} "
        f"{runs}{'s' * (count > 1)}: {', '.join(words)}."
    )


def _table(cut: Curves) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = {
        "kind": [],
        "median": [],
        "lowest": [],
        "highest": [],
        "runs": [],
    }
    for arm in ARMS:
        if arm not in cut:
            continue
        low, middle, high = (values[-1] for values in spread(cut[arm]))
        row = (NAMES[arm], middle, low, high, len(cut[arm]))
        for column, value in zip(table.values(), row, strict=True):
            column.append(value)
    return table
