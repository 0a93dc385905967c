"""Which expert takes which kind of data: heat maps from the record."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import plotly.graph_objects as go
import torch

from labs.lab_02 import language, toy_runs
from labs.lab_02.loads import information_share
from labs.lab_02.toy import DOMAINS
from labsupport.claims.provenance import caption
from labsupport.claims.record import load_record
from labsupport.errors import LabError
from labsupport.explore import Explorer, View, choose, slide, small_print
from labsupport.explore.style import BLUE

TOY, TEXT = "toy: domains", "GPT: kinds of bytes"
TOY_ARMS = {"before training": "untrained"} | {
    name: arm for arm, name in toy_runs.NAMES.items()
}
TEXT_ARMS = {
    "no balancing": "none",
    "auxiliary loss, sequence": "sequence",
    "loss-free": "free",
}
SEEDS = (10, 11, 12)
MOST = 8.0
"""Loads above this share the darkest colour; 16 experts with 2 a token reach 8."""


def heat_explorer(
    toy: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None
) -> Explorer:
    """Expert by domain, for each method and seed.

    Args:
        toy: the record 02/balance; None for the committed one.
        text: the record 02/language; likewise.
    """
    records = {}
    for name, given, experiment in (
        (TOY, toy, "balance"),
        (TEXT, text, "language"),
    ):
        try:
            records[name] = (
                load_record("02", experiment) if given is None else given
            )
        except LabError:
            records[name] = {"rows": []}
    return Explorer(
        partial(draw, records),
        data=choose("data", (TOY, TEXT)),
        arm=choose("experts", list(TOY_ARMS), "loss-free"),
        seed=slide("seed", SEEDS, SEEDS[0]),
    )


def tables_of(
    records: Mapping[str, Any], data: str, arm: str, seed: int
) -> tuple[list[list[int]], dict[str, Any]] | None:
    """count_GE of one training, and where it comes from; None without a record.

    Of the GPT's layers it is the one whose experts tell most about the byte.
    """
    names = TOY_ARMS if data == TOY else TEXT_ARMS
    rows = [
        row
        for row in records[data]["rows"]
        if row["arm"] == names.get(arm) and row["seed"] == seed
    ]
    if not rows:
        return None
    row = rows[-1]
    tables = [row["table"]] if data == TOY else row["tables"]
    best = max(tables, key=lambda t: information_share(torch.tensor(t)))
    return best, row["origin"]


def draw(records: Mapping[str, Any], data: str, arm: str, seed: int) -> View:
    """Relative load: 1 where an expert takes its even share of a domain."""
    found = tables_of(records, data, arm, seed)
    title = f"{data}, {arm}, seed {seed}"
    if found is None:
        figure = go.Figure()
        figure.update_layout(title=f"{title}: not recorded")
        return View(figure, f"{title}: not recorded.")
    table, origin = found
    count_GE = torch.tensor(table, dtype=torch.float64)
    share = information_share(count_GE)
    E = count_GE.shape[1]
    relative_GE = count_GE / count_GE.sum(1, keepdim=True).clamp_min(1) * E
    names = (
        [f"domain {d}" for d in range(DOMAINS)]
        if data == TOY
        else list(language.KINDS)
    )
    # Experts in the order of the domain that they take most of.
    order = sorted(range(E), key=lambda e: int(relative_GE[:, e].argmax()))
    figure = go.Figure()
    figure.add_heatmap(
        z=relative_GE[:, order].tolist(),
        x=[str(e) for e in order],
        y=names,
        zmin=0,
        zmax=MOST,
        colorscale=[(0, "white"), (1, BLUE)],
        xgap=1,
        ygap=1,
        colorbar={"title": "load / even", "thickness": 12},
        hovertemplate="expert %{x}, %{y}: %{z:.2f} of an even load<extra></extra>",
    )
    figure.update_xaxes(
        title="expert, sorted by what it takes most of", type="category"
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title=f"The expert tells {share:.0%} of the {_what(data)}",
        margin={"l": 92, "b": 84},
    )
    small_print(figure, caption(origin))
    sentence = (
        f"{title}: knowing the expert tells {share:.0%} of the {_what(data)} "
        "(mutual information over entropy)."
    )
    columns: dict[str, list[Any]] = {_what(data): names}
    for e in order:
        columns[f"expert {e}"] = [
            round(v, 2) for v in relative_GE[:, e].tolist()
        ]
    return View(figure, sentence, columns)


def _what(data: str) -> str:
    return "domain" if data == TOY else "byte's kind"
