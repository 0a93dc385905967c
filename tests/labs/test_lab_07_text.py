"""What the text of lab 07 says of its records holds in the records.

A draft: the records that are still to come have no sentences yet.
"""

from __future__ import annotations

from labs.lab_07 import record_tables as tables
from labsupport.claims.rows import pick


def shares(name, metric="accuracy", **wanted):
    return [row[metric] for row in pick(tables.rows_of(name), **wanted)]


def test_from_random_weights_in_three_minutes_with_every_seed():
    """The thresholds were stated before the run: see data/claims/rl-no-human.toml."""
    before, after = (shares("improve", arm=arm) for arm in ("before", "after"))
    assert len(after) == 5
    assert max(before) <= 0.45
    assert min(after) >= 0.80
    assert max(shares("improve", "spent", arm="after")) <= 180
    lengths = [shares("improve", "length", arm=arm) for arm in ("before", "after")]
    assert all(b - a >= 4 for a, b in zip(*lengths, strict=True))
    assert tables.improve_answer()[0] > 0.9


def test_a_reward_with_a_hole():
    assert max(shares("gamed", arm="lax")) < 0.01
    assert min(shares("gamed", arm="strict")) > 0.95
    for arm in ("lax", "strict"):
        paid = [each[-1] for each in shares("gamed", "reward_curve", arm=arm)]
        assert min(paid) > 0.95
    assert max(shares("gamed", "ended", arm="lax")) < 0.01
    assert tables.gamed_answer()[0] < 0.1


def test_a_score_that_is_maximised():
    answer, _ = tables.free_answer()
    assert answer == "it rises, then falls"
    for row in tables.rows_of("free"):
        assert row["reward_curve"][-1] > row["reward_curve"][0] + 0.3
        assert max(tables.smoothed(row["gold"])) > row["gold"][0] + 0.05
        assert row["accuracy"] < row["gold"][0]


def test_too_weak_a_start():
    answer, _ = tables.start_answer()
    assert answer == "shorter"
    rows = pick(tables.rows_of("start"), amount="too little", arm="after")
    assert max(row["accuracy"] for row in rows) < 0.25
    assert max(row["length"] for row in rows) < 4
