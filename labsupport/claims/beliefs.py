"""What the reader believes, from 0 to 100 %, before and after each lab.

Lab 00 asks first, each lab asks again about its own claims, and lab 09 scores
all of it against the ledger.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from labsupport.claims.claim import ARTICLES, Claim, load_claim
from labsupport.exercise import progress
from labsupport.exercise.panel import show_html
from labsupport.settings import is_interactive

THE_TEN = (
    "mhc-stable",
    "mhc-time",
    "moe-cheaper",
    "lb-aux-quality",
    "fp8-close",
    "agf-time",
    "hyb-1.6-4.4",
    "cot",
    "rl-no-human",
    "kd",
)
"""The claims that lab 00 asks about: at least one from every lab from 01 to 08."""


def state_belief(claim_id: str, percent: int, lab: str) -> None:
    """Add a belief to the reader's history of this claim."""
    history: list[dict[str, Any]] = progress.recall("beliefs", claim_id, [])
    entry = {
        "percent": percent,
        "lab": lab,
        "date": datetime.date.today().isoformat(),
    }
    # Moving a slider back and forth within one lab is one statement, not many.
    kept = [old for old in history if old["lab"] != lab]
    progress.note("beliefs", claim_id, [*kept, entry])


def ask_beliefs(claim_ids: Sequence[str], lab: str) -> None:
    """A slider per claim for a person, the sentences as text otherwise."""
    claims = [load_claim(claim_id) for claim_id in claim_ids]
    if not is_interactive():
        text = "\n".join(f"{n:2}. {c.sentence}" for n, c in enumerate(claims, 1))
        items = "".join(f"<li>{escape(c.sentence)}</li>" for c in claims)
        show_html(f"<ol>{items}</ol>", text)
        return
    rows = [_slider(number, claim, lab) for number, claim in enumerate(claims, 1)]
    display(widgets.VBox(rows))


def _slider(number: int, claim: Claim, lab: str) -> widgets.Widget:
    history = progress.recall("beliefs", claim.id, [])
    knob = widgets.IntSlider(
        value=history[-1]["percent"] if history else 50,
        min=0,
        max=100,
        step=5,
        readout_format="d",
        continuous_update=False,
        layout=widgets.Layout(width="320px"),
    )
    said = widgets.HTML("saved" if history else "<i>not said yet</i>")

    def moved(change: dict[str, Any]) -> None:
        state_belief(claim.id, change["new"], lab)
        said.value = "saved"

    knob.observe(moved, "value")
    # Someone who is exactly half sure has no reason to move the slider.
    agree = widgets.Button(description="say so", layout=widgets.Layout(width="80px"))
    agree.on_click(lambda _: moved({"new": knob.value}))
    where = f"article on {ARTICLES[claim.article]}; lab {claim.lab} tests it"
    sentence = widgets.HTML(
        f"{number}. {escape(claim.sentence)} <small>({where})</small>"
    )
    unit = widgets.HTML("% sure it holds ·")
    return widgets.VBox([sentence, widgets.HBox([knob, unit, agree, said])])
