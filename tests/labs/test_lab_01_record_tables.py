"""What lab 01 says of its record is what the record says."""

import statistics

import pytest

from labs.lab_01 import record_tables as tables
from labs.lab_01.arms import ARMS, NAMES


@pytest.fixture
def failures():
    return tables.rows_of("failures")


@pytest.fixture
def gains():
    return tables.rows_of("gain")


def test_every_failure_is_counted_once(failures):
    lines = tables.failure_lines(*tables.STREAMS)
    assert lines[0].split()[-3:] == list(tables.STREAMS)
    counted = [word for line in lines[1:] for word in line.split() if word.isdigit()]
    failed, runs = counted[::2], counted[1::2]
    assert sum(map(int, runs)) == len(failures)
    assert sum(map(int, failed)) == sum(row["failed"] for row in failures)


def test_the_float32_answer_counts_both_experiments(failures, gains):
    failed, runs = tables.hc_in_float32()
    wanted = [r for r in gains if r["arm"] == "hc"]
    wanted += [r for r in failures if r["arm"] == "hc" and r["stream"] == "float32"]
    assert runs == len(wanted) == 40
    assert failed == sum(row["failed"] for row in wanted)


def test_gains_are_medians_over_seeds(gains):
    rates = sorted({row["lr"] for row in gains})
    for arm, line in zip(ARMS, tables.gain_lines()[1:], strict=True):
        assert line.startswith(NAMES[arm])
        shown = [float(word) for word in line.removeprefix(NAMES[arm]).split()]
        assert len(shown) == len(rates)
        for rate, value in zip(rates, shown, strict=True):
            of_seeds = [
                10 ** row["log10_gain"]
                for row in gains
                if row["arm"] == arm and row["lr"] == rate and not row["failed"]
            ]
            assert value == pytest.approx(statistics.median(of_seeds), rel=1e-3)


def test_your_run_is_a_star_beside_the_record_and_not_in_it():
    alone = tables.loss_view()
    beside = tables.loss_view({"hc": 2.0})
    assert beside.sentence == alone.sentence
    (star,) = beside.figure.data[len(alone.figure.data) :]
    assert (star.marker.symbol, star.y[0]) == ("star", 2.0)
    assert "recorded on" in alone.figure.layout.title.text


def test_the_overhead_is_paired_by_seed():
    ms = {(row["arm"], row["seed"]): row["ms"] for row in tables.rows_of("time")}
    seeds = [seed for arm, seed in ms if arm == "mhc"]
    ratios = [ms["mhc", seed] / ms["residual", seed] for seed in seeds]
    assert tables.overhead() == (min(ratios), statistics.median(ratios), max(ratios))


def test_every_claim_of_the_lab_has_two_lines():
    lines = tables.verdict_lines()
    assert lines[::3] == list(tables.CLAIMS)
    assert not any("not measured" in line for line in lines)
