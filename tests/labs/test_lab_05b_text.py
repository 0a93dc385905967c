"""What the text of lab 05b says of its record holds in the record."""

import statistics

import pytest

from labs.lab_05b import record_tables as tables
from labsupport.claims.record import load_record
from labsupport.claims.rows import gaps, paired, pick
from labsupport.claims.verdict import confidence


def rows(name, **wanted):
    return pick(load_record("05b", name)["rows"], **wanted)


def middle(name, metric, arm):
    return statistics.median(row[metric] for row in rows(name, arm=arm))


def over(name, metric, arm, other):
    """The median ratio of two arms with the same seed."""
    found = paired(rows(name), arm, other, lambda a, b: a[metric] / b[metric])
    return statistics.median(found)


def test_a_training_step():
    """3.6 times the seconds for 3.0 times the FLOPs; 54 % fewer states; 2.7 in all."""
    assert over("headline", "times", "p8", "large") == pytest.approx(3.6, abs=0.05)
    for metric, ratio in (("flops", 3.0), ("states", 0.46), ("kept", 4.7)):
        found = over("headline", metric, "p8", "large")
        assert found == pytest.approx(ratio, abs=0.05), metric
    assert over("headline", "bytes", "p8", "large") == pytest.approx(2.7, abs=0.05)


def test_writing():
    """At one text 2 and 1.3 times as long, at 64 texts 6.4 and 1.6."""
    for arm, n, times in (
        ("p8", 1, 2.1), ("equal", 1, 1.34), ("p8", 64, 6.4), ("equal", 64, 1.65),
    ):  # fmt: skip
        found = middle("writing", f"times_{n}", arm)
        assert found == pytest.approx(times, abs=0.05), (arm, n)
    memory = [
        tables._memory(rows("writing", arm="p8"), n)
        / tables._memory(rows("writing", arm="equal"), n)
        for n in (1, 64)
    ]
    assert memory == pytest.approx([0.7, 3.6], abs=0.05)


def test_what_one_text_adds():
    """A third of the larger model's bytes, three times its milliseconds."""
    more = over("writing", "more_bytes", "p8", "equal")
    assert more == pytest.approx(1 / 3, abs=0.02)
    assert 2.5 < over("writing", "more_ms", "p8", "equal") < 3.5


def test_what_streams_are_worth_in_small():
    every = rows("scaling")

    def against(arm, base="plain"):
        return confidence(gaps(every, arm, base))

    # "Within a hair of one another, and of one stream behind a prefix."
    hair = [against(arm)[0] for arm in ("prefix", "p2", "p4", "p8")]
    assert max(hair) - min(hair) < 0.005
    for arm in ("prefix", "p2", "p4", "p8"):
        _, low, high = against(arm)
        assert low < 0 < high
    assert against("p8", "law8")[0] == pytest.approx(0.045, abs=0.001)
    assert against("p8", "law8")[1] > 0
    # "Three and seven times as much as the 1.82 do."
    promised = against("law8")[0]
    assert against("wide8")[0] / promised == pytest.approx(3, abs=0.2)
    assert against("long8")[0] / promised == pytest.approx(7, abs=0.4)
    # "At the edge of what five seeds show."
    assert against("wide8")[2] < 0 and against("long8")[2] < 0
    assert -0.001 < against("law8")[2] < 0.01


def test_every_best_rate_lies_inside():
    every = rows("tuning")
    rates = sorted({row["lr"] for row in every})
    for arm in tables.TUNED:
        means = [
            statistics.fmean(r["validation"] for r in pick(every, arm=arm, lr=lr))
            for lr in rates
        ]
        assert 0 < means.index(min(means)) < len(rates) - 1, arm


def test_streams_collapse():
    """One stream is chosen, whatever the smoothing; all say nearly the same."""
    ends = []
    for arm in ("eps0", "eps01", "eps1"):
        assert middle("smoothing", "even", arm) < 0.01
        assert middle("smoothing", "one", arm) > 0.9
        ends.append(middle("smoothing", "validation", arm))
    assert max(ends) - min(ends) < 0.02
    for arm in ("p2", "p4", "p8"):
        assert middle("scaling", "alike", arm) > 0.99
