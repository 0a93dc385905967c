"""Lab 03's tables and pictures say what the record says."""

import statistics

import pytest

from labs.lab_03 import record_tables as tables
from labs.lab_03.language import ARMS
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick


def middle(rows, name, **wanted):
    return statistics.median(row[name] for row in pick(rows, **wanted))


def test_gaps_are_paired_by_seed():
    rows = [
        {"arm": "bf16", "seed": 1, "validation": 2.0},
        {"arm": "bf16", "seed": 2, "validation": 4.0},
        {"arm": "tile", "seed": 2, "validation": 4.4},
        {"arm": "tile", "seed": 1, "validation": 2.0},
    ]
    assert tables.gaps(rows, "tile") == pytest.approx([0.1, 0.0])


def test_gaps_in_words():
    assert tables.gap_words([0.01, 0.01, 0.01]) == "+1.00 % [+1.00, +1.00]"
    assert tables.gap_words([-0.01, 0.0, 0.01]) == "+0.00 % [-2.48, +2.48]"


def test_the_guess_has_the_answer_of_the_record():
    answer, sentence = tables.outlier_answer()
    rows = pick(load_record("03", "numbers")["rows"], arm="e4m3")
    drop = middle(rows, "sqnr", factor=1.0) - middle(rows, "sqnr", factor=1000.0)
    lost = middle(rows, "zeroed", factor=1000.0)
    assert (answer == "hardly anything happens to them") == (drop < 3 and lost < 0.5)
    assert "31." in sentence
    view = tables.outlier_view()
    assert view.table["INT8, one scale"][3] == 0
    assert len(view.figure.data) == 4


def test_every_arm_has_its_line():
    lines = tables.language_lines()
    assert len(lines) == 1 + len(ARMS)
    for arm, line in zip(ARMS, lines[1:], strict=True):
        assert line.startswith(tables.language.NAMES[arm])
        assert ("%" in line) == (arm != "bf16")
    assert len(tables.outliers_lines()) == 5
    assert len(tables.opening_lines()) == 3
    assert len(tables.memory_lines()) == 7
    assert len(tables.moments_lines()) == 6
    assert len(tables.wire_lines()) == 5
    assert len(tables.reduce_lines()) == 6
    assert len(tables.gradient_lines()) == 5
    assert len(tables.delayed_lines()) == 3
    assert len(tables.accumulation_lines()) == 7


def test_the_view_has_a_mark_for_every_seed_and_the_readers_star():
    rows = load_record("03", "language")["rows"]
    view = tables.language_view()
    shown = [arm for arm in ARMS if arm not in ("bf16", "unscaled")]
    assert len(view.table["model"]) == 5 * len(shown)
    yours = {"validation": 1.01 * middle(rows, "validation", arm="bf16")}
    star = tables.language_view(yours).figure.data[-1]
    assert star.name == "yours" and star.x[0] == pytest.approx(1.0)


def test_what_the_text_says_of_the_record():
    rows = load_record("03", "outliers")["rows"]
    assert all(0.02 < gap < 0.061 for gap in tables.gaps(rows, "tensor"))
    for arm in ("tile", "block"):
        assert all(gap < 0.01 for gap in tables.gaps(rows, arm))
    rows = load_record("03", "language")["rows"]
    scaled = ("tile", "block", "tensor", "hybrid")
    lows, highs = zip(
        *(tables.confidence(tables.gaps(rows, arm))[1:] for arm in scaled), strict=True
    )
    assert max(lows) < min(highs), "all intervals overlap"
    cast, half = (pick(rows, arm=arm) for arm in ("unscaled", "bf16"))
    for mine, other in zip(cast, half, strict=True):
        assert 0.45 < mine["validation"] - other["validation"] < 0.55
    moments = load_record("03", "moments")["rows"]
    assert all(
        row["ended"] == "nan" and row["steps"] < 40 for row in pick(moments, arm="e4m3")
    )
    memory = {row["arm"]: row for row in load_record("03", "memory")["rows"]}
    assert memory["bf16"]["kept"] > memory["fp32"]["kept"]
    saved = 1 - memory["tile"]["total"] / memory["bf16"]["total"]
    assert saved == pytest.approx(0.06, abs=0.005)
    wire = load_record("03", "wire")["rows"]
    for arm in ("float32", "fp8", "fp8_back"):
        _, low, high = tables.confidence(tables.gaps(wire, arm))
        assert low < 0 < high
