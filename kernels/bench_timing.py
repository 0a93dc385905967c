"""Time GPU work, and say what the GPU could at best have done.

A time is meaningful only beside a bound. Here the bound is measured in the
same run: how fast this GPU copies memory, and how fast it multiplies matrices.

Not run yet: `CudaTimer` and `measure_roofline` need a GPU; the tests hold the
statistics and the arithmetic with made-up times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.operation import Cost

Call = Callable[[], object]
Timer = Callable[[Sequence[Call]], list[float]]
"""Runs the calls in turn, over and over; returns the time of each in ms."""


@dataclass(frozen=True)
class Times:
    """Percentiles of many times, in ms: the middle, and how far it spreads."""

    p20: float
    p50: float
    p80: float


def percentiles(samples: Sequence[float]) -> Times:
    """p20, p50 and p80, linear between the two nearest samples.

    Raises:
        ValueError: fewer than five samples, which have no such percentiles.
    """
    if len(samples) < 5:
        raise ValueError(
            f"need at least 5 samples for percentiles; got {len(samples)}."
        )
    ordered = sorted(samples)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return Times(at(0.2), at(0.5), at(0.8))


@dataclass(frozen=True)
class Roofline:
    """What this GPU did at its best in this run.

    Attributes:
        bytes_per_s: read plus written by a large copy.
        flops_per_s: dtype name -> a large matrix product in that dtype.
    """

    bytes_per_s: float
    flops_per_s: dict[str, float]

    def least_ms(self, cost: Cost, dtype: str) -> float:
        """The time below which no implementation can get, in ms.

        Moving the bytes and computing overlap, so the longer one counts.
        """
        moving = cost.bytes / self.bytes_per_s
        computing = cost.flops / self.flops_per_s[dtype]
        return 1e3 * max(moving, computing)


def rates(cost: Cost, times: Times, roofline: Roofline, dtype: str) -> dict[str, float]:
    """Bandwidth, arithmetic and the share of the roofline, at the median."""
    seconds = times.p50 / 1e3
    return {
        "gbytes_per_s": cost.bytes / seconds / 1e9,
        "tflops_per_s": cost.flops / seconds / 1e12,
        "share": roofline.least_ms(cost, dtype) / times.p50,
    }


def copies_needed(bytes_each: int, cache: int) -> int:
    """How many sets of inputs push each other out of the cache.

    By the time a set is used again, twice the cache has gone through it. Two at
    least, so that no call finds what the one before it left behind.
    """
    return max(2, math.ceil(2 * cache / max(bytes_each, 1)) + 1)


class CudaTimer:
    """Times calls on a GPU with CUDA events.

    A short kernel is over before Python has launched the next one, and events
    around it would time Python. So a batch of calls is queued while the GPU
    sleeps, then runs without gaps.
    """

    def __init__(self, samples: int = 200, batch: int = 10) -> None:
        self.samples = samples
        self.batch = batch

    def __call__(self, calls: Sequence[Call]) -> list[float]:
        for call in [*calls, *calls]:  # compiles, fills the allocator's pool
            call()
        torch.cuda.synchronize()
        found: list[float] = []
        turn = 0
        while len(found) < self.samples:
            torch.cuda._sleep(20_000_000)  # cycles, about 10 ms
            marks = []
            for _ in range(self.batch):
                begin = torch.cuda.Event(enable_timing=True)
                end = torch.cuda.Event(enable_timing=True)
                begin.record()
                calls[turn % len(calls)]()
                end.record()
                marks.append((begin, end))
                turn += 1
            torch.cuda.synchronize()
            found += [begin.elapsed_time(end) for begin, end in marks]
        return found


def measure_roofline(
    timer: Timer,
    device: torch.device,
    dtypes: Sequence[torch.dtype],
    copy_bytes: int = 1 << 30,
    side: int = 8192,
) -> Roofline:
    """Time a large copy and, in each dtype, a large matrix product.

    Args:
        copy_bytes: far more than any cache holds.
        side: M = N = K of the product. float32 is computed in float32, not in
            the shorter TF32, as the kernels compute; float8 as fast as the tensor
            cores can, which is without promoting sums.
    """
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device)
    copy = percentiles(timer([partial(torch.empty_like(source).copy_, source)]))
    torch.set_float32_matmul_precision("highest")
    flops = {}
    for dtype in dtypes:
        product = matrix_product(torch.randn(side, side, device=device).to(dtype))
        seconds = percentiles(timer([product])).p50 / 1e3
        flops[str(dtype).removeprefix("torch.")] = 2 * side**3 / seconds
    return Roofline(2 * copy_bytes / (copy.p50 / 1e3), flops)


def matrix_product(x: Tensor) -> Call:
    """x times itself, or for float8 its transpose, the only layout there is."""
    if x.itemsize > 1:
        return partial(torch.mm, x, x, out=torch.empty_like(x))
    one, recipe = torch.ones((), device=x.device), F.ScalingType.TensorWise
    return partial(F.scaled_mm, x, x.T, one, recipe, one, recipe, use_fast_accum=True)
