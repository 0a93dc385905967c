"""What the text of lab 08 says of its records holds in the records."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from labs.lab_08 import record_tables as tables
from labs.lab_08.experiments import RATES, best_rate
from labs.lab_08.plan import PLANS
from labs.lab_08.teacher import shipped_teacher
from labs.lab_08.text import STUDENTS, text_teacher
from labsupport.claims.rows import pick
from labsupport.distill.compute import weights
from labsupport.nn import GPT


def column(name, metric, **wanted):
    return [row[metric] for row in pick(tables.rows_of(name), **wanted)]


def losses(arm, little):
    return [row["loss"] for row in tables.best_text(arm, little)]


def test_text_with_and_without_scores():
    """The paragraph below the table of text."""
    for little in (False, True):
        # As many steps: scores are ahead; a temperature above 1 does not help.
        assert max(losses("1", little)) < min(losses("labels", little))
        assert max(losses("1", little)) < min(losses("2", little))
        assert max(losses("2", little)) < min(losses("4", little))
    assert max(losses("labels_more", False)) < min(losses("1", False)) - 0.05
    assert min(losses("labels_more", True)) > max(losses("labels", True)) + 1
    teacher = weights(text_teacher("cpu").model)
    student = weights(GPT(STUDENTS["cpu"].config))
    assert int(teacher / student) == 16
    assert int(2 * teacher / (6 * student)) == 5
    flops = {arm: tables.best_text(arm, False)[0]["flops"] for arm in ("labels", "1")}
    assert int(flops["1"] / flops["labels"]) == 6


def test_every_way_spends_the_same():
    budget = PLANS["cpu"].budget / 1e9
    for flops in column("ways", "flops"):
        assert 0.97 * budget < flops <= budget


def test_the_student_has_a_quarter_of_the_weights():
    teacher = shipped_teacher("cpu").model.parameter_count()
    student = GPT(PLANS["cpu"].config).parameter_count()
    assert 3.5 < teacher / student < 4.2


def test_the_teacher_was_not_free():
    assert tables.teacher_flops() == pytest.approx(1.1e12, rel=0.02)


def test_answers_alone_are_a_guess():
    assert statistics.median(column("ways", "accuracy", arm="labels")) < 0.25
    assert max(column("ways", "accuracy", arm="labels_rl")) < 0.25


def test_seven_ways():
    """The list below the table of ways."""
    won = {arm: column("ways", "accuracy", arm=arm) for arm in tables.ARMS}
    teacher = float(shipped_teacher("cpu").about["games won"].split()[0])
    middle = {arm: statistics.median(each) for arm, each in won.items()}
    assert teacher < min(won["traces"])
    assert middle["traces"] < teacher + 0.015
    assert min(won["right"]) > 0.995
    assert all(
        row["writing"] == 0.7 for row in pick(tables.rows_of("ways"), arm="traces")
    )
    assert all(
        row["temperature"] == 2 for row in pick(tables.rows_of("ways"), arm="logits")
    )
    assert middle["logits"] == pytest.approx(teacher, abs=0.003)
    assert all(a < b for a, b in zip(won["rewards"], won["right"], strict=True))
    examples = column("examples", "accuracy")
    assert min(won["rewards"]) > max(examples) + 0.1
    assert "0.30" in tables.examples_line()
    worst, *others = sorted(won["on_policy"])
    assert round(worst, 2) == 0.46
    assert min(others) > 0.99
    assert tables.right_answer()[0] == "more than the teacher"
    assert statistics.median(column("ways", "steps", arm="on_policy")) < 750


def test_three_divergences():
    forward, jsd, reverse = (
        column("losses", "accuracy", arm=arm) for arm in ("forward", "jsd", "reverse")
    )
    for each in (forward, jsd, reverse):
        assert statistics.median(each) == pytest.approx(0.983, abs=0.003)
    assert sorted(reverse)[0] < 0.8 < sorted(reverse)[1]


def won(width, traces, times=1):
    name = "kept" if times == 1 else "longer"
    return column(name, "accuracy", width=width, traces=traces)


def test_how_small_a_student_may_be():
    """The answers below the explorer of sizes and traces."""
    teacher = float(shipped_teacher("cpu").about["games won"].split()[0])
    kept = {w: statistics.median(won(w, 2000)) for w in (4, 8, 16, 32, 64)}
    assert [w for w, median in kept.items() if median > teacher] == [8, 16, 32]
    assert 0.4 < kept[64] < 0.7
    sizes = [
        GPT(replace(PLANS["cpu"], width=width).config).parameter_count()
        for width in (4, 8)
    ]
    assert sizes == [368, 1104]
    assert PLANS["cpu"].game.after_SK.numel() == 50
    for traces in (60, 125, 250, 500, 2000):
        assert statistics.median(won(4, traces)) < 0.5
    chosen = {
        width: column("width_rates", "accuracy", width=width, lr=best_rate(width))
        for width in (4, 64)
    }
    assert [round(x, 2) for x in sorted(chosen[4])][::2] == [0.2, 0.95]
    assert [round(x, 2) for x in sorted(chosen[64])][::2] == [0.83, 0.93]
    assert round(min(won(16, 2000)), 2) == 0.4
    assert max(column("size", "accuracy", arm="labels")) < 0.25


def test_who_falls_first():
    for width in (8, 16, 32):
        assert min(won(width, 250)) > 0.98
    by_width = {w: statistics.median(won(w, 60)) for w in (4, 8, 16, 32, 64)}
    assert round(by_width.pop(8), 2) == 0.98
    assert min(won(8, 60)) < 0.2
    assert max(by_width.values()) < 0.2
    assert tables.few_answer()[0] == "width 8"
    updates = {w: statistics.median(column("kept", "steps", width=w)) for w in (8, 32)}
    assert updates[8] == pytest.approx(14_700, abs=100)
    assert updates[32] == pytest.approx(1070, abs=10)
    assert statistics.median(column("kept", "steps", width=64)) == pytest.approx(
        270, abs=6
    )


def test_wide_students_lack_updates():
    assert min(won(64, 2000, times=4)) > 0.99
    assert 0.4 < statistics.median(won(32, 60, times=14)) < 0.6
    assert max(won(32, 60)) < 0.2
    assert sum(a > max(won(32, 60, times=14)) for a in won(8, 60)) == 2


def test_tokens_and_scores_of_the_same_traces():
    teacher = float(shipped_teacher("cpu").about["games won"].split()[0])
    tokens, scores = (
        [row["accuracy"] for row in tables.same_traces(arm, 0.7)]
        for arm in ("right", "logits")
    )
    assert all(a < b for a, b in zip(scores, tokens, strict=True))
    assert scores == [pytest.approx(teacher, abs=0.005)] * 5
    for lr in RATES:
        by_arm = [
            statistics.fmean(column("scores", "accuracy", arm=arm, writing=0.7, lr=lr))
            for arm in ("right", "logits")
        ]
        assert by_arm[0] > by_arm[1], lr
    for arm in ("right", "logits"):
        assert max(column("data", "accuracy", arm=arm, traces=60)) < 0.2
        assert min(column("data", "accuracy", arm=arm, traces=250)) > 0.975
    assert tables.scores_answer()[0] == "as many, or fewer"


def test_bytes_and_speed():
    teacher, student = (pick(tables.rows_of("device"), arm=a) for a in tables.MODELS)
    assert 3.4 < teacher[0]["bytes"] / student[0]["bytes"] < 4
