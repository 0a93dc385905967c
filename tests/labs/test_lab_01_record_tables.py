"""What lab 01 says of its record is what the record says."""

import math
import statistics

import pytest

from labs.lab_01 import record_tables as tables
from labs.lab_01.arms import ARMS, NAMES
from labs.lab_01.stream_record import stream_lines, stream_view
from labs.lab_01.stream_size import FLOAT16_MAX
from labsupport.build.names import source_path


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


def test_failures_by_rate_and_task_are_counted_once(failures):
    lines = tables.failure_lines_by_rate("float16")
    heads = "python 0.003", "python 0.01", "python 0.03", "chain 0.01"
    assert lines[0].removeprefix("ended in NaN").split() == " ".join(heads).split()
    for arm, line in zip(("residual", "hc", "mhc", "identity"), lines[1:], strict=True):
        cells = line.removeprefix(NAMES[arm]).split()
        for head, failed, of, runs in zip(
            heads, cells[::3], cells[1::3], cells[2::3], strict=True
        ):
            task, rate = head.split()
            wanted = [
                row["failed"]
                for row in failures
                if (row["arm"], row["stream"]) == (arm, "float16")
                and (row["task"], row["lr"]) == (task, float(rate))
            ]
            assert (int(failed), of, int(runs)) == (sum(wanted), "of", 5)


def test_the_text_by_the_table_holds(failures):
    """Only HC fails, in float16 and at the two higher rates; float32 never."""
    failed = [row for row in failures if row["failed"]]
    assert {(row["arm"], row["stream"]) for row in failed} == {("hc", "float16")}
    assert {row["lr"] for row in failed} == {1e-2, 3e-2}


def test_the_float32_answer_counts_each_training_once(failures):
    failed, runs = tables.hc_in_float32()
    wanted = [r for r in failures if r["arm"] == "hc" and r["stream"] == "float32"]
    assert runs == len(wanted) == 20
    assert failed == sum(row["failed"] for row in wanted)


def test_the_second_task_is_learned(failures):
    """Below what the letters' frequencies alone would give, ln 26."""
    losses = [row["loss"] for row in failures if row["task"] == "chain"]
    assert max(loss for loss in losses if loss is not None) < 0.845 < math.log(26)


def of_rate(gains, arm, rate):
    rows = (row for row in gains if (row["arm"], row["lr"]) == (arm, rate))
    return {row["seed"]: row for row in rows}


def test_losses_are_compared_seed_by_seed(gains):
    lines = tables.loss_lines()
    for line, mine, theirs in ((-2, "hc", "mhc"), (-1, "mhc", "residual")):
        counts = lines[line].removeprefix(f"{NAMES[mine]} < {NAMES[theirs]}")
        wanted = []
        for rate in tables.rates_of(gains):
            ours, others = of_rate(gains, mine, rate), of_rate(gains, theirs, rate)
            below = sum(ours[seed]["loss"] < others[seed]["loss"] for seed in ours)
            wanted += [str(below), "of", "5"]
        assert counts.split() == wanted
    # What the text says of the first line.
    assert lines[-2].split()[3::3] == ["4", "2", "5", "4"]


def test_the_numbers_in_the_text_are_the_record(gains):
    text = source_path("01_mhc_signal_stability").read_text()
    text = " ".join(word for word in text.split() if word != "#")
    at_3 = tables.least_lines()[1].split().index("0.03") - 2
    least = {line[:12].strip(): line[12:].split() for line in tables.least_lines()[2:]}
    assert f"falls to {float(least['row softmax'][at_3]):.3f} at rate 0.03" in text
    assert f"{float(least['mHC'][at_3]):.2f} of it" in text
    hc, mhc = (of_rate(gains, arm, 3e-2)[13]["loss"] for arm in ("hc", "mhc"))
    assert f"ends at {hc:.2f}, where mHC" in text
    assert f"has {mhc:.2f}." in text
    grown = [10 ** row["log10_gain"] for row in of_rate(gains, "hc", 1e-2).values()]
    assert f"{min(grown):.0f} to {max(grown):,.0f}-fold" in text
    sizes = [
        max(row["largest"])
        for row in tables.pick(tables.rows_of("stream"), arm="mhc", stream="float16")
    ]
    assert f"reach {max(sizes):,.0f}" in text
    apart = [row["mixed"][-1] for row in of_rate(gains, "hc", 3e-2).values()]
    assert sum(value < 1e-3 for value in apart) == 4
    assert f"in the fifth it is {max(apart):.4f}" in text


def test_gains_are_medians_over_seeds(gains):
    rates = sorted({row["lr"] for row in gains})
    for arm, line in zip(ARMS, tables.gain_lines()[2:], strict=True):
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
    notes = [note.text for note in alone.figure.layout.annotations]
    assert any(note.startswith("recorded on") for note in notes)
    # Whiskers stand side by side around the recorded rates.
    first = [trace.x[0] for trace in alone.figure.data]
    assert len(set(first)) == len(ARMS)
    assert first[2] == 1e-3
    assert list(alone.figure.layout.xaxis.tickvals) == tables.rates_of(
        tables.rows_of("gain")
    )


@pytest.mark.parametrize("stream", ["float16", "float32"])
def test_the_streams_picture_is_the_record(stream):
    view = stream_view(stream)
    rows = tables.pick(tables.rows_of("stream"), stream=stream)
    failed = [row for row in rows if row["failed"]]
    crosses = [trace for trace in view.figure.data if trace.mode == "markers"]
    assert len(crosses) == 2 * len(failed)
    lines = [trace for trace in view.figure.data if trace.mode == "lines"]
    hc = [trace for trace in lines if trace.name.startswith("HC")]
    assert len(hc) == 2 * len(tables.pick(rows, arm="hc"))
    (size,) = (t for t in lines if t.name == "mHC, median" and t.yaxis == "y2")
    wanted = [row["largest"][-1] for row in tables.pick(rows, arm="mhc")]
    assert size.y[-1] == statistics.median(wanted)
    assert ("end in NaN" in view.sentence) == bool(failed)
    if stream == "float16":
        assert {row["arm"] for row in failed} == {"hc"}
        assert max(max(row["largest"]) for row in rows) <= FLOAT16_MAX
    else:
        assert not failed


def test_only_hcs_stream_outgrows_float16():
    lines = {line.split()[0]: line.split() for line in stream_lines()[1:]}
    most = {arm: float(lines[arm][-1].replace(",", "")) for arm in ("mHC", "residual")}
    assert max(most.values()) < FLOAT16_MAX
    assert float(lines["HC"][-1].replace(",", "")) > FLOAT16_MAX
    assert lines["float16"][-1] == "65,504"


def test_the_overhead_is_paired_by_seed():
    ms = {(row["arm"], row["seed"]): row["ms"] for row in tables.rows_of("time")}
    seeds = [seed for arm, seed in ms if arm == "mhc"]
    ratios = [ms["mhc", seed] / ms["residual", seed] for seed in seeds]
    assert tables.overhead() == (min(ratios), statistics.median(ratios), max(ratios))


def test_every_claim_of_the_lab_has_two_lines():
    lines = tables.verdict_lines()
    assert lines[::3] == list(tables.CLAIMS)
    assert not any("not measured" in line for line in lines)
