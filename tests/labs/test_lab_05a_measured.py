"""Lab 05a's planner beside what was counted on real ranks, in every dense layout."""

import re

import pytest

from labs.lab_05a.planner import Layout, plan
from labs.lab_05a.planner_inputs import FLOAT32, Cluster, gpt_model
from labsupport.build.names import lab_names
from labsupport.claims.record import load_record

pytestmark = pytest.mark.skipif(
    not any(name.startswith("05a") for name in lab_names()),
    reason="lab 05a is a draft: its records are still to come",
)

plans = pytest.importorskip(
    "labs.lab_05a.plan", reason="the engine's experiments are on another branch"
)
PLENTY = Cluster("a core", 4, memory=1e12, peak=1e9, inside=1e9, between=1e9)


def planned(arm: str) -> Layout:
    """A record's layout in the planner's words: shards are ZeRO-3 over fewer ranks."""
    axes = {name: int(n) for name, n in re.findall(r"([a-z]+) (\d+)", arm)}
    shard = axes.get("shard", 1)
    return Layout(
        data=shard if shard > 1 else axes.get("replicate", 1),
        tensor=axes.get("tensor", 1),
        pipeline=axes.get("pipeline", 1),
        zero=3 if shard > 1 else 0,
    )


def test_the_words_of_a_record():
    assert planned("pipeline 2 x tensor 2, 1F1B of 4") == Layout(
        1, tensor=2, pipeline=2, zero=0
    )
    assert planned("replicate 2 x shard 2, kept gathered") == Layout(2, zero=3)


def test_memory_within_a_tenth_of_what_was_counted():
    rows = load_record("05a", "layouts", "ci")["rows"]
    model = gpt_model(plans.LAYOUT_PLANS["ci"].config)
    seen = set()
    for row in rows:
        if row["held_formula"] is None:  # experts: another model
            continue
        own = plan(model, PLENTY, planned(row["arm"]), 16, FLOAT32)
        parts = (own.weights, own.gradients, own.optimizer)
        counted = [row[n] for n in ("weights", "gradients", "optimizer")]
        assert list(map(float, parts)) == pytest.approx(counted, rel=0.1), row["arm"]
        seen.add(row["arm"])
    assert len(seen) >= 10
