"""Warm starts, trainings with rewards that begin there, and what they are worth."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from labs.lab_06.plan import GAMES, ThinkerPlan
from labs.lab_06.thinker import Thinker, train_thinker
from labs.lab_07.plan import RL_PLANS, WARM_STARTS, RLPlan
from labs.lab_07.teachers import TEACHERS
from labsupport.nn import GPT
from labsupport.rl import RLRun, roll_out, train_rl
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.game import Game


@lru_cache(maxsize=4)
def warm_start(
    seed: int, scale: Scale, teacher: str = "hasty", amount: str = "enough"
) -> Thinker:
    """A model from random weights that has read a teacher's examples.

    It is kept, and so must not be trained: `reinforced` trains a copy.

    Args:
        seed: of weights and games.
        scale: how large.
        teacher: one of TEACHERS.
        amount: one of WARM_STARTS.
    """
    plan: ThinkerPlan = WARM_STARTS[amount][scale]
    return train_thinker(TEACHERS[teacher], seed, plan)


def reinforced(
    start: Thinker,
    seed: int,
    scale: Scale,
    plan: RLPlan | None = None,
    **options: Any,
) -> RLRun:
    """Train a copy of a model with rewards.

    Args:
        start: stays as it is.
        seed: of prompts, sampling and order.
        scale: how large.
        plan: None for the scale's.
        options: of `train_rl`.
    """
    plan = plan or RL_PLANS[scale]
    given: dict[str, Any] = {
        "steps": plan.steps,
        "prompts": plan.prompts,
        "group": plan.group,
        "lr": plan.lr,
        "live": False,
        "settings": choose_settings(None, seed),
    }
    return train_rl(copy.deepcopy(start.model), start.game, **given | options)


@dataclass(frozen=True)
class Exam:
    """How a model does on fresh games, sampled at temperature 1.

    Attributes:
        accuracy: the share that the strict verifier accepts.
        length: mean tokens of a completion, EOS included.
        ended: the share of completions with an end.
    """

    accuracy: float
    length: float
    ended: float

    def row(self) -> dict[str, float]:
        """For a record."""
        return {
            "accuracy": round(self.accuracy, 4),
            "length": round(self.length, 3),
            "ended": round(self.ended, 4),
        }


def examined(model: Any, game: Game, scale: Scale, seed: int = 1) -> Exam:
    """Play fresh games of the validation split."""
    assert isinstance(model, GPT)
    prompts_PT = game.prompts(GAMES[scale], seed=seed, split="validation")
    found = roll_out(model, game, prompts_PT, seeds=seed)
    ended = found.completions.ended_R.float().mean().item()
    return Exam(found.mean_reward, found.mean_length, ended)


def curve(run: RLRun, name: str, parts: int = 20) -> list[float]:
    """A metric along a run: means of `parts` stretches of equal length."""
    values = [row[name] for row in run.metrics]
    size = max(1, len(values) // parts)
    return [
        round(sum(values[i : i + size]) / len(values[i : i + size]), 4)
        for i in range(0, len(values), size)
    ]


def column(run: RLRun, name: str) -> list[float]:
    """A metric of every rollout."""
    return [round(row[name], 4) for row in run.metrics]
