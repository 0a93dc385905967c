"""Dark knowledge: a small language model learns from a larger one's scores.

On text the next byte is seldom sure, so a teacher's scores say more than the byte that
happened to come.

    python -m labs.lab_08.text

makes the shipped teacher anew.

Shape suffixes: B sequences, T bytes of each, V = 256.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labs.lab_08.teacher import write_checksums
from labsupport.distill import Compute, DistillationLoss
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import Scale, choose_settings
from labsupport.tasks.corpus import Corpus, windows
from labsupport.train import mean_loss, train
from labsupport.train.stored_model import (
    SHIPPED,
    StoredModel,
    load_model,
    store_model,
)

COMMAND = "python -m labs.lab_08.text"


@dataclass(frozen=True)
class TextPlan:
    """A language model, and how long it reads.

    Attributes:
        width, layers: of the model; a head has 16 numbers.
        steps: updates.
        batch_size: B.
        length: T.
        lr: the highest learning rate.
    """

    width: int
    layers: int
    steps: int
    batch_size: int = 16
    length: int = 64
    lr: float = 3e-3

    @property
    def config(self) -> GPTConfig:
        """For bytes."""
        return GPTConfig(
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.width // 16,
            max_len=self.length,
        )


TEACHERS: Mapping[Scale, TextPlan] = {
    "ci": TextPlan(width=64, layers=1, steps=300, lr=4e-3),
    "cpu": TextPlan(width=96, layers=3, steps=3000, batch_size=32, lr=2e-3),
    "gpu": TextPlan(width=96, layers=3, steps=3000, batch_size=32, lr=2e-3),
}
STUDENTS: Mapping[Scale, TextPlan] = {
    "ci": TextPlan(width=32, layers=1, steps=60, lr=4e-3),
    "cpu": TextPlan(width=32, layers=1, steps=1200),
    "gpu": TextPlan(width=32, layers=1, steps=1200),
}
LITTLE = 30_000
"""Bytes of training text that a student gets where it gets little."""


def teacher_name(scale: Scale) -> str:
    """What the shipped teacher of this scale is called."""
    plan = TEACHERS[scale]
    return f"text_{plan.width}x{plan.layers}"


def text_teacher(scale: Scale) -> StoredModel:
    """The shipped teacher."""
    return load_model(SHIPPED / f"{teacher_name(scale)}.safetensors")


def batches_of(corpus: Corpus, plan: TextPlan) -> list[tuple[Tensor, Tensor]]:
    """The validation batches that every model is judged by."""
    return corpus.validation_batches(16, batch_size=16, length=plan.length)


def read_text(plan: TextPlan, seed: int, live: bool = False) -> GPT:
    """A model that learns from the text alone."""
    corpus = Corpus.load()
    torch.manual_seed(seed)
    model = GPT(plan.config)
    train(
        model,
        lambda step: corpus.batch(
            "train",
            step,
            batch_size=plan.batch_size,
            length=plan.length,
            seed=seed,
        ),
        steps=plan.steps,
        lr=plan.lr,
        settings=choose_settings(None, seed),
        live=live,
        title="Text",
    )
    return model


def taught_by_text(
    teacher: GPT,
    arm: str,
    seed: int,
    plan: TextPlan,
    *,
    lr: float,
    little: bool,
    live: bool = False,
) -> tuple[GPT, float, Compute]:
    """A student of text.

    Args:
        teacher: scores the same windows, each time they are read.
        arm: "labels", "labels_more" (as many FLOPs as the others), or the temperature
            of soft targets, "1", "2" or "4"; "half" is half labels, half T = 1.
        seed: of weights and order.
        plan: the student.
        lr: its highest learning rate.
        little: whether it gets LITTLE bytes only.
        live: whether to show the training.

    Returns:
        the student, its validation loss in nats a byte, and what was spent.
    """
    corpus = Corpus.load()
    text = corpus.train[:LITTLE] if little else corpus.train
    torch.manual_seed(seed)
    student = GPT(plan.config)
    tokens = plan.batch_size * plan.length
    compute = Compute.of(student, teacher, 1e18)
    scored = plan.steps * tokens
    steps = plan.steps
    if arm == "labels_more":
        each = 6 * compute.student
        steps = int(steps * (each + 2 * compute.teacher) / each)
    compute.learns(steps * tokens)
    soft = None
    if not arm.startswith("labels"):
        soft = DistillationLoss(0.0, 1.0 if arm == "half" else float(arm))
        compute.writes("teacher", scored)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        return windows_of(text, step, seed, plan)

    def compared(model: GPT, given: tuple[Tensor, Tensor]) -> Tensor:
        assert soft is not None
        tokens_BT, targets_BT = given
        with torch.no_grad():
            teacher_BTV = teacher(tokens_BT)
        loss = soft(model(tokens_BT), teacher_BTV, targets_BT)
        if arm == "half":
            loss = 0.5 * loss + 0.5 * model.loss(tokens_BT, targets_BT)
        return loss

    train(
        student,
        batch,
        steps=steps,
        lr=lr,
        loss_fn=None if soft is None else compared,
        settings=choose_settings(None, seed),
        live=live,
        title=f"Text: {arm}",
    )
    return student, mean_loss(student, batches_of(corpus, plan)), compute


def windows_of(
    text: Tensor, step: int, seed: int, plan: TextPlan
) -> tuple[Tensor, Tensor]:
    """Random windows of a text, and what follows: a pure function of seed and step."""
    numbers = np.random.default_rng([seed, step])
    starts = numbers.integers(0, len(text) - plan.length, plan.batch_size)
    return windows(text, starts, plan.length)


def ship(scale: Scale) -> None:
    """Make the shipped teacher of a scale, and say how good it is."""
    plan = TEACHERS[scale]
    model = read_text(plan, seed=0)
    loss = mean_loss(model, batches_of(Corpus.load(), plan))
    about = {
        "text": "data/corpus",
        "made by": COMMAND,
        "seed": "0",
        "validation loss": f"{loss:.3f} nats a byte",
    }
    store_model(SHIPPED / f"{teacher_name(scale)}.safetensors", model, about)
    print(f"{teacher_name(scale)}: {loss:.3f} nats a byte")


if __name__ == "__main__":
    try:
        for each in ("ci", "cpu"):
            ship(each)
        write_checksums()
    except LabError as error:
        sys.exit(f"text: {error}")
