"""One training of one arm, and what is to be said of it.

Shape suffixes: P streams, B sequences, T tokens, D width, N = B T tokens in a row.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.lab_05b.arms import Arm, arm_of
from labs.lab_05b.plan import GPT_PLANS
from labs.lab_05b.sizes import block_weights
from labsupport.nn import ParScale, aggregate_streams, stream_weights
from labsupport.nn.parscale import EPS, Aggregate
from labsupport.settings import Scale, choose_settings, seed_everything
from labsupport.tasks.corpus import Corpus
from labsupport.train import Run, mean_loss, train

Row = dict[str, Any]


def train_arm(
    name: str,
    seed: int,
    scale: Scale,
    lr: float,
    *,
    time_ratio: float | None = None,
    eps: float = EPS,
    aggregate: Aggregate = aggregate_streams,
    steps: int | None = None,
    live: bool = False,
    title: str = "Training",
) -> Run:
    """Train one arm on the corpus.

    Args:
        name: one of ARMS.
        seed: of the weights and of the order of the data.
        lr: the highest learning rate.
        time_ratio: see `arm_of`.
        eps, aggregate: of `ParScale`.
        steps: None for the arm's.
        live: whether the loss is drawn meanwhile.
    """
    arm = arm_of(name, scale, time_ratio)
    settings = choose_settings(scale, seed)
    seed_everything(seed)
    model = arm.make(eps, aggregate).to(settings.device)
    plan = GPT_PLANS[scale]
    batches = partial(
        Corpus.load().batch,
        "train",
        batch_size=plan.batch_size,
        length=plan.length,
        seed=seed,
    )
    return train(
        model,
        batches,
        steps=steps or arm.steps,
        lr=lr,
        settings=settings,
        live=live,
        title=title,
    )


def validation(scale: Scale) -> list[tuple[Tensor, Tensor]]:
    """The batches that every arm is judged by."""
    plan = GPT_PLANS[scale]
    return Corpus.load().validation_batches(
        4 if scale == "ci" else 64,
        batch_size=plan.batch_size,
        length=plan.length,
    )


def examine(arm: Arm, run: Run, scale: Scale) -> Row:
    """What one training comes to.

    Returns:
        validation: nats a byte.
        parameters, blocks: all of them, and those of the shared blocks.
        flops: of the whole training.
        streams: see `diversity`; for several streams.
    """
    model: Any = run.model
    plan, batches = GPT_PLANS[scale], validation(scale)
    tokens = plan.batch_size * plan.length
    row: Row = {
        "validation": round(mean_loss(model, batches), 5),
        "parameters": model.parameter_count(),
        "blocks": block_weights(arm.config),
        "flops": arm.flops_a_token * tokens * run.steps_done,
        "steps": run.steps_done,
    }
    if arm.streams > 1:
        device = next(model.parameters()).device
        row |= diversity(model, batches[0][0].to(device))
    return row


@torch.no_grad()
def diversity(model: ParScale, tokens_BT: Tensor) -> dict[str, float]:
    """How different streams are, and how evenly they are listened to.

    Returns:
        alike: the cosine of two streams' vectors for a token, mean over pairs and
            tokens; 1 where all say the same.
        even: the entropy of a token's softmax over ln P, without smoothing; 1 where
            all streams count alike, 0 where one alone counts.
        one: the largest share that one stream gets on average over tokens; 1 / P where
            they take turns evenly, 1 where always the same one counts.
    """
    P = model.streams
    x_PBTD = model.run_streams(model.embedding(tokens_BT))
    unit_PND = F.normalize(x_PBTD.flatten(1, 2), dim=-1)
    cosine_PP = (
        torch.einsum("pnd,qnd->pq", unit_PND, unit_PND) / unit_PND.shape[1]
    )
    alike = (cosine_PP.sum() - cosine_PP.trace()) / (P * (P - 1))
    assert model.aggregator is not None
    w_BTP = stream_weights(model.aggregator(x_PBTD), eps=0.0)
    entropy = torch.special.entr(w_BTP).sum(-1).mean() / math.log(P)
    return {
        "alike": round(alike.item(), 5),
        "even": round(entropy.item(), 5),
        "one": round(w_BTP.mean((0, 1)).max().item(), 5),
    }
