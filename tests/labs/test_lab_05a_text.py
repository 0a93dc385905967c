"""What the text of lab 05a says of its record holds in the record."""

import statistics

import pytest

from labs.lab_05a import record_tables as tables
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick


def rows(name, **wanted):
    return pick(load_record("05a", name)["rows"], **wanted)


def middle(name, metric, **wanted):
    return statistics.median(row[metric] for row in rows(name, **wanted))


def test_layouts_compute_the_same_and_are_counted_as_calculated():
    dense = [row for row in rows("layouts") if row["sent_formula"] is not None]
    assert len({row["arm"] for row in dense}) == 13
    for row in dense:
        held = sum(row[name] for name in ("weights", "gradients", "optimizer"))
        assert round(held / 1e6, 2) == round(row["held_formula"] / 1e6, 2)
        assert row["sent"] == pytest.approx(row["sent_formula"], rel=1e-3)
        assert row["sockets"] == pytest.approx(row["sent_gloo"], rel=0.01)
    assert "00000" in tables.same_loss_words()


def test_who_is_quick_and_who_is_slow():
    """Copies and the pipeline of four; layouts with a tensor axis come last."""
    dense = {row["arm"] for row in rows("layouts") if row["sent_formula"]}
    order = sorted(dense, key=lambda arm: middle("layouts", "ms", arm=arm))
    assert set(order[:2]) == {"replicate 4", "pipeline 4, 1F1B of 4"}
    assert {"tensor" in arm for arm in order[-5:]} == {True}
    assert not any("tensor" in arm for arm in order[:-5])


def test_the_choice_is_good_and_the_model_is_not():
    four = rows("predict", arm="four_ranks")
    assert max(row["regret"] for row in four) < 0.02
    assert statistics.median(row["order"] for row in four) < 0.35
    ratios = [
        statistics.median(
            row["measured_ms"][i] / row["predicted_ms"][i] for row in four
        )
        for i in range(len(four[0]["layouts"]))
    ]
    assert sum(1.9 < ratio < 4.2 for ratio in ratios) > len(ratios) / 2


def test_a_switch_that_does_not_pay():
    """An eighth of a step is won, the move takes five; the loss goes on."""
    copies, cut = (
        middle("switch", "ms_before_200mbit", arm=arm)
        for arm in ("copies", "cut_to_copies")
    )
    assert 1 - cut / copies == pytest.approx(1 / 8, abs=0.01)
    took = 1e3 * middle("switch", "switch_s_200mbit", arm="cut_to_copies")
    assert took / cut == pytest.approx(5, abs=0.5)
    free = tables.break_even_words("unshaped")
    assert free == "free link: cut, no short step is faster."
    assert "Here there were 24." in tables.break_even_words()
    gaps = [
        gap
        for arm in tables.SWITCHES
        for gap in tables.paired(rows("switch"), arm, "copies", tables.loss_gap)
    ]
    assert max(gaps) < 1.5e-6


def test_ways_to_sum():
    """Nearly a fifth; an eighth is overlap; sums after each piece take three times."""
    ms = {arm: middle("sync", "ms_200mbit", arm=arm) for arm in tables.WAYS}
    assert 1 - ms["buckets"] / ms["per_gradient"] == pytest.approx(0.18, abs=0.01)
    assert 1 - ms["buckets"] / ms["one_message"] == pytest.approx(1 / 8, abs=0.01)
    assert ms["every_piece"] / ms["last_piece"] == pytest.approx(3, abs=0.1)


def test_unequal_ranks():
    """From a third to a fourteenth, and 55 % of a step."""
    equal, balanced = (middle("balance", "idle", arm=a) for a in ("equal", "balanced"))
    assert equal == pytest.approx(1 / 3, abs=0.01)
    assert balanced == pytest.approx(1 / 14, abs=0.005)
    step = [middle("balance", "ms", arm=arm) for arm in ("balanced", "equal")]
    assert step[0] / step[1] == pytest.approx(0.55, abs=0.01)
    for row in rows("balance", arm="turn_balanced"):
        assert row["batches"][0] < row["batches"][1]


def test_schedules():
    """Two ranks hardly beat one; more pieces take longer, least waiting longest."""
    alone = middle("schedules", "ms", arm="one_process", microbatches=4)
    piped = middle("schedules", "ms", arm="1F1B", microbatches=4)
    assert 0.8 < piped / alone < 1
    for arm in tables.arms_of(rows("schedules"))[1:]:
        ms = [middle("schedules", "ms", arm=arm, microbatches=m) for m in (4, 8, 16)]
        assert ms == sorted(ms)
    last = {
        arm: middle("schedules", "ms", arm=arm, microbatches=16)
        for arm in tables.arms_of(rows("schedules"))
    }
    assert set(sorted(last, key=last.get)[-2:]) == {"ZBV", "InterleavedZeroBubble"}


def test_sharing():
    """Half as much held, half as much again sent; 13 % for 0.2 nats."""
    held, sent = (
        {arm: middle("share", name, arm=arm) for arm in tables.SHARES}
        for name in ("held", "sent")
    )
    assert held["untied_sharded"] / held["untied"] == pytest.approx(0.5)
    assert sent["untied_sharded"] / sent["untied"] == pytest.approx(1.5, abs=0.01)
    assert 1 - held["tied"] / held["untied"] == pytest.approx(0.13, abs=0.005)
    best = [
        row
        for arm in ("tied", "untied")
        for row in tables.best_rate(rows("share", arm=arm))
    ]
    gaps = tables.gaps(best, "tied", "untied")
    assert statistics.fmean(gaps) == pytest.approx(0.2, abs=0.02)


def test_batches():
    """At every rate: small, then the noise's, then large; less than half the steps."""
    for lr in {row["lr"] for row in rows("batch")}:
        small, follows, large = (
            middle("batch", "validation", arm=arm, lr=lr)
            for arm in ("small", "adaptive", "large")
        )
        assert small < follows < large
    steps = [middle("batch", "steps", arm=arm) for arm in ("adaptive", "small")]
    assert steps[0] < steps[1] / 2
