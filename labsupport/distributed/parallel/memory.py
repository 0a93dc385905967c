"""Bytes that a rank holds of a training: counted, and by formula.

Psi numbers are trained. A training in float32 with AdamW keeps 16 bytes for each: 4
for the weight, 4 for its gradient, 8 for the two moments. Over N ranks:

    ZeRO    weights     gradients   optimizer
    0       4 Psi       4 Psi       8 Psi         copies, as DDP has them
    1       4 Psi       4 Psi       8 Psi / N
    2       4 Psi       4 Psi / N   8 Psi / N
    3       4 Psi / N   4 Psi / N   8 Psi / N     FSDP2's shards

In mixed precision it is 2, 2 and 12 bytes, as the optimizer also keeps the weights in
float32. Activations are no part of any of this. Source: arXiv 1910.02054, section 3
and figure 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from labsupport.distributed.parallel.engine import ParallelGPT
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.schedules import SCHEDULES
from labsupport.distributed.parallel.stages import blocks_of_stages
from labsupport.distributed.parallel.whole import local
from labsupport.errors import LabError
from labsupport.nn import GPTConfig

FLOAT32 = (4, 4, 8)
"""Bytes a number: of weight, gradient, optimizer."""
MIXED = (2, 2, 12)


@dataclass(frozen=True)
class Held:
    """Bytes on one rank.

    Attributes:
        weights, gradients, optimizer: of each kind.
    """

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


def zero_bytes(
    stage: int, numbers: float, ranks: int, each: tuple[int, int, int] = FLOAT32
) -> Held:
    """The table above.

    Args:
        stage: of ZeRO, 0 to 3.
        numbers: Psi.
        ranks: N.
        each: bytes a number of weight, gradient and optimizer.

    Raises:
        LabError: another stage.
    """
    if stage not in range(4):
        raise LabError(f"ZeRO has stages 0 to 3, not {stage}.")
    weight, gradient, optimizer = (numbers * size for size in each)
    return Held(
        weight / (ranks if stage >= 3 else 1),
        gradient / (ranks if stage >= 2 else 1),
        optimizer / (ranks if stage >= 1 else 1),
    )


# --- counted -----------------------------------------------------------------


def held_bytes(model: ParallelGPT, optimizer: torch.optim.Optimizer) -> Held:
    """What this rank holds between a backward and the update after it.

    AdamW's count of its steps, 4 bytes a tensor, is left out.
    """
    weights = gradients = moments = 0
    for _, p in model.held():
        weights += local(p).nbytes
        gradients += 0 if p.grad is None else local(p.grad).nbytes
        for x in optimizer.state[p].values():
            moments += local(x).nbytes if x.dim() else 0
    return Held(weights, gradients, moments)


def registered_bytes(model: ParallelGPT) -> int:
    """Bytes of the weights as the model has them at this moment.

    Between forward and backward FSDP2 has whole weights in their place where it keeps
    them, and its shards where it has given them back.
    """
    return sum(local(p).nbytes for _, p in model.held())


# --- by formula --------------------------------------------------------------


def block_numbers(config: GPTConfig, tensor: int = 1) -> int:
    """Numbers of a block on one of the ranks that it is cut over.

    Attention has four matrices of D x D, SwiGLU three of D x F, and there are two
    norms, which all ranks have.
    """
    D, F = config.d_model, config.ffn_width
    return (4 * D * D + 3 * D * F) // tensor + 2 * D


def end_numbers(config: GPTConfig) -> tuple[int, int]:
    """Numbers before the first block, and after the last one."""
    table = config.vocab_size * config.d_model
    return table, config.d_model + (0 if config.tied else table)


def blocks_of_rank(layout: Layout, config: GPTConfig, pipeline: int) -> list[range]:
    """The blocks of each stage of a rank, by its place in the pipeline."""
    if layout.pipeline == 1:
        return [range(config.n_layers)]
    stages = SCHEDULES[layout.schedule].stages_of(pipeline, layout.pipeline)
    blocks = blocks_of_stages(config.n_layers, layout.stages)
    return [blocks[stage] for stage in stages]


def numbers_on_rank(layout: Layout, config: GPTConfig, pipeline: int = 0) -> int:
    """Numbers of a dense GPT that a rank holds for good.

    Args:
        layout: of the training.
        config: of the whole model.
        pipeline: the rank's place in the pipeline.
    """
    before, after = end_numbers(config)
    numbers = 0
    for blocks in blocks_of_rank(layout, config, pipeline):
        numbers += len(blocks) * block_numbers(config, layout.tensor)
        numbers += before if blocks.start == 0 else 0
        numbers += after if blocks.stop == config.n_layers else 0
    return numbers // layout.shard


def expected_bytes(layout: Layout, config: GPTConfig, pipeline: int = 0) -> Held:
    """What a rank holds of a dense GPT in float32, by formula."""
    return zero_bytes(0, numbers_on_rank(layout, config, pipeline), 1)
