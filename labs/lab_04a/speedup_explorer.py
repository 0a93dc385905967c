"""How much of a step's time each method saves, by bandwidth, workers and latency.

Time saved rather than speed-up: that is what the article speaks of, its zone is a band
of this axis, and f, the exposed share of a dense step, is a line that no method gets
above. Every worker does the same work as when it was measured, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from plotly.subplots import make_subplots

from labs.lab_04a.link_model import (
    Machine,
    MethodCost,
    break_even,
    exposed_share,
    saving,
    sent,
)
from labs.lab_04a.speedup_picture import (
    ARTICLE,
    BITS,
    add_lines,
    add_marks,
    add_zone,
    finish,
    rate,
    saved_percent,
)
from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide

WORKERS = (2, 4, 8, 64, 2048)
LARGE = (8, 64, 2048)
LATENCIES = {"10 µs": 1e-5, "100 µs": 1e-4, "1 ms": 1e-3, "10 ms": 1e-2}
OVERLAP = {"after the backward": 0.0, "beside the backward": 1.0}
"""When gradients travel -> how much of the backward can hide them."""
COLUMNS = {
    "50 Mbit/s": 5e7,
    "1 Gbit/s": 1e9,
    "10 Gbit/s": 1e10,
    "100 Gbit/s": 1e11,
}
"""Of the table: bit/s."""


def speedup_explorer(
    methods: Sequence[MethodCost],
    compute_s: float,
    backward_s: float,
    workers: int,
    caption: str,
) -> Explorer:
    """Time saved against bandwidth; how many workers, latency, overlap.

    Args:
        methods: the first is what the others are compared with.
        compute_s: seconds of forward, backward and optimizer of one step.
        backward_s: of these the backward.
        workers: W of the measurement that all these numbers come from.
        caption: where and when that was.

    Raises:
        LabError: fewer than two methods, or a time that cannot be.
    """
    measured = _machine(methods, compute_s, backward_s, workers)
    return Explorer(
        partial(draw, tuple(methods), measured, caption),
        workers=slide("workers W", sorted({*WORKERS, workers}), workers),
        latency=slide("latency", list(LATENCIES), "100 µs"),
        overlap=choose("gradients travel", list(OVERLAP)),
    )


def draw(
    methods: Sequence[MethodCost],
    measured: Machine,
    caption: str,
    workers: int,
    latency: str,
    overlap: str,
) -> View:
    """One picture; lines of a number of workers that nobody measured are dashed."""
    machine = replace(
        measured,
        W=workers,
        latency=LATENCIES[latency],
        hidden_share=OVERLAP[overlap],
    )
    model = workers != measured.W
    origin = (
        f"model, not measured: the numbers are of {measured.W} workers"
        if model
        else f"computed from what was measured with {measured.W} workers"
    )
    figure = make_subplots()
    add_zone(figure)
    below = add_lines(figure, methods, machine, dashed=model)
    add_marks(figure)
    low, high = (100 * share for share in ARTICLE)
    figure.add_annotation(
        text=f"the article: {low:.0f} to {high:.0f} % saved",
        x=math.log10(1e12),  # plotly places annotations by the logarithm
        xanchor="right",
        y=(low + high) / 2,
        showarrow=False,
        font={"size": 12},
    )
    notes = [
        f"Bytes and times: {caption}, {measured.W} workers.",
        f"Step times: {origin}. Dotted lines: typical links.",
    ]
    if below:
        notes.append(f"Below the picture: {'; '.join(below)}.")
    finish(figure, notes, [1e7, 1e8, 1e9, 1e10, 1e11, 1e12])
    figure.update_xaxes(title="bandwidth of each worker's link, bit/s")
    figure.update_yaxes(title="time saved, %")
    title = f"{workers} workers, latency {latency}, gradients travel {overlap}"
    figure.update_layout(title=title)
    sentence = f"{title}: {_best(methods, machine)}; {origin}."
    return View(figure, sentence, _table(methods, machine))


def extrapolation_view(
    methods: Sequence[MethodCost],
    compute_s: float,
    backward_s: float,
    workers: int,
    caption: str,
    latency: str = "100 µs",
    overlap: str = "after the backward",
) -> View:
    """The same model for 8, 64 and 2048 workers, side by side.

    Args:
        methods, compute_s, backward_s, workers, caption: as of `speedup_explorer`.
        latency: a key of LATENCIES.
        overlap: a key of OVERLAP.

    Raises:
        LabError: as `speedup_explorer`, or an unknown latency or overlap.
    """
    measured = _machine(methods, compute_s, backward_s, workers)
    for name, value, known in (
        ("latency", latency, LATENCIES),
        ("overlap", overlap, OVERLAP),
    ):
        if value not in known:
            raise LabError(
                f"{name}={value!r}: choose one of {', '.join(known)}."
            )
    figure = make_subplots(
        rows=1,
        cols=len(LARGE),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"{W} workers" for W in LARGE],
    )
    table: dict[str, list[Any]] = {"method": [m.name for m in methods[1:]]}
    words, below = [], []
    for column, W in enumerate(LARGE, 1):
        machine = replace(
            measured,
            W=W,
            latency=LATENCIES[latency],
            hidden_share=OVERLAP[overlap],
        )
        add_zone(figure, column)
        gone = add_lines(
            figure, methods, machine, workers != W, column, symbols=5
        )
        if gone:
            below.append(f"with {W} workers {' and '.join(gone)}")
        words.append(f"with {W} workers {_best(methods, machine)}")
        table[f"saves time, {W} workers"] = [
            pays(method, methods[0], machine) for method in methods[1:]
        ]
    notes = [
        f"Bytes and times: {caption}, {workers} workers.",
        "All lines are computed from them, for messages around a ring. "
        "Grey band: what the article says.",
    ]
    if below:
        notes.append(f"Below the picture: {'; '.join(below)}.")
    finish(figure, notes, [1e8, 1e10, 1e12])
    figure.update_xaxes(title="bit/s")
    figure.update_yaxes(title="time saved, %", col=1)
    conditions = f"latency {latency}, gradients travel {overlap}"
    title = f"A model, not measured: {conditions}"
    figure.update_layout(title=title)
    return View(figure, f"{title}: {'; '.join(words)}.", table)


def pays(
    method: MethodCost,
    dense: MethodCost,
    machine: Machine,
    saved: float = 0.0,
) -> str:
    """Where a method saves more than a share of the time, in words."""
    edge = highest(method, dense, machine, saved)
    if edge == math.inf:
        return "everywhere"
    if edge > 0:
        return f"below {rate(edge)}"
    # It sends no less, but in fewer messages.
    if max(saved_percent(method, dense, machine)) > 100 * saved:
        return "only on fast links"
    return "nowhere"


def highest(
    method: MethodCost, dense: MethodCost, machine: Machine, saved: float
) -> float:
    """The bandwidth below which more than a share is saved; inf: always, 0: never."""
    edge = break_even(method, dense, machine, saved)
    if edge is not None:
        return edge
    slowest = replace(machine, bandwidth=1.0)
    return math.inf if saving(method, dense, slowest) > saved else 0.0


def _machine(
    methods: Sequence[MethodCost],
    compute_s: float,
    backward_s: float,
    workers: int,
) -> Machine:
    """What was measured; its link is set by the controls."""
    if len(methods) < 2:
        raise LabError(
            f"methods has {len(methods)}: give the dense one first, and at "
            "least one to compare with it."
        )
    return Machine(compute_s, backward_s, 0.0, 1.0, 0.0, workers)


def _best(methods: Sequence[MethodCost], machine: Machine) -> str:
    """Up to which bandwidth anyone saves time, 40 % of it, 60 % of it, and who."""
    dense, *others = methods
    low, high = ARTICLE
    parts = []
    for share, what in (
        (0.0, "time is saved"),
        (low, f"{100 * low:.0f} % of it"),
        (high, f"{100 * high:.0f} %"),
    ):
        where = [pays(m, dense, machine, share) for m in others]
        edges = [highest(m, dense, machine, share) for m in others]
        first = max(
            range(len(others)),
            key=lambda i: (edges[i], where[i] != "nowhere"),
        )
        who = "" if where[first] == "nowhere" else f" ({others[first].name})"
        parts.append(f"{what} {where[first]}{who}")
    never = [m.name for m in others if pays(m, dense, machine) == "nowhere"]
    if never:
        parts.append(f"none by {' or '.join(never)}")
    return ", ".join(parts)


def _table(
    methods: Sequence[MethodCost], machine: Machine
) -> dict[str, list[Any]]:
    """A row for each method; the last is f, what sending nothing would save."""
    dense, *others = methods
    table: dict[str, list[Any]] = {
        "method": [method.name for method in methods] + ["sends nothing (f)"],
        "MB sent": [
            round(sent(method, machine.W) / 1e6, 4) for method in methods
        ]
        + [0.0],
        "extra work, ms": [
            round(1e3 * method.encode_s, 3) for method in methods
        ]
        + [0.0],
        "faster": ["", *(pays(m, dense, machine) for m in others), ""],
    }
    for name, bits in COLUMNS.items():
        there = replace(machine, bandwidth=bits / BITS)
        shares = [saving(method, dense, there) for method in methods]
        shares.append(exposed_share(dense, there))
        table[f"saved at {name}, %"] = [round(100 * s, 1) for s in shares]
    return table
