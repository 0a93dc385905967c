"""Lab 08's records: ways to teach a student, its size, its data, text, its speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from labs.lab_07.runs import examined
from labs.lab_07.teachers import TEACHERS
from labs.lab_08.plan import PLANS, StudentPlan
from labs.lab_08.students import ARMS, Course, Student, newborn
from labs.lab_08.teacher import shipped_teacher
from labs.lab_08.text import STUDENTS, taught_by_text, text_teacher
from labsupport.claims.record import Experiment, load_record
from labsupport.distill.compute import weights
from labsupport.generate import generate
from labsupport.nn import GPT
from labsupport.settings import Scale
from labsupport.tasks.game import Game

Row = dict[str, Any]

TUNING, REPORTING = (20, 21, 22), (0, 1, 2, 3, 4)
"""Seeds. The pilots had 900 and more."""
RATES = (5e-3, 1e-2, 2e-2)


def six(
    first: str, values: Sequence[float], second: str, two: Sequence[float]
) -> Any:
    """Six settings: three of one number, each with two of another."""
    return tuple({first: a, second: b} for a in values for b in two)


SETTINGS: Mapping[str, tuple[dict[str, float], ...]] = {
    "labels": six("lr", RATES, "batch_share", (1.0, 2.0)),
    "traces": six("lr", RATES, "writing", (1.0, 0.7)),
    "right": six("lr", RATES, "writing", (1.0, 0.7)),
    "logits": six("lr", RATES, "temperature", (1.0, 2.0)),
    "on_policy": six("lr", RATES, "share", (0.5, 0.75)),
    "rewards": six("rl_lr", (3e-4, 1e-3, 3e-3), "share", (0.5, 0.75)),
    "labels_rl": six("rl_lr", (3e-4, 1e-3, 3e-3), "share", (0.5, 0.75)),
}
"""What is tried for each way to learn: as many settings for each.

