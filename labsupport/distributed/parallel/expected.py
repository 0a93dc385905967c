"""The messages that one rank sends in a step's forward and backward, by formula.

    DDP       one all_reduce for each bucket of gradients
    FSDP2     for each unit (a block, or what is left): all_gather before the forward,
              another before the backward unless weights are kept, one reduce_scatter
              of gradients; over copies an all_reduce of what that leaves
    tensor    for each block and microbatch 2 all_reduces of its b T D activations in
              the forward and 2 in the backward
    pipeline  for each microbatch and each end of a stage that another rank follows: b
              T D activations there, and as many gradients back

Bytes are those of the textbook's algorithms (distributed/collectives.py). gloo sends
more in one case: its reduce_scatter is an all_reduce for each of the parts, twice what
is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from labsupport.distributed.collectives import RULES
from labsupport.distributed.parallel.data import uses_ddp
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.memory import (
    block_numbers,
    blocks_of_rank,
    end_numbers,
)
from labsupport.distributed.parallel.schedules import SCHEDULES
from labsupport.nn import GPTConfig

BYTES = 4  # of a number in float32
MIB = 2**20
FIRST_BUCKET, BUCKET = 1 * MIB, 25 * MIB
"""torch's own sizes of DDP's buckets, in bytes."""


@dataclass(frozen=True)
class Message:
    """One collective, or several that are alike.

    Attributes:
        name: as in torch.distributed.
        payload: bytes that this rank hands in, each time.
        ranks: of the group.
        calls: how often.
    """

    name: str
    payload: int
    ranks: int
    calls: int = 1

    @property
    def sent(self) -> float:
        """Bytes that this rank sends, all calls together."""
        return self.calls * RULES[self.name].sent(self.payload, self.ranks, False)

    @property
    def steps(self) -> int:
        """Messages that follow one another, all calls together."""
        return self.calls * RULES[self.name].steps(self.ranks)

    @property
    def sent_by_gloo(self) -> float:
        """With what gloo's reduce_scatter sends on top."""
        return self.sent * (2 if self.name == "reduce_scatter_single" else 1)


def expected_messages(
    layout: Layout,
    config: GPTConfig,
    rows: int,
    length: int,
    *,
    pipeline: int = 0,
    bucket_cap_mb: float | None = None,
) -> list[Message]:
    """What one rank issues in a forward and a backward of a dense GPT.

    Args:
        layout: of the training.
        config: of the whole model.
        rows: B, of the whole batch.
        length: T.
        pipeline: the rank's place in the pipeline.
        bucket_cap_mb: DDP's, in MiB; None for torch's own sizes.
    """
    stages = blocks_of_rank(layout, config, pipeline)
    b = rows // layout.data // layout.microbatches
    activations = BYTES * b * length * config.d_model
    messages: list[Message] = []
    if layout.tensor > 1:
        blocks = sum(len(stage) for stage in stages)
        calls = 4 * blocks * layout.microbatches
        messages.append(Message("all_reduce", activations, layout.tensor, calls))
    if uses_ddp(layout):
        for size in bucket_sizes(_gradients(config), bucket_cap_mb):
            messages.append(Message("all_reduce", size, layout.replicate))
    elif layout.replicate * layout.shard > 1:
        messages += _of_units(layout, _units(layout, config, stages))
    if layout.pipeline > 1:
        ends = _ends(layout, pipeline)
        calls = ends * layout.microbatches
        for name in ("send", "recv"):
            messages.append(Message(name, activations, 2, calls))
    return messages


# --- gradients of copies and shards --------------------------------------------


def _gradients(config: GPTConfig) -> list[int]:
    """Bytes of each gradient, in the order in which a backward makes them."""
    D, F = config.d_model, config.ffn_width
    table = config.vocab_size * D
    block = [D * F] * 3 + [D] + [D * D] * 4 + [D]
    head = [D] if config.tied else [table, D]
    return [BYTES * n for n in (*head, *block * config.n_layers, table)]


def bucket_sizes(sizes: Iterable[int], cap_mb: float | None = None) -> list[int]:
    """Bytes of DDP's buckets: a bucket is sent as soon as it has reached its size.

    Args:
        sizes: bytes of the gradients, in the order in which they come.
        cap_mb: the size in MiB; None for 25 MiB, and 1 MiB for the first, so that the
            first message need not wait for long.
    """
    first, rest = FIRST_BUCKET, BUCKET
    if cap_mb is not None:
        first = rest = int(cap_mb * MIB)
    buckets: list[int] = []
    filled = 0
    for size in sizes:
        filled += size
        if filled >= (rest if buckets else first):
            buckets.append(filled)
            filled = 0
    return [*buckets, filled] if filled else buckets


def _units(layout: Layout, config: GPTConfig, stages: Sequence[range]) -> Iterator[int]:
    """Numbers of each unit on this rank, before they are cut into shards."""
    before, after = end_numbers(config)
    for blocks in stages:
        yield from [block_numbers(config, layout.tensor)] * len(blocks)
        left = before if blocks.start == 0 else 0
        left += after if blocks.stop == config.n_layers else 0
        if left:
            yield left


def _of_units(layout: Layout, units: Iterable[int]) -> Iterator[Message]:
    N = layout.shard
    for numbers in units:
        whole, part = BYTES * numbers, BYTES * numbers // N
        if N > 1:
            gathers = 2 if layout.reshard else 1
            yield Message("all_gather_single", part, N, gathers)
            yield Message("reduce_scatter_single", whole, N)
        if layout.replicate > 1:
            yield Message("all_reduce", part, layout.replicate)


# --- stages ------------------------------------------------------------------


def _ends(layout: Layout, pipeline: int) -> int:
    """Ends of this rank's stages where another rank goes on.

    Activations leave through the later ends, gradients through the earlier ones. At
    the tip of a V both sides are on one rank, and nothing is sent.
    """
    schedule, p = SCHEDULES[layout.schedule], layout.pipeline
    rank_of = {s: r for r in range(p) for s in schedule.stages_of(r, p)}
    mine = schedule.stages_of(pipeline, p)
    beside = [other for s in mine for other in (s - 1, s + 1)]
    return sum(rank_of.get(other, pipeline) != pipeline for other in beside)
