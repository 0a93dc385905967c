"""Lab 05b's tables and pictures say what the record says.

Read from the small records of scale ci, which have the same rows as those of cpu.
"""

import math
import statistics

import pytest

from labs.lab_05b import experiments
from labs.lab_05b import record_tables as tables
from labs.lab_05b.arms import ARMS, NAMES, TUNED
from labs.lab_05b.plan import RATES, REPORTING
from labsupport.build.names import lab_names
from labsupport.claims import load_claim
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick
from labsupport.claims.verdict import judge
from labsupport.errors import LabError

pytestmark = pytest.mark.skipif(
    not any(name.startswith("05b") for name in lab_names()),
    reason="lab 05b is a draft: its records are still to come",
)


@pytest.fixture(autouse=True)
def small_records(monkeypatch):
    monkeypatch.setattr(
        tables, "rows_of", lambda name: load_record("05b", name, "ci")["rows"]
    )


def test_gaps_are_paired_by_seed():
    rows = [
        {"arm": "plain", "seed": 1, "validation": 2.0},
        {"arm": "plain", "seed": 2, "validation": 4.0},
        {"arm": "p8", "seed": 2, "validation": 4.4},
        {"arm": "p8", "seed": 1, "validation": 1.5},
    ]
    assert tables.gaps(rows, "p8") == pytest.approx([0.4, -0.5])
    assert tables.gap_words([-0.01, 0.0, 0.01]) == "+0.000 [-0.025, +0.025]"
    assert tables.words([3.0, 1.0, 2.0], 1) == "2.0 (1.0 - 3.0)"


def test_every_arm_has_its_line():
    lines = tables.scaling_lines()
    assert len(lines) == 1 + len(ARMS)
    for arm, line in zip(ARMS, lines[1:], strict=True):
        assert line.startswith(NAMES[arm])
        assert ("[" in line) == (arm != "plain")
    assert len(tables.published_lines()) == 3
    assert len(tables.stream_lines()) == 4
    assert len(tables.smoothing_lines()) == 4
    assert len(tables.headline_lines()) == 4
    assert len(tables.pace_lines()) == 4
    assert len(tables.writing_lines()) == 6
    assert len(tables.more_lines()) == 5
    assert len(tables.verdict_lines()) == 12
    assert len(tables.own_size_lines()) == 4


def test_the_best_rate_is_the_one_that_was_reported():
    lines = tables.tuning_lines()
    assert len(lines) == 1 + len(TUNED)
    rates = [float(word) for word in lines[0].split()]
    for arm, line in zip(TUNED, lines[1:], strict=True):
        cells = line.removeprefix(NAMES[arm]).replace(" *", "*").split()
        best = next(i for i, cell in enumerate(cells) if cell.endswith("*"))
        means = [float(cell.rstrip("*")) for cell in cells]
        assert means[best] == min(means)
        for row in pick(load_record("05b", "scaling", "ci")["rows"], arm=arm):
            assert row["lr"] == rates[best]
    for row in pick(load_record("05b", "scaling", "ci")["rows"], arm="time8"):
        assert row["lr"] == experiments.best_rate("long8", "ci")


def test_half_a_tuning_chooses_nothing(monkeypatch):
    rows = load_record("05b", "tuning", "ci")["rows"]
    assert experiments.best_rate("p8", "ci") in RATES["ci"]
    short = {"rows": [row for row in rows if row["seed"] != 2]}
    monkeypatch.setattr(experiments, "load_record", lambda *_: short)
    with pytest.raises(LabError, match="tuning of p8 has 10 of 15 rows"):
        experiments.best_rate("p8", "ci")


def test_equal_seconds_follow_the_recorded_pace():
    ratio = experiments.time_ratio("ci")
    paces = [
        row["times"] for row in pick(load_record("05b", "pace", "ci")["rows"], arm="p8")
    ]
    assert ratio == statistics.median(paces)
    rows = load_record("05b", "scaling", "ci")["rows"]
    plain = pick(rows, arm="plain")[0]["steps"]
    assert {row["steps"] for row in pick(rows, arm="time8")} == {round(ratio * plain)}


def test_own_sizes_by_hand(monkeypatch):
    def row(arm, loss, blocks):
        return {"arm": arm, "seed": 1, "validation": loss, "blocks": blocks}

    rows = [
        row("plain", 3.0, 100),
        row("law8", 2.8, 200),
        row("wide8", 2.0, 800),
        row("prefix", 3.0, 100),
        row("p2", 2.9, 100),
        row("p4", 2.4, 100),
        row("p8", 1.9, 100),
    ]
    monkeypatch.setattr(tables, "rows_of", lambda name: rows)
    found = tables.own_sizes()
    assert found["prefix"] == 1.0
    assert found["p2"] == pytest.approx(math.sqrt(2))
    assert found["p4"] == pytest.approx(4.0)
    assert math.isnan(found["p8"])
    assert "outside the sizes" in tables.own_size_lines()[-1]


def test_headline_ratios_are_to_the_larger_model():
    lines = tables.headline_lines()
    assert lines[-1].split()[-7:] == [
        "1.00", "1.00", "(1.00", "-", "1.00)", "1.00", "1.00", "1.00"
    ][-7:]  # fmt: skip
    rows = load_record("05b", "headline", "ci")["rows"]
    flops = [pick(rows, arm=arm)[0]["flops"] for arm in ("p8", "large")]
    assert f"{flops[0] / flops[1]:.2f}" in lines[2]


def test_the_view_has_a_mark_for_every_seed():
    view = tables.scaling_view()
    assert len(view.table["arm"]) == len(REPORTING) * len(ARMS)
    assert "Median loss: plain" in view.sentence
    view = tables.writing_view()
    assert list(view.table) == ["texts", *tables.WRITER_NAMES.values()]


@pytest.mark.parametrize("claim", tables.CLAIMS)
def test_rules_read_columns_that_the_record_has(claim):
    rules = (load_claim(claim).rule, load_claim(claim).source_rule)
    assert rules[0] is not None
    for rule in filter(None, rules):
        lab, name = rule.experiment.split("/")
        found = judge(rule, load_record(lab, name, "ci")["rows"])
        assert found.seeds == (24 if name == "published" else 5)


def test_what_the_published_table_decides():
    """These rows hang on no machine: the verdicts are those of any record."""
    rows = load_record("05b", "published", "ci")["rows"]
    verdicts = {
        claim: judge(load_claim(claim).rule, rows).verdict
        for claim in ("hyb-1.6-4.4", "hyb-days")
    }
    assert verdicts == {
        "hyb-1.6-4.4": "direction reproduced, size not",
        "hyb-days": "not reproduced",
    }