A first grid (rates 0.001 to 0.01) had batches of 128, or of 64 for the first three ways
alone. The highest rate and the smaller batch won wherever they were offered, so now all
have batches of 64 and higher rates, and examples before rewards are learned at 0.01."""
WIDTHS = (8, 16, 24, 48)
"""Of students, beside the 32 of the other records."""
COUNTS = (60, 250, 1000)
"""Traces that the teacher writes, beside the 2000."""
GRID_WIDTHS, GRID_COUNTS = (4, 8, 16, 32, 64), (60, 125, 250, 500, 2000)
"""Of the grid of sizes and traces; the teacher has width 64."""
WIDTH_RATES = (2.5e-3, 5e-3, 1e-2, 2e-2)
"""Every width of the grid has its best one: in a pilot the rate that suits width 32,
0.02, left width 4 with nothing."""


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
    }


def course_with(
    arm: str,
    setting: int,
    teacher: GPT,
    plan: StudentPlan,
    seed: int,
    live: bool = False,
) -> Course:
    """A student's course at one of its arm's SETTINGS."""
    turned: dict[str, Any] = dict(SETTINGS[arm][setting])
    if batch_share := turned.pop("batch_share", None):
        plan = replace(plan, batch_size=int(batch_share * plan.batch_size))
    return Course(teacher, plan, seed, live=live, **turned)


def best_course(
    arm: str, teacher: GPT, plan: StudentPlan, seed: int
) -> Course:
    """The setting that won in `rates`, shown while it trains."""
    return course_with(arm, best_setting(arm), teacher, plan, seed, live=True)


def course_of(
    arm: str, seed: int, scale: Scale, setting: int, **changed: Any
) -> Course:
    """The same with the shipped teacher.

    Args:
        changed: of the plan.
    """
    plan = replace(PLANS[scale], **changed)
    teacher = shipped_teacher(scale).model
    return course_with(arm, setting, teacher, plan, seed)


def taught(
    arm: str, seed: int, scale: Scale, setting: int, **changed: Any
) -> Row:
    """One student, by one way to learn."""
    course = course_of(arm, seed, scale, setting, **changed)
    began = time.perf_counter()
    student: Student = getattr(course, arm)()
    spent = time.perf_counter() - began
    row = student_row(student, course, scale)
    return row | SETTINGS[arm][setting] | {"spent": round(spent, 2)}


def rates_row(arm: str, seed: int, scale: Scale, *, setting: int) -> Row:
    """One setting."""
    return taught(arm, seed, scale, setting)


@lru_cache
def best_setting(arm: str) -> int:
    """The one with the highest mean accuracy in `rates`."""
    rows = [r for r in load_record("08", "rates")["rows"] if r["arm"] == arm]
    return int(best_of(range(len(SETTINGS[arm])), rows, "setting"))


def ways_row(arm: str, seed: int, scale: Scale) -> Row:
    """Each at its best setting."""
    return taught(arm, seed, scale, best_setting(arm))


def examples_row(arm: str, seed: int, scale: Scale, *, lr: float) -> Row:
    """The examples that come before rewards, for the whole budget."""
    teacher = shipped_teacher(scale).model
    course = Course(teacher, PLANS[scale], seed, lr=lr)
    student = Student(*course.from_writer(TEACHERS["hasty"]))
    return student_row(student, course, scale)


def losses_row(arm: str, seed: int, scale: Scale) -> Row:
    """Scores on the same right traces, compared in three ways."""
    beta = {"forward": 0.0, "jsd": 0.5, "reverse": 1.0}[arm]
    course = course_of("logits", seed, scale, best_setting("logits"))
    return student_row(course.logits(beta), course, scale)


def size_row(arm: str, seed: int, scale: Scale, *, width: int) -> Row:
    """Students of other widths, with as many FLOPs."""
    return taught(arm, seed, scale, best_setting(arm), width=width)


# --- tokens or scores ------------------------------------------------------------


WRITING = 0.7
"""Where tokens and scores of the same traces are compared, as suits tokens best."""


def scores_row(
    arm: str,
    seed: int,
    scale: Scale,
    *,
    writing: float,
    lr: float,
    **changed: Any,
) -> Row:
    """Tokens or scores of the very same right traces."""
    best = SETTINGS["logits"][best_setting("logits")]
    course = Course(
        shipped_teacher(scale).model,
        replace(PLANS[scale], **changed),
        seed,
        lr=lr,
        temperature=best["temperature"],
        writing=writing,
    )
    student: Student = getattr(course, arm)()
    return student_row(student, course, scale)


@lru_cache
def scores_rate(arm: str) -> float:
    """The learning rate that won in `scores`."""
    rows = [
        row
        for row in load_record("08", "scores")["rows"]
        if (row["arm"], row["writing"]) == (arm, WRITING)
    ]
    return float(best_of(RATES, rows, "lr"))


def data_row(arm: str, seed: int, scale: Scale, *, traces: int) -> Row:
    """The same with fewer traces and as many FLOPs: they are read more often."""
    lr = scores_rate(arm)
    return scores_row(
        arm, seed, scale, writing=WRITING, lr=lr, traces=traces
    ) | {"lr": lr}


def best_of(values: Sequence[Any], rows: Sequence[Row], name: str) -> Any:
    """The value of a setting with the highest mean accuracy."""

    def merit(value: Any) -> float:
        return statistics.fmean(
            row["accuracy"] for row in rows if row[name] == value
        )

    return max(values, key=merit)


# --- size and traces -------------------------------------------------------------


def width_row(
    arm: str, seed: int, scale: Scale, *, width: int, lr: float
) -> Row:
    """A width at one learning rate, with all traces."""
    return right_traces(arm, seed, scale, lr=lr, width=width)


@lru_cache
def best_rate(width: int) -> float:
    """The one with the highest mean accuracy in `width_rates`."""
    rows = [
        row
        for row in load_record("08", "width_rates")["rows"]
        if row["width"] == width
    ]
    return float(best_of(WIDTH_RATES, rows, "lr"))


def kept_row(
    arm: str, seed: int, scale: Scale, *, width: int, traces: int
) -> Row:
    """A width at its best rate, with fewer traces."""
    lr = best_rate(width)
    return right_traces(arm, seed, scale, lr=lr, width=width, traces=traces)


def longer_row(
    arm: str, seed: int, scale: Scale, *, width: int, traces: int, times: int
) -> Row:
    """Some cell of the grid with a multiple of the FLOPs."""
    budget = times * PLANS[scale].budget
    lr = best_rate(width)
    changed = {"width": width, "traces": traces, "budget": budget}
    return right_traces(arm, seed, scale, lr=lr, **changed)


def right_traces(
    arm: str, seed: int, scale: Scale, lr: float, **changed: Any
) -> Row:
    """A student of right traces, written as suited best in `rates`."""
    writing = SETTINGS[arm][best_setting(arm)]["writing"]
    plan = replace(PLANS[scale], **changed)
    teacher = shipped_teacher(scale).model
    course = Course(teacher, plan, seed, lr=lr, writing=writing)
    began = time.perf_counter()
    student: Student = getattr(course, arm)()
    spent = time.perf_counter() - began
    return student_row(student, course, scale) | {
        "weights": weights(student.model),
        "lr": lr,
        "spent": round(spent, 2),
    }


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
        repeats = max(3, 256 // texts) if scale != "ci" else 3
        row[f"rate_{texts}"] = round(
            tokens_a_second(model, plan.game, texts, seed, repeats), 1
        )
    return row


def tokens_a_second(
    model: GPT, game: Game, texts: int, seed: int, repeats: int
) -> float:
    """How fast it writes so many texts at once: the median of some repeats."""
    prompts = game.prompts(texts, seed=seed, split="validation")
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
        sampled=True,
        question="Which of six settings suits which way to learn?",
        run=rates_row,
        arms=ARMS,
        seeds=TUNING,
        points=[{"setting": setting} for setting in range(6)],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="ways",
        sampled=True,
        question="Seven ways to teach a student, at the same cost.",
        run=ways_row,
        arms=ARMS,
        seeds=REPORTING,
        claims=("kd",),
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="examples",
        sampled=True,
        question="What do the examples before rewards teach alone?",
        run=examples_row,
        arms=("examples",),
        seeds=REPORTING,
        points=[{"lr": lr} for lr in RATES],
    ),
    Experiment(
        lab="08",
        name="losses",
        sampled=True,
        question="Forward, reverse, or between: the same scores, compared otherwise.",
        run=losses_row,
        arms=("forward", "jsd", "reverse"),
        seeds=REPORTING,
    ),
    Experiment(
        lab="08",
        name="scores",
        sampled=True,
        question="Tokens or scores of the same traces, written at two temperatures?",
        run=scores_row,
        arms=("right", "logits"),
        seeds=REPORTING,
        points=[
            {"writing": writing, "lr": lr}
            for writing in (1.0, WRITING)
            for lr in RATES
        ],
    ),
    Experiment(
        lab="08",
        name="data",
        sampled=True,
        question="Tokens or scores, from how many traces?",
        run=data_row,
        arms=("right", "logits"),
        seeds=REPORTING[:3],
        points=[{"traces": count} for count in COUNTS],
    ),
    Experiment(
        lab="08",
        name="size",
        sampled=True,
        question="Does width help answers alone? Right traces beside them.",
        run=size_row,
        arms=("right", "labels"),
        seeds=REPORTING[:3],
        points=[{"width": width} for width in WIDTHS],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="width_rates",
        sampled=True,
        question="Which learning rate suits which width of a student?",
        run=width_row,
        arms=("right",),
        seeds=TUNING,
        points=[
            {"width": width, "lr": lr}
            for width in GRID_WIDTHS
            for lr in WIDTH_RATES
        ],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="kept",
        sampled=True,
        question="How small may a student be, and from how many traces?",
        run=kept_row,
        arms=("right",),
        seeds=REPORTING[:3],
        points=[
            {"width": width, "traces": traces}
            for width in GRID_WIDTHS
            for traces in GRID_COUNTS
        ],
        clocks=("spent",),
    ),
    Experiment(
        lab="08",
        name="longer",
        sampled=True,
        question="Do wide students lack only updates? As many as width 8 or 32 has.",
        run=longer_row,
        arms=("right",),
        seeds=REPORTING[:3],
        points=[
            {"width": 32, "traces": GRID_COUNTS[0], "times": 14},
            {"width": 64, "traces": GRID_COUNTS[-1], "times": 4},
        ],
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
