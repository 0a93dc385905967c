"""Goodput: throughput times what a sample is worth in a batch of that size.

After Pollux (Qiao et al. 2021, arXiv 2008.12260, section 3). W workers share a batch
of B samples. Computing takes a + c B / W seconds, exchanging gradients n_W, and they
overlap more or less:

    T = (T_compute^gamma + n_W^gamma)^(1 / gamma),    1 <= gamma <= 10

With gamma = 1 they follow one another, with 10 the longer one is nearly all. In a large
batch a sample is worth less. With phi the noise scale and B_0 the batch for which the
recipe was made, it is worth

    efficiency = (phi + B_0) / (phi + B)

of a sample there (Pollux, equation 7; McCandlish et al., equation 2.11). So

    goodput = B / T * efficiency     samples of the first batch's worth, a second.

Pollux's n_W is a constant for workers in one machine, and grows with W beyond; here it
is a constant plus a share for each worker after the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from labsupport.errors import LabError


@dataclass(frozen=True)
class StepModel:
    """What a step costs, in seconds.

    Attributes:
        fixed: a, of computing, whatever the batch.
        per_sample: c.
        exchange: the exchange between two workers; one worker has none.
        per_worker: what each further worker adds to that.
        gamma: how well computing and exchanging overlap, from 1 (not) to 10.

    Raises:
        LabError: a time below 0, c not above 0, or gamma not in 1 to 10.
    """

    fixed: float
    per_sample: float
    exchange: float
    per_worker: float = 0.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("fixed", "exchange", "per_worker"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise LabError(f"{name}={value}: use a time of at least 0.")
        if not (math.isfinite(self.per_sample) and self.per_sample > 0):
            raise LabError(f"per_sample={self.per_sample}: use a time above 0.")
        if not 1 <= self.gamma <= 10:
            raise LabError(f"gamma={self.gamma}: use 1 to 10.")

    def time(self, batch: float, workers: int) -> float:
        """T of a step: B samples over W workers.

        Raises:
            LabError: fewer samples than workers, or no worker.
        """
        if workers < 1 or batch < workers:
            raise LabError(
                f"{batch:g} samples for {workers} workers: use at least 1 worker, and "
                "a sample for each."
            )
        compute = self.fixed + self.per_sample * batch / workers
        if workers == 1:
            return compute
        exchange = self.exchange + self.per_worker * (workers - 2)
        return float((compute**self.gamma + exchange**self.gamma) ** (1 / self.gamma))


def efficiency(batch: float, noise_scale: float, base: float) -> float:
    """What a sample is worth in a batch of B, in samples of the first batch.

    Args:
        batch: B.
        noise_scale: phi, in samples; infinity for pure noise.
        base: B_0.

    Raises:
        LabError: a batch below 1, or a noise scale below 0.
    """
    if batch < 1 or base < 1:
        raise LabError(f"Batches of {batch:g} and {base:g}: use at least 1.")
    if not noise_scale >= 0:
        raise LabError(f"noise_scale={noise_scale}: use at least 0.")
    if math.isinf(noise_scale):
        return 1.0
    return (noise_scale + base) / (noise_scale + batch)


def goodput(
    model: StepModel, batch: float, workers: int, noise_scale: float, base: float
) -> float:
    """Useful samples a second; see the module."""
    throughput = batch / model.time(batch, workers)
    return throughput * efficiency(batch, noise_scale, base)
