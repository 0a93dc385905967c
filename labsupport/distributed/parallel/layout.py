"""How W ranks share the work of one model, and which ways are legal.

    replicate   copies of the model, each with its own rows of a batch
    expert      the same, but the experts are spread over these ranks
    shard       the same, but weights, gradients and optimizer are spread over them
    tensor      a block's matrices are cut; all compute on the same rows
    pipeline    the blocks are cut into stages; a batch runs through in microbatches

    replicate x expert x shard x tensor x pipeline = W

The first three read different data: D = replicate x expert x shard.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from labsupport.distributed.parallel.schedules import SCHEDULES, require_schedule
from labsupport.errors import LabError
from labsupport.nn import GPTConfig

AXES = ("pipeline", "replicate", "expert", "shard", "tensor")
"""From the outermost to the innermost: ranks of the last one are neighbours, as they
talk most (arXiv 2104.04473, section 3)."""


@dataclass(frozen=True)
class Layout:
    """A way to share a model's work; see the module for what each axis does.

    Attributes:
        replicate, shard, tensor, pipeline, expert: ranks along each axis.
        reshard: a shard's gathered weights are given back after the forward and
            gathered once more for the backward (ZeRO-3). False: they stay until the
            backward is done, for one gathering less.
        schedule: the pipeline's, a key of SCHEDULES.
        microbatches: m, how many pieces of a batch run through the pipeline.

    Raises:
        LabError: an axis below 1, axes that cannot be combined, or a pipeline that
            would hang.
    """

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    reshard: bool = True
    schedule: str = "1F1B"
    microbatches: int = 1

    def __post_init__(self) -> None:
        for name in (*AXES, "microbatches"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LabError(f"Layout.{name}={value!r}: a whole number, at least 1.")
        if self.pipeline > 1:
            require_schedule(self.schedule, self.pipeline, self.microbatches)
        elif self.microbatches > 1:
            raise LabError(
                f"microbatches={self.microbatches} without a pipeline: use 1, or a "
                "pipeline of 2 stages or more."
            )
        if self.pipeline > 1 and self.shard > 1 and self.reshard:
            raise LabError(
                "A pipeline would gather sharded weights for every microbatch anew: "
                "use reshard=False with it."
            )
        if self.expert > 1 and self.shard * self.tensor * self.pipeline > 1:
            raise LabError(
                f"expert={self.expert} can be joined with replicate only: use 1 for "
                "shard, tensor and pipeline."
            )

    @property
    def world(self) -> int:
        """W, the ranks that it needs."""
        return self.data * self.tensor * self.pipeline

    @property
    def data(self) -> int:
        """D, into how many parts the rows of a batch are shared out."""
        return self.replicate * self.expert * self.shard

    @property
    def stages(self) -> int:
        """Stages of the pipeline, on all ranks together."""
        if self.pipeline == 1:
            return 1
        return self.pipeline * SCHEDULES[self.schedule].per_rank

    def __str__(self) -> str:
        parts = [
            f"{name} {getattr(self, name)}" for name in AXES if self.size(name) > 1
        ]
        words = " x ".join(parts) or "one process"
        if self.shard > 1 and not self.reshard and self.pipeline == 1:
            words += ", kept gathered"
        if self.pipeline > 1:
            words += f", {self.schedule} of {self.microbatches}"
        return words

    def size(self, axis: str) -> int:
        """Ranks along an axis."""
        size: int = getattr(self, axis)
        return size


def check(
    layout: Layout, config: GPTConfig, *, world: int, batch_size: int, experts: int = 0
) -> None:
    """Refuse a layout that does not fit.

    Args:
        layout: the layout.
        config: the model's shape.
        world: W, how many ranks there are.
        batch_size: B, sequences of all ranks together.
        experts: E of each block's mixture; 0 for a dense model.

    Raises:
        LabError: what does not fit, and what would.
    """
    if layout.world != world:
        raise LabError(
            f"{layout} needs {layout.world} ranks and there are {world}: use factors "
            f"of {world} ({_listed(divisors(world))}) whose product is {world}."
        )
    rows = layout.data * layout.microbatches
    if batch_size % rows:
        pieces = f"{layout.data} ranks"
        if layout.microbatches > 1:
            pieces += f" in {layout.microbatches} microbatches"
        raise LabError(
            f"A batch of {batch_size} cannot be shared out over {pieces}: use a "
            f"multiple of {rows}."
        )
    _check_tensor(layout, config, experts)
    _check_shards(layout, config, experts)
    if config.n_layers < layout.stages:
        raise LabError(
            f"{config.n_layers} layers for {layout.stages} stages: each needs one; use "
            f"at most {config.n_layers} stages, or a deeper model."
        )
    if config.tied and layout.pipeline > 1:
        raise LabError(
            "A pipeline has embedding and output layer on different ranks, where they "
            "cannot be one matrix: use tied=False."
        )
    if layout.expert > 1 and (experts < 1 or experts % layout.expert):
        have = f"{experts} experts" if experts else "A model without experts"
        raise LabError(
            f"{have} cannot be spread over {layout.expert} ranks: use a multiple of "
            f"{layout.expert}."
        )


def _check_tensor(layout: Layout, config: GPTConfig, experts: int) -> None:
    t = layout.tensor
    if t == 1:
        return
    if experts:
        raise LabError(
            f"tensor={t}: a mixture of experts is not cut by it; use expert instead."
        )
    for name, value in (("heads", config.n_heads), ("FFN width", config.ffn_width)):
        if value % t:
            raise LabError(
                f"{name} {value} cannot be cut over {t} ranks: use a divisor of "
                f"{value} for tensor ({_listed(divisors(value))})."
            )


def _check_shards(layout: Layout, config: GPTConfig, experts: int) -> None:
    """FSDP2 cuts the first dimension of what tensor parallelism has left."""
    if layout.shard == 1:
        return
    cuts = [
        ("width", config.d_model, layout.shard * layout.tensor),
        ("vocabulary", config.vocab_size, layout.shard),
        ("experts", experts, layout.shard)
        if experts
        else ("FFN width", config.ffn_width, layout.shard * layout.tensor),
    ]
    for name, value, cut in cuts:
        if value % cut:
            raise LabError(
                f"{name} {value} gives uneven shards over {cut} ranks: use a multiple "
                f"of {cut}, or fewer shards."
            )


def divisors(number: int) -> list[int]:
    """All of them, in order."""
    return [d for d in range(1, number + 1) if number % d == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def layouts(
    world: int,
    config: GPTConfig,
    batch_size: int,
    *,
    schedule: str = "1F1B",
    microbatches: int = 4,
    experts: int = 0,
) -> list[Layout]:
    """Every legal layout of W ranks; one process first where W is 1.

    Args:
        world: W.
        config: the model's shape.
        batch_size: B, of all ranks together.
        schedule: of the layouts with a pipeline.
        microbatches: m of those.
        experts: E of each block's mixture; 0 for a dense model.

    Raises:
        LabError: there is none; what is in the way is named.
    """
    if world < 1:
        raise LabError(f"{world} ranks: use at least 1.")
    found, reasons = [], []
    for sizes in itertools.product(divisors(world), repeat=len(AXES)):
        axes = dict(zip(AXES, sizes, strict=True))
        if math.prod(sizes) != world or (axes["expert"] > 1 and not experts):
            continue
        plain = axes["pipeline"] == 1
        ways = (True,) if axes["shard"] == 1 else (True, False) if plain else (False,)
        for reshard in ways:
            try:
                layout = Layout(
                    **axes,
                    reshard=reshard,
                    schedule=schedule,
                    microbatches=1 if plain else microbatches,
                )
                check(
                    layout, config, world=world, batch_size=batch_size, experts=experts
                )
            except LabError as error:
                reasons.append(str(error))
                continue
            found.append(layout)
    if not found:
        raise LabError(
            f"No layout fits {world} ranks, whose divisors are "
            f"{_listed(divisors(world))}. {' '.join(dict.fromkeys(reasons))}"
        )
    return found
