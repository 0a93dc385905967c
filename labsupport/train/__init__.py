"""The training loop of the labs.

`plan` says what is trained, `recipe` how the weights move, `loop` does one step
after the other, `run` holds what came of it, `live` shows it, `checkpoint` keeps
it on disk (`keeper`: as long as the disk allows), `interrupt` stops it, and
`session` puts these together as `train`. Beside the loop: `averaging` (EMA, LAWA) and
`sharpness` (SAM, ASAM), which hang on the optimizer, `noise_scale`, and `kept`, which
counts what a forward keeps for the backward.
"""

from labsupport.train.checkpoint import (
    checkpoint_file,
    load_checkpoint,
    save_checkpoint,
)
from labsupport.train.loop import StepResult, mean_loss, training_steps
from labsupport.train.plan import Plan
from labsupport.train.recipe import Recipe, make_optimizer
from labsupport.train.run import Band, Run
from labsupport.train.session import train

__all__ = [
    "Band",
    "Plan",
    "Recipe",
    "Run",
    "StepResult",
    "checkpoint_file",
    "load_checkpoint",
    "make_optimizer",
    "mean_loss",
    "save_checkpoint",
    "train",
    "training_steps",
]
