"""What the text of lab 08 says of its records holds in the records."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from labs.lab_08 import record_tables as tables
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
    assert min(won["rewards"]) > 0.45
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


def test_no_student_was_too_small():
    teacher = shipped_teacher("cpu").model.parameter_count()
    smallest = GPT(replace(PLANS["cpu"], width=8).config).parameter_count()
    assert (smallest, teacher) == (1104, 49_856)
    for width in (8, 16, 24):
        assert min(column("size", "accuracy", arm="right", width=width)) > 0.98
    widest = column("size", "accuracy", arm="right", width=48)
    assert min(widest) < 0.9
    assert max(column("size", "accuracy", arm="labels")) < 0.25
    game = PLANS["cpu"].game
    assert game.after_SK.numel() == 50


def test_a_few_hundred_traces():
    def won(arm, traces):
        return column("data", "accuracy", arm=arm, traces=traces)

    assert max(won("right", 60) + won("logits", 60)) < 0.2
    assert min(won("right", 250)) > 0.98
    assert statistics.median(won("logits", 250)) < 0.75
    assert min(won("logits", 1000)) > 0.97


def test_bytes_and_speed():
    teacher, student = (pick(tables.rows_of("device"), arm=a) for a in tables.MODELS)
    assert 3.4 < teacher[0]["bytes"] / student[0]["bytes"] < 4
