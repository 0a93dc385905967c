"""Lab 05a's records: layouts, a switch, sharing, sums, schedules, load, batches."""

from __future__ import annotations

from labs.lab_04b.noise_runs import batch_row
from labs.lab_05a import balance_runs, layout_runs, share_runs, switch_runs
from labs.lab_05a.plan import (
    ARMS,
    BALANCE_ARMS,
    BATCH_RATES,
    FRESH,
    LINKS,
    PIECES,
    REPORTING,
    SCHEDULE_ARMS,
    SHARE_ARMS,
    SHARE_RATES,
    SWITCH_ARMS,
)
from labsupport.claims.record import Experiment
from labsupport.distributed.parallel.synchronise import WAYS

EXPERIMENTS = [
    Experiment(
        lab="05a",
        name="layouts",
        question="Every layout of four ranks: time, bytes sent and held, collectives.",
        run=layout_runs.layout_row,
        arms=tuple(ARMS),
        seeds=REPORTING,
        clocks=("ms",),
    ),
    Experiment(
        lab="05a",
        name="predict",
        question="Does a fitted model know which layout is fastest?",
        run=layout_runs.predict_row,
        arms=("two_ranks", "four_ranks"),
        seeds=REPORTING,
        clocks=(
            *("predicted_ms", "measured_ms", "alpha_us", "beta", "fixed_ms"),
            *("row_ms", "update_ms", "order", "regret"),
        ),
    ),
    Experiment(
        lab="05a",
        name="switch",
        question="Sequences grow in the middle of a training: does a change of layouts "
        "pay?",
        run=switch_runs.switch_row,
        arms=tuple(SWITCH_ARMS),
        seeds=REPORTING,
        claims=("hyb-switch",),
        clocks=switch_runs.CLOCKS,
    ),
    Experiment(
        lab="05a",
        name="share",
        question="One matrix for embedding and output layer: loss, bytes held, sent.",
        run=share_runs.share_row,
        arms=tuple(SHARE_ARMS),
        seeds=REPORTING,
        points=[{"lr": lr} for lr in SHARE_RATES],
        claims=("hyb-share",),
    ),
    Experiment(
        lab="05a",
        name="sync",
        question="Ways to sum gradients over two copies: time of a step, by link.",
        run=layout_runs.sync_row,
        arms=WAYS,
        seeds=REPORTING,
        claims=("hyb-sync",),
        clocks=tuple(f"ms_{name}" for name in LINKS),
    ),
    Experiment(
        lab="05a",
        name="schedules",
        question="Two stages' ranks: time of a step by schedule and microbatches.",
        run=layout_runs.schedule_row,
        arms=SCHEDULE_ARMS,
        seeds=REPORTING,
        points=[{"microbatches": m} for m in PIECES],
        clocks=("ms",),
    ),
    Experiment(
        lab="05a",
        name="balance",
        question="Two ranks, one three times slower, or by turns: what does "
        "balancing save?",
        run=balance_runs.balance_row,
        arms=tuple(BALANCE_ARMS),
        seeds=FRESH,
        claims=("hyb-balance",),
        clocks=balance_runs.CLOCKS,
    ),
    Experiment(
        lab="05a",
        name="batch",
        question="GPT: small, large or adaptive batches at equal sequences?",
        run=batch_row,
        arms=("small", "large", "adaptive"),
        seeds=FRESH,
        points=[{"lr": lr} for lr in BATCH_RATES],
        claims=("hyb-batch",),
    ),
]
