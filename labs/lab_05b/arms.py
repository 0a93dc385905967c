"""The models that lab 05b compares, all derived from one plain model.

plain      one stream, no prefix: the model that all others are held against
prefix     one stream behind a prefix: what the prefix alone is worth
p2 p4 p8   that many streams
params8    plain, wider: as many parameters as p8 with all that its streams add
law8       plain, wider: as many as the published law says eight streams are worth
wide8      plain, wider: as many FLOPs a token as p8
long8      plain, longer: as many FLOPs in all as p8, so about 8 times the tokens
time8      plain, longer: as many seconds as p8
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from labs.lab_05b.plan import GPT_PLANS, PREFIX
from labs.lab_05b.sizes import (
    block_weights,
    plain_parameters,
    resized,
    stream_parameters,
    training_flops,
)
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig, ParScale
from labsupport.nn.parscale import EPS, Aggregate, aggregate_streams
from labsupport.settings import Scale

PUBLISHED_K = 0.3934
"""k on Stack-V2-Python, as the authors' table gives it: the corpus here is Python, too.
The notebook fits it anew."""

STREAM_ARMS = {"p2": 2, "p4": 4, "p8": 8}
NAMES = {
    "plain": "plain",
    "prefix": "1 stream behind a prefix",
    "p2": "2 streams",
    "p4": "4 streams",
    "p8": "8 streams",
    "params8": "plain, parameters of 8 streams",
    "law8": "plain, size by the law for 8",
    "wide8": "plain, FLOPs a token of 8",
    "long8": "plain, FLOPs in all of 8",
    "time8": "plain, seconds of 8",
}
"""As tables and figures call them."""
ARMS = tuple(NAMES)
TUNED = tuple(arm for arm in ARMS if arm != "time8")
"""time8 is long8 with another number of steps, and takes its learning rate."""


@dataclass(frozen=True)
class Arm:
    """One model and how long it trains.

    Attributes:
        config: of the shared weights.
        streams, prefix: P and M.
        steps: updates, each of the plan's batch.
    """

    config: GPTConfig
    streams: int
    prefix: int
    steps: int

    def make(
        self, eps: float = EPS, aggregate: Aggregate = aggregate_streams
    ) -> GPT:
        """A new model."""
        if self.streams == 1 and self.prefix == 0:
            return GPT(self.config)
        return ParScale(
            self.config,
            self.streams,
            prefix=self.prefix,
            eps=eps,
            aggregate=aggregate,
        )

    @property
    def flops_a_token(self) -> int:
        """Of training."""
        return training_flops(self.config, self.streams, self.prefix)


def arm_of(name: str, scale: Scale, time_ratio: float | None = None) -> Arm:
    """One of ARMS.

    Args:
        time_ratio: seconds of a step with eight streams over one of the plain model;
            only "time8" needs it.

    Raises:
        LabError: an unknown name, or time8 without its ratio.
    """
    if name not in ARMS:
        raise LabError(f"arm={name!r}: choose one of {', '.join(ARMS)}.")
    plan = GPT_PLANS[scale]
    config, M, steps = plan.config, PREFIX[scale], plan.steps
    if name in STREAM_ARMS:
        return Arm(config, STREAM_ARMS[name], M, steps)
    if name == "prefix":
        return Arm(config, 1, M, steps)
    if name == "params8":
        eight = plain_parameters(config) + stream_parameters(config, 8, M)
        config = resized(config, plain_parameters, eight)
    elif name == "law8":
        worth = PUBLISHED_K * math.log(8) + 1
        config = resized(config, block_weights, worth * block_weights(config))
    elif name == "wide8":
        eight = arm_of("p8", scale).flops_a_token
        config = resized(config, training_flops, eight)
    elif name == "long8":
        ratio = arm_of("p8", scale).flops_a_token / training_flops(config)
        steps = round(ratio * steps)
    elif name == "time8":
        if time_ratio is None:
            raise LabError(
                "time8 needs the ratio of two times: record `05b time` first."
            )
        steps = round(time_ratio * steps)
    return Arm(config, 1, 0, steps)
