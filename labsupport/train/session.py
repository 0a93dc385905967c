"""`train`: the loop, with metrics, validation, checkpoints and a display."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labsupport.errors import LabError
from labsupport.settings import Settings, seed_everything
from labsupport.train.checkpoint import (
    checkpoint_file,
    load_checkpoint,
    random_states,
    restore_random_states,
)
from labsupport.train.interrupt import interrupt_sets
from labsupport.train.keeper import Keeper
from labsupport.train.live import open_display
from labsupport.train.loop import Batch, Diverged, StepResult, training_steps
from labsupport.train.recipe import Recipe, make_optimizer
from labsupport.train.run import Band, Run


def train(
    model: nn.Module,
    batch_fn: Callable[[int], Batch],
    *,
    steps: int,
    lr: float,
    warmup: float = 0.05,
    weight_decay: float = 0.1,
    clip: float = 1.0,
    settings: Settings | None = None,
    loss_fn: Callable[[Any, Batch], Tensor] | None = None,
    eval_fn: Callable[[Any], float] | None = None,
    eval_name: str = "validation",
    eval_every: int | None = None,
    measure: Callable[[Any], dict[str, float]] | None = None,
    prepare: Callable[[torch.optim.Optimizer], object] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    title: str = "Training",
    live: bool = True,
    band: Band | None = None,
    stop: threading.Event | None = None,
) -> Run:
    """Train a model and show how it goes.

    The Stop button, an interrupted kernel and Ctrl-C all end the run after the
    step in progress; nothing is lost, and `resume=True` goes on bit for bit. A
    loss or gradient that is NaN or infinite ends the run too, before it reaches
    the weights.

    Args:
        model: has `loss(tokens_BT, targets_BT)`, unless `loss_fn` is given.
            Trained in place.
        batch_fn: the batch of step 0, 1, ...; depends on nothing else, if a
            resumed run is to be the same.
        steps, lr, warmup, weight_decay, clip: see `Recipe`.
        settings: the device to train on, and the seed, set once at the start.
            None leaves model and generators as they are.
        loss_fn: the scalar to minimise, from the model and a batch.
        eval_fn: the validation loss; its use of random numbers does not touch
            the training's.
        eval_name: what `eval_fn` measures, if it is no loss.
        eval_every: steps between validations (default: a tenth of the run). The
            last step is always validated.
        measure: further columns of the table, taken after every step; it
            should use no random numbers.
        prepare: gets the optimizer before the first step, to hang hooks on it:
            `LoadBalancer.attach`, say. Its hooks are gone when the run ends, as the
            optimizer is.
        checkpoint: a name (in my_labs/checkpoints) or a path. Written at every
            validation and at the end. A disk that is full or read-only is
            reported once, and training goes on without it.
        resume: go on from the checkpoint. Without one, start anew.
        title: names the run in text and picture.
        live: whether to show anything.
        band: a recorded spread to draw behind the loss.
        stop: an event of your own that stops the run.

    Returns:
        The run: `.table()`, `.figure()`, `.stopped`, `.model`, `.steps_done`.

    Raises:
        LabError: a setting that is not allowed, or a checkpoint that is damaged
            or belongs to another model or recipe.
    """
    recipe = Recipe(steps, lr, warmup=warmup, weight_decay=weight_decay, clip=clip)
    eval_every = eval_every or max(1, steps // 10)
    file = None if checkpoint is None else checkpoint_file(checkpoint)
    if resume and file is None:
        raise LabError("resume=True needs the name of a checkpoint.")
    stop = stop or threading.Event()

    if settings is not None:
        model.to(settings.device)
        seed_everything(settings.seed)
    optimizer = make_optimizer(model, recipe)
    if prepare is not None:
        prepare(optimizer)
    run = Run(model, title, steps, band, eval_name)
    if resume and file is not None and file.exists():
        restore(run, file, optimizer, recipe)
        run.resumed_at = run.steps_done

    display = open_display(run, stop, live)
    keeper = Keeper(run, file, optimizer, recipe, display)
    display.start()
    before, began = run.seconds, time.monotonic()
    results = training_steps(
        model, optimizer, batch_fn, recipe, start=run.steps_done, loss_fn=loss_fn
    )
    run.stopped = "finished"
    try:
        with interrupt_sets(stop):
            for result in results:
                record(run, result)
                last = result.step == steps
                due = last or result.step % eval_every == 0
                if due and eval_fn is not None:
                    run.metrics[-1]["validation"] = undisturbed(eval_fn, model)
                if measure is not None:
                    run.metrics[-1].update(measure(model))
                run.metrics[-1]["seconds"] = before + time.monotonic() - began
                if stop.is_set() and not last:
                    run.stopped = "stopped"
                if due or run.stopped == "stopped":
                    keeper.save()
                display.update()
                if run.stopped == "stopped":
                    break
    except Diverged as event:
        run.stopped, run.sentence = "nan", divergence(event, run)
    except KeyboardInterrupt:
        # Only where no handler could be set, or at a second Ctrl-C: the step in
        # progress is lost, and the checkpoint stays that of an earlier step.
        run.stopped = "stopped"
    run.sentence = run.sentence or ending(run, keeper)
    display.finish()
    return run


def restore(
    run: Run, file: Path, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> None:
    """Put a run back to where its checkpoint was written.

    Raises:
        LabError: as `load_checkpoint`, or the recipe differs.
    """
    loaded = load_checkpoint(file, model=run.model, optimizer=optimizer)
    if loaded.recipe != recipe:
        raise LabError(
            f"The checkpoint {file.name} was made with {loaded.recipe}: go on with "
            "the same numbers, or use another name."
        )
    run.metrics, run.saved_step = loaded.metrics, loaded.step


def record(run: Run, result: StepResult) -> None:
    """Append a step to the run's metrics."""
    seen = run.metrics[-1]["tokens"] if run.metrics else 0
    run.metrics.append(
        {
            "step": result.step,
            "loss": result.loss,
            "validation": math.nan,
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "tokens": seen + result.tokens,
            "seconds": math.nan,
        }
    )


def undisturbed(eval_fn: Callable[[Any], float], model: nn.Module) -> float:
    """Call `eval_fn` with the same random numbers each time, and put back ours."""
    ours = random_states()
    seed_everything(0)
    value = float(eval_fn(model))
    restore_random_states(ours)
    model.train()
    return value


def divergence(event: Diverged, run: Run) -> str:
    """What happened, and what usually causes it."""
    what = "gradient" if math.isfinite(event.loss) else "loss"
    kept = (
        f" The checkpoint holds step {run.saved_step}."
        if run.saved_step is not None
        else ""
    )
    return (
        f"Step {event.step}: the {what} is no longer a finite number (last finite "
        f"loss {run.loss:.3f}, learning rate {event.lr:.2g}). Usual causes: too high "
        "a learning rate, float16 overflow, log or division of zero. The weights "
        f"are those before this step.{kept}"
    )


def ending(run: Run, keeper: Keeper) -> str:
    """How a run ended, in one sentence."""
    if run.steps_done == run.steps == run.resumed_at:
        return f"Nothing is left to resume: all {run.steps} steps were done before."
    sentence = run.outcome()
    if run.stopped == "stopped" and keeper.file and run.saved_step is not None:
        sentence += f" resume=True goes on from step {run.saved_step}."
    return sentence
