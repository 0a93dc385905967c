"""`train_rl`: roll out, compare, update, again.

    for each step:
        completions, rewards  <- the model writes, the verifier judges    rollouts.py
        advantages            <- rewards, compared within each group      advantages.py
        updates               <- a policy loss on these completions       losses.py

Shape suffixes: P prompts, T tokens of a prompt, G completions of each, R = P G rows, M
rows of a minibatch, N tokens of a completion, V vocabulary.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from labsupport.errors import LabError
from labsupport.generate import row_seeds
from labsupport.nn import GPT
from labsupport.rl.advantages import equal_groups, group_advantages
from labsupport.rl.experience import Advantage, Experience
from labsupport.rl.learner import Learner
from labsupport.rl.losses import GRPO, PolicyLoss
from labsupport.rl.rollouts import Judge, Reward, Rollout, roll_out
from labsupport.rl.run import RLRun
from labsupport.settings import Settings, seed_everything
from labsupport.tasks.game import Game
from labsupport.train import Band, Recipe
from labsupport.train.interrupt import interrupt_sets
from labsupport.train.live import open_display
from labsupport.train.loop import Diverged
from labsupport.train.session import undisturbed


def train_rl(
    model: GPT,
    game: Game,
    *,
    steps: int,
    lr: float,
    prompts: int = 24,
    group: int = 16,
    reward: Reward | Judge | None = None,
    advantage: Advantage = group_advantages,
    loss: PolicyLoss = GRPO,
    reference: GPT | None = None,
    updates: int = 1,
    minibatches: int = 1,
    temperature: float = 1.0,
    longest: int | None = None,
    warmup: float = 0.05,
    clip: float = 1.0,
    settings: Settings | None = None,
    eval_fn: Callable[[Any], float] | None = None,
    eval_every: int | None = None,
    title: str = "Training with rewards",
    live: bool = True,
    band: Band | None = None,
    stop: threading.Event | None = None,
) -> RLRun:
    """Train a model by rewards, and show how it goes.

    The Stop button, an interrupted kernel and Ctrl-C end the run after the step in
    progress. A loss or gradient that is NaN or infinite ends it before it reaches the
    weights.

    Args:
        model: trained in place.
        game: draws prompts, and says how a completion ends.
        steps: rollouts.
        lr: the learning rate; after the warm-up it stays.
        prompts: P, how many a rollout has; fresh ones each time.
        group: G, completions of each.
        reward: what a completion is worth: a function of one, or a judge of all; None
            for the game's verifier.
        advantage: what makes advantages_PG of rewards_PG.
        loss: with `updates * minibatches` above 1 its ratio differs from 1.
        reference: a model to stay near to; needed where `loss.beta` is above 0.
        updates: how often each completion is used.
        minibatches: into how many parts a rollout is cut, one update each.
        temperature: of sampling, and of the policy that is trained.
        longest: N, the most tokens of a completion; None for the game's.
        warmup: share of all updates in which the rate rises.
        clip: gradients longer than this are shortened to it.
        settings: the device to train on, and the seed of prompts, sampling and order.
            None leaves the model where it is and uses seed 0.
        eval_fn: a validation score; its random numbers do not touch the training's.
        eval_every: steps between validations (default: a tenth of the run).
        title: names the run in text and picture.
        live: whether to show anything.
        band: a recorded spread of rewards to draw.
        stop: an event of your own that stops the run.

    Returns:
        The run: `.table()` with one row a step, `.figure()`, `.stopped`, `.sentence`.

    Raises:
        LabError: a setting that is not allowed, prompts that leave no room in the
            context, a reward function that raises or returns no number, advantages of
            another shape.
    """
    require_sizes(prompts, group, updates, minibatches, temperature)
    if loss.beta and reference is None:
        raise LabError(f"beta={loss.beta} needs a reference model: give `reference`.")
    eval_every = eval_every or max(1, steps // 10)
    longest = game.longest if longest is None else longest
    seed = 0 if settings is None else settings.seed
    stop = stop or threading.Event()
    if settings is not None:
        model.to(settings.device)
        seed_everything(seed)
    if reference is not None:
        # A copy, or a reference that is the model itself would move with it.
        reference = copy.deepcopy(reference).to(next(model.parameters()).device)
    recipe = Recipe(
        steps * updates * minibatches,
        lr,
        warmup=warmup,
        final=1.0,
        weight_decay=0.0,
        clip=clip,
    )
    learner = Learner(model, loss, recipe, temperature=temperature, longest=longest)

    run = RLRun(model, title, steps, band)
    display = open_display(run, stop, live)
    display.start()
    began = time.monotonic()
    run.stopped, said = "finished", False
    try:
        with interrupt_sets(stop):
            for step in range(steps):
                rollout = roll_out(
                    model,
                    game,
                    game.prompts(prompts, seed=seed, step=step),
                    reward,
                    group=group,
                    longest=longest,
                    temperature=temperature,
                    seeds=row_seeds(seed, step, prompts * group),
                )
                seen = Experience.of(rollout, advantage, reference, temperature)
                order = np.random.default_rng([seed, step])
                learned = learner.learn(seen, updates, minibatches, order)
                record(run, rollout, learned)
                last = step + 1 == steps
                if eval_fn is not None and (last or (step + 1) % eval_every == 0):
                    run.metrics[-1]["validation"] = undisturbed(eval_fn, model)
                run.metrics[-1]["seconds"] = time.monotonic() - began
                display.update()
                if not said and not seen.advantages_R.any():
                    display.say(nothing_to_learn(step))
                    said = True
                if stop.is_set() and not last:
                    run.stopped = "stopped"
                    break
    except Diverged as event:
        run.stopped, run.sentence = "nan", divergence(event, run)
    except KeyboardInterrupt:
        # Only where no handler could be set, or at a second Ctrl-C.
        run.stopped = "stopped"
    run.sentence = run.sentence or run.outcome()
    display.finish()
    return run


def require_sizes(
    prompts: int, group: int, updates: int, minibatches: int, temperature: float
) -> None:
    """Refuse numbers with which nothing can be learned.

    Raises:
        LabError: there is one.
    """
    sizes = {
        "prompts": prompts,
        "group": group,
        "updates": updates,
        "minibatches": minibatches,
    }
    for name, value in sizes.items():
        if value < 1:
            raise LabError(f"train_rl: {name}={value}; use at least 1.")
    if minibatches > prompts * group:
        raise LabError(
            f"minibatches={minibatches}: a rollout has {prompts} x {group} = "
            f"{prompts * group} completions."
        )
    if not temperature > 0:
        raise LabError(
            f"temperature={temperature}: without chance there is nothing to compare; "
            "use a number above 0."
        )


def record(run: RLRun, rollout: Rollout, learned: dict[str, float]) -> None:
    """Append a step to the run's metrics."""
    written = int(rollout.completions.lengths_R.sum())
    run.metrics.append(
        {
            "step": run.steps_done + 1,
            "validation": math.nan,
            "tokens": (run.metrics[-1]["tokens"] if run.metrics else 0) + written,
            "seconds": math.nan,
            "reward": rollout.mean_reward,
            "length": rollout.mean_length,
            "equal": equal_groups(rollout.rewards_PG).float().mean().item(),
            **learned,
        }
    )


def nothing_to_learn(step: int) -> str:
    """What it means that all advantages are 0."""
    return (
        f"Step {step + 1}: all advantages are 0, as all rewards of a group are equal. "
        "There is nothing to learn, and no update is made. (This is said once.)"
    )


def divergence(event: Diverged, run: RLRun) -> str:
    """What happened, and what usually causes it."""
    what = "gradient" if math.isfinite(event.loss) else "loss"
    return (
        f"Step {run.steps_done + 1}: the {what} is no longer a finite number (last "
        f"mean reward {run.reward:.3f}, learning rate {event.lr:.2g}). Usual causes: "
        "too high a learning rate, a ratio of probabilities that overflows, log of "
        "zero. The weights are those before this update."
    )
