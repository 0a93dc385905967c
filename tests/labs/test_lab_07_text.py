"""What the text of lab 07 says of its records holds in the records."""

from __future__ import annotations

from labs.lab_07 import record_tables as tables
from labsupport.claims.rows import confidence, gaps, pick


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


def test_one_line_levels_off_and_why():
    """The text after the picture, and that below the table of slips."""
    rows = pick(tables.rows_of("improve"), arm="after")
    *others, worst = sorted(rows, key=lambda row: -row["accuracy"])
    assert min(row["accuracy"] for row in others) > 0.95
    assert worst["commonest"] == "A AC -> A"
    assert worst["commonest_share"] > 0.8
    assert worst["slips"] > 150
    assert max(row["slips"] for row in others) < 60
    teacher_who_thinks = (1 - 0.04) ** 12
    assert round(100 * teacher_who_thinks) == 61


def test_a_verifier_against_ratings():
    won = {arm: shares("ratings", arm=arm) for arm in tables.RATER_NAMES}
    assert sorted(won["verifier"])[2] > 0.95
    for arm in tables.RATERS:
        assert min(won[arm]) > 0.5
        assert max(won[arm]) < 0.65
        assert min(shares("ratings", "agreement", arm=arm)) > 0.66
        assert max(shares("ratings", "agreement", arm=arm)) < 0.73
        (beta,) = set(shares("ratings", "beta", arm=arm))
        assert beta == 1
    settings = {(r["lr"], r["beta"]) for r in tables.rows_of("rates")}
    assert len(settings) == 8
    # With the raters' penalty the verifier's rewards end at six in ten, too.
    held = shares("rates", arm="verifier", beta=1.0)
    assert min(held) > 0.55
    assert max(held) < 0.66
    for good, bad in zip(won["verifier"], won["raters_5"], strict=True):
        assert good > bad + 0.25


def test_once_is_enough_and_twice_needs_the_clip():
    once = [shares("ladder", arm=arm) for arm in ("reinforce", "batch", "group")]
    middles = [sorted(each)[2] for each in once]
    assert max(middles) - min(middles) < 0.02
    assert min(map(min, once)) > 0.7
    again = sorted(shares("ladder", arm="again"))
    assert again[2] < 0.21 < again[3] < 0.3 < again[4]
    assert min(shares("ladder", arm="clip")) > 0.5
    held = shares("ladder", "clipped", arm="clip")
    assert max(held) < 0.02
    assert sorted(shares("ladder", arm="clip"))[2] < min(middles)


def test_losses_are_not_ranked():
    rows = tables.rows_of("losses")
    for arm in tables.LOSSES:
        if arm != "GRPO":
            _, low, high = confidence(gaps(rows, arm, "GRPO", "accuracy"))
            assert low < 0 < high
    assert [won < 0.25 for won in sorted(shares("losses", arm="CISPO"))] == [
        *[True] * 2,
        *[False] * 3,
    ]
    assert min(shares("losses", arm="GSPO")) > 0.775
    held = shares("losses", "clipped", arm="GSPO")
    assert min(held) > 1 / 3
    assert max(held) < 1 / 2


def test_countdown_is_hardly_learned():
    before, after = (shares("countdown", arm=arm) for arm in ("before", "after"))
    assert max(before) < 0.12
    assert min(after) > 0.15
    assert max(after) < 0.2


def test_boxes_longer_and_not_better_read():
    before, after = (pick(tables.rows_of("boxes"), arm=a) for a in ("before", "after"))
    assert max(row["quits"] for row in after) < 0.01
    assert min(row["quits"] for row in before) > 0.7
    for a, b in zip(before, after, strict=True):
        assert 2.5 < b["length"] / a["length"] < 3.5
        assert b["accuracy"] > a["accuracy"] + 0.1
        assert b["misread"] > a["misread"]
        assert b["misread_late"] > 0.7
        assert a["misread_late"] is None
        assert 0.3 < b["again"] < 0.5
        assert a["ended"] == 1
        assert b["ended"] < 0.9
        assert b["again"] > a["again"] + 0.2
