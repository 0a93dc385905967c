"""A rollout: a model completes prompts, several times each, and a verifier judges.

Shape suffixes: P prompts, T tokens of a prompt, G completions of each, R = P G rows
(the G rows of a prompt are neighbours), N tokens of a completion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.generate import Completions, generate
from labsupport.generate.draws import Seeds
from labsupport.nn import GPT
from labsupport.tasks.game import Game

Reward = Callable[[Sequence[int], Sequence[int]], float]
"""(tokens of a prompt, tokens of its completion up to its end) -> how good it is."""


@runtime_checkable
class Judge(Protocol):
    """Says of all completions at once how good they are, as a reward model does."""

    def judge(self, prompts_RT: Tensor, completions: Completions) -> Tensor:
        """rewards_R, one for each row."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """Prompts, what was written behind them, and what that was worth.

    Attributes:
        prompts_RT: each prompt G times.
        completions: R rows.
        rewards_PG: float32.
    """

    prompts_RT: Tensor
    completions: Completions
    rewards_PG: Tensor

    @property
    def mean_reward(self) -> float:
        return self.rewards_PG.mean().item()

    @property
    def mean_length(self) -> float:
        """Tokens of a completion, EOS included."""
        return self.completions.lengths_R.float().mean().item()


def roll_out(
    model: GPT,
    game: Game,
    prompts_PT: Tensor,
    reward: Reward | Judge | None = None,
    *,
    group: int = 1,
    longest: int | None = None,
    temperature: float = 1.0,
    seeds: int | Seeds = 0,
) -> Rollout:
    """Complete each prompt `group` times and judge every completion.

    Processes that share out prompts, or the completions of each, with the seeds that go
    with them get those rows of the rollout that one process would make.

    Args:
        model: writes.
        game: says how a completion ends.
        prompts_PT: of that game.
        reward: None for the game's verifier.
        group: G, completions of each prompt.
        longest: N, the most tokens of one; None for the game's.
        temperature: of sampling; 0 takes the likeliest token.
        seeds: one number for the whole batch, or seeds_R.

    Raises:
        LabError: as `generate`; a reward that raises, or returns no finite number; a
            judge that returns anything but one finite number a row.
    """
    completions = generate(
        model,
        prompts_PT,
        longest=game.longest if longest is None else longest,
        eos=game.eos,
        pad=game.pad,
        group=group,
        temperature=temperature,
        seeds=seeds,
    )
    device = completions.tokens_RN.device
    prompts_RT = prompts_PT.to(device).repeat_interleave(group, dim=0)
    if isinstance(reward, Judge):
        rewards_R = judged_at_once(reward, prompts_RT, completions)
    else:
        rows = zip(prompts_RT.tolist(), completions.rows(), strict=True)
        values = [judged(reward or game.verify, *row) for row in rows]
        rewards_R = torch.tensor(values, device=device)
    return Rollout(prompts_RT, completions, rewards_R.view(-1, group))


def accuracy(
    model: GPT,
    game: Game,
    *,
    count: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> float:
    """The share of fresh games of the validation split that a model gets right.

    With `count` games its standard error is sqrt(a (1 - a) / count): 2 points at a half
    of 512.
    """
    prompts_PT = game.prompts(count, seed=seed, split="validation")
    found = roll_out(model, game, prompts_PT, temperature=temperature, seeds=seed)
    return found.mean_reward


def judged(reward: Reward, prompt: list[int], completion: list[int]) -> float:
    """What a reward function says of one completion, if it says a number.

    Raises:
        LabError: it raised, or returned something else.
    """
    about = f"prompt {prompt}, completion {completion}"
    try:
        value = reward(prompt, completion)
    except LabError:
        raise
    except Exception as error:
        raise LabError(
            f"The reward function raised {type(error).__name__}: {error} ({about}). It "
            "has to return a number for whatever a model may write."
        ) from None
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        raise LabError(
            f"The reward function returned {value!r} ({about}): a finite number is "
            "needed."
        )
    return float(value)


def judged_at_once(
    judge: Judge, prompts_RT: Tensor, completions: Completions
) -> Tensor:
    """rewards_R as a judge gives them, float32, without gradient.

    Raises:
        LabError: anything but one finite number a row.
    """
    rewards_R = judge.judge(prompts_RT, completions)
    R = len(prompts_RT)
    if not isinstance(rewards_R, Tensor) or rewards_R.shape != (R,):
        came = getattr(rewards_R, "shape", None)
        said = type(rewards_R).__name__ if came is None else f"shape {tuple(came)}"
        raise LabError(
            f"The judge returned {said}: {R} numbers, one a row, are needed."
        )
    if not rewards_R.isfinite().all():
        raise LabError("The judge returned numbers that are not all finite.")
    return rewards_R.detach().float()
