"""What the text of lab 06 says of its records holds in the records."""

from __future__ import annotations

import statistics

import pytest

from labs.lab_06 import record_tables as tables
from labs.lab_06.experiments import LEARNED, LENGTHS, TEMPERATURES, VOTES
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick


def rows(name, **wanted):
    return pick(load_record("06", name)["rows"], **wanted)


def shares(name, metric="accuracy", **wanted):
    return [row[metric] for row in rows(name, **wanted)]


def test_every_state_wins_and_three_ways_only_guess():
    assert min(shares("gap", arm="every")) > 0.99
    for arm in ("every_4", "filler", "direct"):
        assert max(shares("gap", arm=arm)) < 0.25, arm
    won, _ = tables.gap_answer()
    assert won > 0.9


def test_every_second_state_is_in_between():
    every_2 = shares("gap", arm="every_2")
    assert round(100 * min(every_2)) == 31
    assert round(100 * max(every_2)) == 99


def test_steps_and_rates_are_those_of_the_text():
    """As many tokens: four games where the other saw seven."""
    steps = {arm: rows("gap", arm=arm)[0]["steps"] for arm in tables.ARMS}
    assert steps["every"] / steps["direct"] == pytest.approx(4 / 7, abs=0.01)


def test_depth():
    """Two swaps by all; four swaps the better the deeper; eight not at all."""
    for arm in tables.DEPTHS:
        assert min(shares("depth", arm=arm, swaps=2)) > 0.98
    four = [
        statistics.median(shares("depth", arm=f"direct_{layers}", swaps=4))
        for layers in (1, 2, 4)
    ]
    assert four == sorted(four)
    assert four[0] < 0.6
    assert four[2] > 0.8
    for layers in (1, 2, 4):
        assert max(shares("deep", arm=f"direct_{layers}")) < 0.25
        losses = shares("deep", metric="loss", arm=f"direct_{layers}")
        assert losses == pytest.approx([0.5365] * 3, abs=0.003)
    assert min(shares("deep", arm="every_1")) > 0.9


def test_who_follows():
    for model in ("needed", "easy", "carried"):
        follows = shares("faithful", metric="share", arm="follows", model=model)
        assert min(follows) > 0.8
        assert statistics.median(follows) > 0.98
    stays = shares("unused", metric="share", arm="stays")
    assert min(stays) > 0.8
    assert min(shares("unused")) > 0.95  # and yet it wins
    assert min(shares("forced", metric="share", arm="follows")) > 0.6
    assert max(shares("forced")) < min(shares("unused"))
    assert tables.easy_answer()[0] == "right steps only"


def test_one_of_five_had_not_finished():
    """As `LIVE` says, and so its trainings are longer."""
    won = sorted(shares("faithful", arm="follows", model="needed"))
    assert won[0] == pytest.approx(0.62, abs=0.005)
    assert won[1] > 0.99


def test_nobody_plays_longer_games():
    beyond = [i for i, swaps in enumerate(LENGTHS) if swaps > LEARNED[-1]]
    learned = [LENGTHS.index(swaps) for swaps in LEARNED]
    for row in rows("length"):
        assert max(row["accuracy"][i] for i in beyond) < 0.4
    two = [row["accuracy"] for row in rows("length", arm="mixed_2")]
    one = [row["accuracy"] for row in rows("length", arm="mixed")]
    for i in learned:
        assert statistics.median(each[i] for each in two) > 0.9
        assert statistics.median(each[i] for each in one) < 0.6


def test_votes():
    """The answers to the questions below the explorer."""
    hasty, carried = (rows("voting", arm=arm) for arm in ("hasty", "carried"))
    assert TEMPERATURES == (0.3, 0.6, 1.0, 1.5)
    at_06 = [row["accuracy_0.6"] for row in hasty]
    assert {round(100 * each[-1]) for each in at_06} == {81, 92, 85}
    for each, row in zip(at_06, hasty, strict=True):
        assert each[0] == pytest.approx(0.5, abs=0.04)
        assert each[0] > row["accuracy_1"][0]
        assert each[-1] > row["accuracy_1"][-1]
        gain = [row[f"accuracy_{T}"][-1] - row[f"accuracy_{T}"][0] for T in (0.3, 0.6)]
        assert gain[0] < gain[1]
        assert row["accuracy_1.5"][-1] < 0.25
        assert row["accuracy_1"][0] == pytest.approx(1 / 3, abs=0.05)
    for row in carried:
        assert row["accuracy_1"][0] < 0.25
        assert row["accuracy_0.6"][VOTES.index(32)] > 0.99
        assert row["greedy"] > 0.99
    assert 0.625 < tables.voting_answer()[0] < 0.8


def test_the_cache_pays_with_many_texts():
    kept, again = (rows("writing", arm=arm) for arm in ("kept", "again"))
    for mine, other in zip(kept, again, strict=True):
        gains = [mine[f"rate_{n}"] / other[f"rate_{n}"] for n in (1, 16, 256)]
        assert gains == sorted(gains)


def test_a_completion_has_so_many_tokens():
    from labs.lab_06.plan import CPU
    from labs.lab_06.writers import WRITERS
    from labsupport.tasks.game import random_numbers

    prompts_BT = CPU.game.prompts(2, seed=0)
    for arm, tokens in tables.WRITTEN.items():
        made = WRITERS[arm](CPU.game, prompts_BT, random_numbers(0, 0, "train"))
        assert made.shape[1] == tokens
