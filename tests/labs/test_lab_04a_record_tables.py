"""Lab 04a's tables and pictures say what the record says."""

import statistics

import pytest

from labs.lab_04a import record_tables as tables
from labs.lab_04a.experiments import FEEDBACK, TIMED, chosen
from labs.lab_04a.link_check import check_view
from labs.lab_04a.methods import ARMS, COMPARED
from labsupport.build.names import lab_names
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick

pytestmark = pytest.mark.skipif(
    not any(name.startswith("04a") for name in lab_names()),
    reason="lab 04a is a draft: a part of its record is still to come",
)


def middle(rows, name, **wanted):
    return statistics.median(row[name] for row in pick(rows, **wanted))


def test_gaps_are_paired_by_seed():
    rows = [
        {"arm": "ddp", "seed": 1, "validation": 2.0},
        {"arm": "ddp", "seed": 2, "validation": 4.0},
        {"arm": "top_k", "seed": 2, "validation": 4.5},
        {"arm": "top_k", "seed": 1, "validation": 2.0},
    ]
    assert tables.gaps(rows, "top_k") == pytest.approx([0.5, 0.0])


def test_the_chosen_trial_is_the_best_on_the_tuning_seeds():
    rows = load_record("04a", "tune")["rows"]
    assert len(rows) == 4 * 3 * len(COMPARED)
    for arm in COMPARED:
        means = [
            statistics.fmean(r["validation"] for r in pick(rows, arm=arm, trial=t))
            for t in range(4)
        ]
        assert chosen(arm) == ARMS[arm].trials[means.index(min(means))]
    starred = [line.count("*") for line in tables.chosen_lines()[1:]]
    assert starred == [1] * len(COMPARED)


def test_every_arm_has_its_line():
    assert len(tables.feedback_lines()) == 1 + len(FEEDBACK)
    assert len(tables.opening_lines()) == 3
    assert len(tables.compared_lines()) == 1 + len(COMPARED)
    assert len(tables.experts_lines()) == 7
    assert len(tables.budget_lines()) == 6
    assert len(tables.clip_lines()) == 6
    assert len(tables.stale_lines()) == 6
    assert len(tables.time_lines()) == 1 + len(TIMED)
    assert len(tables.link_lines()) == 6
    assert len(tables.encode_lines()) == len(ARMS) - 2


def test_the_guess_has_the_answer_of_the_record():
    rows = load_record("04a", "feedback")["rows"]
    everything, kept, lost = (
        middle(rows, "validation", arm=arm) for arm in ("ddp", "top_k", "top_k_forgets")
    )
    answer, sentence = tables.feedback_answer()
    assert (answer == "somewhere between") == (
        everything + 0.1 * (lost - everything) < kept < lost - 0.1 * (lost - everything)
    )
    assert f"{kept:.3f}" in sentence


def test_costs_are_those_of_the_record():
    dense, *others = tables.method_costs()
    assert dense.encode_s == 0 and dense.messages >= 1
    rows = {row["arm"]: row for row in load_record("04a", "time")["rows"]}
    assert [cost.payload for cost in (dense, *others)] == [
        rows[arm]["sent"] for arm in TIMED
    ]
    compute_s, backward_s = tables.step_times()
    assert 0 < backward_s < compute_s


def test_predictions_are_compared_with_every_measured_step():
    rows = tables.check_rows()
    assert len(rows) == 5 * len(TIMED)
    assert "of 35 predicted step times are within 20 %" in check_view(rows).sentence
