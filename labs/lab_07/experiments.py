"""Lab 07's records: what rewards add to a warm start, and who gives them."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch

from labs.lab_07.attempts import attempts_row
from labs.lab_07.boxes import boxes_start
from labs.lab_07.countdown import COUNTDOWN, countdown_start
from labs.lab_07.plan import RL_PLANS
from labs.lab_07.reward_model import (
    Proxy,
    agreement,
    fit_reward_model,
    rated,
)
from labs.lab_07.rewarding import lax, on_tokens, strict
from labs.lab_07.runs import (
    column,
    curve,
    examined,
    reinforced,
    warm_start,
)
from labs.lab_07.slips import slips_row
from labsupport import rl
from labsupport.claims.record import Experiment, load_record
from labsupport.settings import Scale

Row = dict[str, Any]

TUNING, REPORTING = (20, 21, 22), (5, 6, 7, 8, 9)
"""Seeds. The pilots had 900 and more; 0 to 4 were seen with a shorter warm start."""


def rl_row(run: rl.RLRun, game: Any, scale: Scale) -> Row:
    """What a training with rewards came to."""
    return {
        **examined(run.model, game, scale).row(),
        "reward_curve": curve(run, "reward"),
        "length_curve": curve(run, "length"),
        "entropy_curve": curve(run, "entropy"),
    }


# --- from random weights ----------------------------------------------------


@lru_cache(maxsize=1)
def improved(seed: int, scale: Scale) -> tuple[Row, Row]:
    """Warm start and training with rewards; kept for the row of the other arm."""
    began = time.perf_counter()
    warm_start.cache_clear()
    start = warm_start(seed, scale)
    warm = time.perf_counter() - began
    before = examined(start.model, start.game, scale).row()
    began = time.perf_counter()
    run = reinforced(start, seed, scale)
    rewarded = time.perf_counter() - began
    after = rl_row(run, start.game, scale)
    after["rewards"] = column(run, "reward")
    after |= slips_row(run.model, start.game, scale)
    before["spent"] = round(warm, 2)
    after["spent"] = round(warm + rewarded, 2)
    return before, after


def improve_row(arm: str, seed: int, scale: Scale) -> Row:
    """Accuracy, length, and seconds since there were random weights."""
    before, after = improved(seed, scale)
    return before if arm == "before" else after


def start_row(arm: str, seed: int, scale: Scale, *, amount: str) -> Row:
    """The same from a warm start that has read too little."""
    start = warm_start(seed, scale, "hasty", amount)
    if arm == "before":
        return examined(start.model, start.game, scale).row()
    return rl_row(reinforced(start, seed, scale), start.game, scale)


# --- a reward with a hole ----------------------------------------------------


def gamed_row(arm: str, seed: int, scale: Scale) -> Row:
    """From a teacher who hedges: what is paid, and what is right."""
    start = warm_start(seed, scale, "hedging")
    reward = on_tokens(lax if arm == "lax" else strict, start.game)
    run = reinforced(start, seed, scale, reward=reward)
    return rl_row(run, start.game, scale)


# --- people's ratings ----------------------------------------------------

PAIRS: dict[Scale, int] = {"ci": 200, "cpu": 4000, "gpu": 4000}
"""How many pairs the raters compare."""
RATERS = {"raters_0": 0.0, "raters_5": 0.05, "raters_20": 0.2}
RATES = (5e-4, 1e-3)
BETAS = (0.0, 0.3, 1.0, 3.0)
"""Of the KL penalty that holds a policy near its warm start."""


def judged_run(
    arm: str, seed: int, scale: Scale, lr: float, beta: float
) -> Row:
    """Train with the verifier's rewards, or with those of a reward model."""
    start = warm_start(seed, scale)
    row: Row = {"lr": lr, "beta": beta}
    proxy = None
    if arm in RATERS:
        ratings = rated(start, PAIRS[scale], RATERS[arm], seed)
        fresh = rated(start, PAIRS[scale] // 4, 0.0, seed + 1000)
        model = fit_reward_model(start, ratings, seed=seed, epochs=1)
        row["agreement"] = round(agreement(model, fresh), 4)
        proxy = Proxy(model, start.game)
    run = reinforced(
        start,
        seed,
        scale,
        replace(RL_PLANS[scale], lr=lr),
        reward=proxy,
        loss=replace(rl.GRPO, beta=beta, corrected=True),
        reference=start.model if beta else None,
    )
    row |= rl_row(run, start.game, scale)
    gold = column(run, "reward") if proxy is None else proxy.gold
    row["gold"] = [round(value, 4) for value in gold]
    return row


def rates_row(
    arm: str, seed: int, scale: Scale, *, lr: float, beta: float
) -> Row:
    """One learning rate and one penalty."""
    return judged_run(arm, seed, scale, lr, beta)


def best_setting(arm: str) -> tuple[float, float]:
    """The learning rate and beta with the highest mean accuracy in `rates`.

    All raters take that of the ones who err in 5 %.
    """
    asked = "raters_5" if arm in RATERS else arm
    rows = [
        row
        for row in load_record("07", "rates")["rows"]
        if row["arm"] == asked
    ]

    def merit(setting: tuple[float, float]) -> float:
        return statistics.fmean(
            row["accuracy"]
            for row in rows
            if (row["lr"], row["beta"]) == setting
        )

    return max(((lr, beta) for lr in RATES for beta in BETAS), key=merit)


def ratings_row(arm: str, seed: int, scale: Scale) -> Row:
    """Each at its best setting."""
    return judged_run(arm, seed, scale, *best_setting(arm))


def free_row(arm: str, seed: int, scale: Scale) -> Row:
    """Nothing holds the policy, and the learning rate is the verifier's."""
    return judged_run(arm, seed, scale, 1e-3, 0.0)


# --- the ladder, and the losses ----------------------------------------------------

TWICE = {"updates": 2, "minibatches": 2}
LADDER: dict[str, dict[str, Any]] = {
    "reinforce": {"loss": rl.REINFORCE, "advantage": rl.no_baseline},
    "batch": {"loss": rl.REINFORCE, "advantage": rl.batch_baseline},
    "group": {"loss": rl.REINFORCE, "advantage": rl.group_advantages},
    "again": {
        "loss": rl.REINFORCE,
        "advantage": rl.group_advantages,
        **TWICE,
    },
    "clip": {"loss": rl.GRPO, "advantage": rl.group_advantages, **TWICE},
    "kl": {
        "loss": replace(rl.GRPO, beta=0.04, corrected=True),
        "advantage": rl.group_advantages,
        **TWICE,
    },
}
"""Each adds one thing to the one before."""
LOSSES: dict[str, dict[str, Any]] = {
    "GRPO": {"loss": rl.GRPO},
    "Dr. GRPO": {
        "loss": rl.DR_GRPO,
        "advantage": partial(rl.group_advantages, std="none"),
    },
    "DAPO": {"loss": rl.DAPO},
    "GSPO": {"loss": rl.GSPO},
    "CISPO": {"loss": rl.CISPO},
}


def variant_row(
    arm: str, seed: int, scale: Scale, variants: dict[str, dict[str, Any]]
) -> Row:
    """From the same warm start, with as many rollouts."""
    start = warm_start(seed, scale)
    options = dict(variants[arm])
    if options["loss"].beta:
        options["reference"] = start.model
    run = reinforced(start, seed, scale, **options)
    clipped = [v for v in column(run, "clipped") if v == v]
    return {
        **rl_row(run, start.game, scale),
        "clipped": round(statistics.fmean(clipped), 4) if clipped else None,
    }


def ladder_row(arm: str, seed: int, scale: Scale) -> Row:
    """One rung."""
    return variant_row(arm, seed, scale, LADDER)


def losses_row(arm: str, seed: int, scale: Scale) -> Row:
    """One loss, two passes over each rollout in two parts."""
    variants = {name: {**given, **TWICE} for name, given in LOSSES.items()}
    return variant_row(arm, seed, scale, variants)


# --- other games ----------------------------------------------------


def boxes_row(arm: str, seed: int, scale: Scale) -> Row:
    """Boxes: how long it goes on looking."""
    start = boxes_start(seed, scale)
    if arm == "before":
        row = examined(start.model, start.game, scale).row()
        return row | attempts_row(start.model, start.game, scale)
    torch.manual_seed(seed)
    steps = 90 if scale != "ci" else 10
    plan = replace(RL_PLANS[scale], steps=steps)
    run = reinforced(start, seed, scale, plan)
    row = rl_row(run, start.game, scale)
    return row | attempts_row(run.model, start.game, scale)


def countdown_row(arm: str, seed: int, scale: Scale) -> Row:
    """Countdown: whether rewards teach to aim."""
    start = countdown_start(seed, scale)
    if arm == "before":
        return examined(start.model, start.game, scale).row()
    run = reinforced(start, seed, scale, COUNTDOWN[scale].rewards)
    return rl_row(run, start.game, scale)


EXPERIMENTS = [
    Experiment(
        lab="07",
        name="improve",
        sampled=True,
        question="From random weights: what do rewards add to a warm start?",
        run=improve_row,
        arms=("before", "after"),
        seeds=REPORTING,
        claims=("rl-no-human",),
        clocks=("spent",),
    ),
    Experiment(
        lab="07",
        name="start",
        sampled=True,
        question="A warm start that has read less: what do rewards do to it?",
        run=start_row,
        arms=("before", "after"),
        seeds=REPORTING,
        points=[{"amount": "too little"}, {"amount": "some"}],
    ),
    Experiment(
        lab="07",
        name="gamed",
        sampled=True,
        question="A reward with a hole, and one without: what is paid, what is right?",
        run=gamed_row,
        arms=("strict", "lax"),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="07",
        name="rates",
        sampled=True,
        question="Which learning rate and which KL penalty suit whose rewards?",
        run=rates_row,
        arms=("verifier", "raters_5"),
        seeds=TUNING,
        points=[{"lr": lr, "beta": beta} for lr in RATES for beta in BETAS],
    ),
    Experiment(
        lab="07",
        name="ratings",
        sampled=True,
        question="A verifier's rewards, or a model of raters': what is learned?",
        run=ratings_row,
        arms=("verifier", *RATERS),
        seeds=REPORTING,
        claims=("rl-no-human",),
    ),
    Experiment(
        lab="07",
        name="free",
        sampled=True,
        question="A reward model that is maximised without restraint.",
        run=free_row,
        arms=("raters_5",),
        seeds=REPORTING,
    ),
    Experiment(
        lab="07",
        name="ladder",
        sampled=True,
        question="From REINFORCE to GRPO, one part at a time.",
        run=ladder_row,
        arms=tuple(LADDER),
        seeds=REPORTING,
    ),
    Experiment(
        lab="07",
        name="losses",
        sampled=True,
        question="Five losses from the same warm starts.",
        run=losses_row,
        arms=tuple(LOSSES),
        seeds=REPORTING,
    ),
    Experiment(
        lab="07",
        name="boxes",
        sampled=True,
        question="A task in which going on pays: does it write more?",
        run=boxes_row,
        arms=("before", "after"),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="07",
        name="countdown",
        sampled=True,
        question="Calculating was in the examples: do rewards teach to aim?",
        run=countdown_row,
        arms=("before", "after"),
        seeds=REPORTING[:3],
    ),
]
