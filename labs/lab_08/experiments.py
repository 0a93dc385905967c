"""Lab 08's records: ways to teach a student, its size, its data, text, its speed."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

from labs.lab_07.runs import examined
from labs.lab_08.plan import PLANS
from labs.lab_08.students import ARMS, Course, Student, newborn
from labs.lab_08.teacher import shipped_teacher
from labs.lab_08.text import STUDENTS, taught_by_text, text_teacher
from labsupport.claims.record import Experiment, load_record
from labsupport.distill.compute import weights
from labsupport.generate import generate
from labsupport.nn import GPT
from labsupport.settings import Scale

Row = dict[str, Any]

TUNING, REPORTING = (20, 21, 22), (0, 1, 2, 3, 4)
"""Seeds. The pilots had 900 and more."""
RATES = (1e-3, 3e-3, 1e-2)
KNOBS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "labels": ({"batch_size": 128}, {"batch_size": 64}),
    "traces": ({"batch_size": 128}, {"batch_size": 64}),
    "right": ({"batch_size": 128}, {"batch_size": 64}),
    "logits": ({"temperature": 1.0}, {"temperature": 2.0}),
    "on_policy": ({"share": 0.5}, {"share": 0.75}),
    "rewards": ({"share": 0.5}, {"share": 0.75}),
    "labels_rl": ({"share": 0.5}, {"share": 0.75}),
}
"""What else is tried for each way, so that each has six settings."""
WIDTHS = (8, 16, 24, 48)
"""Of students, beside the 32 of the other records."""
COUNTS = (60, 250, 1000)
"""Traces that the teacher writes, beside the 2000."""


def student_row(student: Student, course: Course, scale: Scale) -> Row:
    """What a student can do, and what it cost."""
    spent = student.compute.spent
    return {
        **examined(student.model, course.plan.game, scale).row(),
        "steps": student.steps,
        "flops": round(sum(spent.values()) / 1e9, 3),
        "teacher_share": round(
            spent.get("teacher writes", 0.0) / sum(spent.values()), 4
        ),
        "lr": course.lr,
    }


def taught(
    arm: str,
    seed: int,
    scale: Scale,
    setting: tuple[float, int],
    **changed: Any,
) -> Row:
    """One student, by one way to learn.

    Args:
        setting: the learning rate, and which of the arm's two KNOBS.
        changed: of the plan.
    """
    lr, knob = setting
    turned = dict(KNOBS[arm][knob])
    if "batch_size" in turned:
        # At scale ci, a half of that scale's.
        changed["batch_size"] = PLANS[scale].batch_size // (1 + knob)
        del turned["batch_size"]
    plan = replace(PLANS[scale], **changed)
    course = Course(shipped_teacher(scale).model, plan, seed, lr, **turned)
    began = time.perf_counter()
    student: Student = getattr(course, arm)()
    spent = time.perf_counter() - began
    return student_row(student, course, scale) | {"spent": round(spent, 2)}


def rates_row(
    arm: str, seed: int, scale: Scale, *, lr: float, knob: int
) -> Row:
    """One setting."""
    return taught(arm, seed, scale, (lr, knob))


@lru_cache
def best_setting(arm: str) -> tuple[float, int]:
    """The learning rate and knob with the highest mean accuracy in `rates`."""
    rows = [r for r in load_record("08", "rates")["rows"] if r["arm"] == arm]

    def merit(setting: tuple[float, int]) -> float:
        return statistics.fmean(
            r["accuracy"] for r in rows if (r["lr"], r["knob"]) == setting
        )

    return max(((lr, knob) for lr in RATES for knob in (0, 1)), key=merit)


def ways_row(arm: str, seed: int, scale: Scale) -> Row:
    """Each at its best setting."""
    lr, knob = best_setting(arm)
    return taught(arm, seed, scale, (lr, knob)) | {"knob": knob}


def losses_row(arm: str, seed: int, scale: Scale) -> Row:
    """Scores on the same right traces, compared in three ways."""
    beta = {"forward": 0.0, "jsd": 0.5, "reverse": 1.0}[arm]
    lr, knob = best_setting("logits")
    turned = KNOBS["logits"][knob]
    teacher = shipped_teacher(scale).model
    course = Course(teacher, PLANS[scale], seed, lr, **turned)
    return student_row(course.logits(beta), course, scale)


def size_row(arm: str, seed: int, scale: Scale, *, width: int) -> Row:
    """Students of other widths, with as many FLOPs."""
    return taught(arm, seed, scale, best_setting(arm), width=width)


def data_row(arm: str, seed: int, scale: Scale, *, traces: int) -> Row:
    """Fewer traces, with as many FLOPs: they are read more often."""
    return taught(arm, seed, scale, best_setting(arm), traces=traces)


# --- text ----------------------------------------------------------------------

TEXT_ARMS = ("labels", "labels_more", "1", "2", "4", "half")


def text_row(
    arm: str, seed: int, scale: Scale, *, little: bool, lr: float
) -> Row:
    """A student of text."""
    teacher = text_teacher(scale).model
    began = time.perf_counter()
    _, loss, compute = taught_by_text(
        teacher, arm, seed, STUDENTS[scale], lr=lr, little=little
    )
    return {
        "loss": round(loss, 4),
        "flops": round(sum(compute.spent.values()) / 1e9, 2),
        "spent": round(time.perf_counter() - began, 2),
    }


# --- on this machine -----------------------------------------------------------

TEXTS = (1, 16, 256)


def device_row(arm: str, seed: int, scale: Scale) -> Row:
    """Bytes of weights, and tokens a second, of teacher and student."""
    plan = PLANS[scale]
    model = (
        shipped_teacher(scale).model
        if arm == "teacher"
        else newborn(seed, plan)
    )
    row: Row = {
        "weights": weights(model),
        "bytes": 4 * model.parameter_count(),
    }
    for texts in TEXTS:
        row[f"rate_{texts}"] = round(
            tokens_a_second(model, scale, texts, seed), 1
        )
    return row


def tokens_a_second(model: GPT, scale: Scale, texts: int, seed: int) -> float:
    """How fast it writes so many texts at once, none of which ends early."""
    game = PLANS[scale].game
    prompts = game.prompts(texts, seed=seed, split="validation")
    repeats = max(3, 256 // texts) if scale != "ci" else 3
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        # No token ends a text: both write as many, whatever they have learned.
        generate(
            model,
            prompts,
            longest=game.longest,
            eos=-1,
            pad=game.pad,
            seeds=seed,
        )
        times.append(time.perf_counter() - began)
    return texts * game.longest / statistics.median(times)


EXPERIMENTS = [
    Experiment(
        lab="08",
        name="rates",
        question="Which of six settings suits which way to learn?",
        run=rates_row,
        arms=ARMS,
        seeds=TUNING,
        points=[{"lr": lr, "knob": knob} for lr in RATES for knob in (0, 1)],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="ways",
        question="Seven ways to teach a student, at the same cost.",
        run=ways_row,
        arms=ARMS,
        seeds=REPORTING,
        claims=("kd",),
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="losses",
        question="Forward, reverse, or between: the same scores, compared otherwise.",
        run=losses_row,
        arms=("forward", "jsd", "reverse"),
        seeds=REPORTING,
    ),
    Experiment(
        lab="08",
        name="size",
        question="How small may a student be?",
        run=size_row,
        arms=("right", "labels"),
        seeds=REPORTING[:3],
        points=[{"width": width} for width in WIDTHS],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="data",
        question="How many traces does a student need?",
        run=data_row,
        arms=("right", "logits"),
        seeds=REPORTING[:3],
        points=[{"traces": count} for count in COUNTS],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="text",
        question="On text: do a teacher's scores say more than the text?",
        run=text_row,
        arms=TEXT_ARMS,
        seeds=REPORTING[:3],
        points=[
            {"little": little, "lr": lr}
            for little in (False, True)
            for lr in (3e-3, 1e-2)
        ],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="device",
        question="Bytes and tokens a second, of teacher and student.",
        run=device_row,
        arms=("teacher", "student"),
        seeds=REPORTING,
        claims=("kd-device",),
        clocks=tuple(f"rate_{texts}" for texts in TEXTS),
    ),
]
