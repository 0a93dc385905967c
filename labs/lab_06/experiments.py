"""Lab 06's records: steps against direct answers, and whether steps are used."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from labs.lab_06.plan import GAMES, HASTY, PLANS, ThinkerPlan
from labs.lab_06.sampler import read_again
from labs.lab_06.thinker import Thinker, train_thinker
from labs.lab_06.traces import edits, shares
from labs.lab_06.voting import sampled_answers, voted_accuracy
from labs.lab_06.writers import WRITERS
from labsupport.claims.record import Experiment, load_record
from labsupport.generate import generate
from labsupport.nn import GPT
from labsupport.rl import accuracy
from labsupport.settings import Scale
from labsupport.tasks.shell_game import ShellGame
from labsupport.train import train

Row = dict[str, Any]

ARMS = ("every", "every_2", "every_4", "filler", "direct")
RATES = (1e-3, 2e-3, 4e-3)
TUNING, REPORTING = (20, 21, 22), (0, 1, 2, 3, 4)
"""Seeds. The pilots had 900 and more."""


def sized(scale: Scale, **changes: Any) -> ThinkerPlan:
    """The plan of a scale, changed at scales cpu and gpu; ci stays small."""
    plan = PLANS[scale]
    return plan if scale == "ci" else replace(plan, **changes)


# --- equal models, equal tokens --------------------------------------------------

TWO_LAYERS = {"layers": 2, "tokens": 2_000_000}


def trained_row(thinker: Thinker, scale: Scale) -> Row:
    """How a model does on fresh games, and what its training was."""
    last = thinker.run.metrics[-10:]
    return {
        "accuracy": round(thinker.accuracy(GAMES[scale], seed=1), 4),
        "loss": round(statistics.fmean(row["loss"] for row in last), 4),
        "steps": len(thinker.run.metrics),
        "weights": sum(w.numel() for w in thinker.model.parameters()),
    }


def tune_row(arm: str, seed: int, scale: Scale, *, lr: float) -> Row:
    """Two layers, one learning rate."""
    plan = sized(scale, lr=lr, **TWO_LAYERS)
    return trained_row(train_thinker(arm, seed, plan), scale)


def best_rate(arm: str) -> float:
    """The rate with the highest mean accuracy in `tune`; of equals, the lowest loss."""
    rows = [
        row for row in load_record("06", "tune")["rows"] if row["arm"] == arm
    ]

    def merit(lr: float) -> tuple[float, float]:
        mine = [row for row in rows if row["lr"] == lr]
        mean = {
            name: statistics.fmean(row[name] for row in mine)
            for name in ("accuracy", "loss")
        }
        return mean["accuracy"], -mean["loss"]

    return max(RATES, key=merit)


def gap_row(arm: str, seed: int, scale: Scale) -> Row:
    """Two layers, each arm at its own best rate."""
    lr = best_rate(arm)
    plan = sized(scale, lr=lr, **TWO_LAYERS)
    return {"lr": lr, **trained_row(train_thinker(arm, seed, plan), scale)}


# --- depth -----------------------------------------------------------------------

DEPTHS = ("every_1", "direct_1", "direct_2", "direct_4")
"""How it answers, and with how many layers."""


def depth_row(arm: str, seed: int, scale: Scale, *, swaps: int) -> Row:
    """Few swaps, by the number of layers."""
    writer, layers = arm.split("_")
    plan = sized(scale, swaps=swaps, layers=int(layers), lr=2e-3)
    return trained_row(train_thinker(writer, seed, plan), scale)


def deep_row(arm: str, seed: int, scale: Scale) -> Row:
    """Eight swaps."""
    return depth_row(arm, seed, scale, swaps=8)


# --- longer games than were learned ----------------------------------------------

LENGTHS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24)
LEARNED = (4, 6, 8, 10, 12)


def length_row(arm: str, seed: int, scale: Scale) -> Row:
    """Every state; learned from 12 swaps only, or from several numbers of swaps.

    "mixed_2" has two layers, and twice the tokens.

    Returns:
        accuracy: one for each of LENGTHS.
    """
    plan = PLANS[scale]
    if arm == "mixed_2":
        plan = sized(scale, lr=2e-3, **TWO_LAYERS)
    learned = (LEARNED[-1],) if arm == "fixed" else LEARNED
    games = [ShellGame(swaps=swaps) for swaps in learned]
    torch.manual_seed(seed)
    config = replace(plan.config, max_len=ShellGame(swaps=LENGTHS[-1]).max_len)
    model = GPT(config)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        game = games[step % len(games)]
        return game.batch(
            WRITERS["every"], step, batch_size=plan.batch_size, seed=seed
        )

    mean = statistics.fmean(2 * game.swaps + 4 for game in games)
    train(model, batch, steps=plan.steps(round(mean)), lr=plan.lr, live=False)
    found = [
        accuracy(
            model,
            ShellGame(swaps=swaps),
            count=GAMES[scale],
            temperature=0,
            seed=1,
        )
        for swaps in LENGTHS
    ]
    return {"accuracy": [round(share, 4) for share in found]}


# --- are the steps used? -----------------------------------------------------------

EASY = {"swaps": 3, "layers": 2, "lr": 2e-3}
"""Two layers can answer three swaps directly."""
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "needed": ("every", {}),
    "easy": ("every", EASY),
    "carried": ("carried", EASY),
    "mended": ("mended", EASY),
    "forced": ("mended", {}),
}
"""What it learned from, and the changes of its plan."""


@lru_cache(maxsize=1)
def edited(model: str, seed: int, scale: Scale) -> dict[str, float]:
    """Train a model and change its traces; kept for the row of the other arm."""
    writer, changes = MODELS[model]
    thinker = train_thinker(writer, seed, sized(scale, **changes))
    right = thinker.accuracy(GAMES[scale], seed=1)
    found = edits(thinker, GAMES[scale], seed=2)
    return {"accuracy": round(right, 4), **shares(found)}


def faithful_row(arm: str, seed: int, scale: Scale, *, model: str) -> Row:
    """The share of answers that follow a changed state, or stay."""
    found = edited(model, seed, scale)
    return {"share": found[arm], "accuracy": found["accuracy"]}


# --- several answers -----------------------------------------------------------------

VOTES = (1, 2, 4, 8, 16, 32, 64)
TEMPERATURES = (0.3, 0.6, 1.0, 1.5)


def voting_row(arm: str, seed: int, scale: Scale) -> Row:
    """A model that thinks in some games only, and slips.

    Returns:
        accuracy_T: by a vote of each of VOTES, answers sampled at temperature T.
        greedy: accuracy of the likeliest tokens.
    """
    thinker = train_thinker(arm, seed, HASTY[scale])
    games, samples = (256, VOTES[-1]) if scale != "ci" else (8, 4)
    row: Row = {"greedy": round(thinker.accuracy(GAMES[scale], seed=1), 4)}
    for T in TEMPERATURES:
        right, said = sampled_answers(
            thinker, games, samples, temperature=T, seed=1
        )
        row[f"accuracy_{T:g}"] = [
            round(voted_accuracy(right, said, votes), 4) for votes in VOTES
        ]
    return row


# --- the cache ---------------------------------------------------------------------

TEXTS = (1, 16, 256)


def writing_row(arm: str, seed: int, scale: Scale) -> Row:
    """Tokens a second for 1, 16 and 256 texts, with keys and values kept or not."""
    plan = PLANS[scale]
    torch.manual_seed(seed)
    model, game = GPT(plan.config).eval(), plan.game
    row: Row = {}
    for texts in TEXTS:
        prompts_PT = game.prompts(texts, seed=seed)
        spent = []
        for _ in range(1 if scale == "ci" else 7):
            began = time.perf_counter()
            if arm == "kept":
                write_all(model, game, prompts_PT)
            else:
                read_again(model, prompts_PT, game.longest)
            spent.append(time.perf_counter() - began)
        rate = texts * game.longest / statistics.median(spent)
        row[f"rate_{texts}"] = round(rate)
    return row


def write_all(
    model: GPT, game: ShellGame, prompts_PT: torch.Tensor
) -> torch.Tensor:
    """tokens_RN: the likeliest ones; no row ends early."""
    nothing = len(game.vocabulary)  # which no model says
    written = generate(
        model,
        prompts_PT,
        longest=game.longest,
        eos=nothing,
        pad=nothing,
        temperature=0.0,
    )
    return written.tokens_RN


EXPERIMENTS = [
    Experiment(
        lab="06",
        name="tune",
        sampled=True,
        question="Shell game of 12 swaps, two layers: which learning rate suits whom?",
        run=tune_row,
        arms=ARMS,
        seeds=TUNING,
        points=[{"lr": lr} for lr in RATES],
    ),
    Experiment(
        lab="06",
        name="gap",
        sampled=True,
        question="Equal models, equal tokens: does it help to write states down?",
        run=gap_row,
        arms=ARMS,
        seeds=REPORTING,
        claims=("cot",),
    ),
    Experiment(
        lab="06",
        name="depth",
        sampled=True,
        question="How many layers does a direct answer need for 2 and for 4 swaps?",
        run=depth_row,
        arms=DEPTHS,
        seeds=REPORTING[:3],
        points=[{"swaps": 2}, {"swaps": 4}],
    ),
    Experiment(
        lab="06",
        name="deep",
        sampled=True,
        question="8 swaps: one layer with steps, or four without?",
        run=deep_row,
        arms=DEPTHS,
        seeds=REPORTING[:3],
        claims=("cot",),
    ),
    Experiment(
        lab="06",
        name="length",
        sampled=True,
        question="Every state: does it work for games of other lengths than learned?",
        run=length_row,
        arms=("fixed", "mixed", "mixed_2"),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="06",
        name="faithful",
        sampled=True,
        question="One state of a right trace is changed: does the answer follow?",
        run=faithful_row,
        arms=("follows", "stays"),
        seeds=REPORTING,
        claims=("cot-faithful",),
        points=[{"model": model} for model in ("needed", "easy", "carried")],
    ),
    Experiment(
        lab="06",
        name="unused",
        sampled=True,
        question="The same, where wrong steps led to right answers in the examples.",
        run=faithful_row,
        arms=("follows", "stays"),
        seeds=REPORTING,
        claims=("cot-faithful",),
        points=[{"model": "mended"}],
    ),
    Experiment(
        lab="06",
        name="forced",
        sampled=True,
        question="The same where there are too many swaps to do without steps.",
        run=faithful_row,
        arms=("follows", "stays"),
        seeds=REPORTING[:3],
        points=[{"model": "forced"}],
    ),
    Experiment(
        lab="06",
        name="voting",
        sampled=True,
        question="It thinks in some games only: what do votes of several answers add?",
        run=voting_row,
        arms=("hasty", "carried"),
        seeds=REPORTING[:3],
    ),
    Experiment(
        lab="06",
        name="writing",
        question="Tokens a second with keys and values kept, and with all read again.",
        run=writing_row,
        arms=("kept", "again"),
        seeds=REPORTING[:3],
        clocks=[f"rate_{texts}" for texts in TEXTS],
    ),
]
