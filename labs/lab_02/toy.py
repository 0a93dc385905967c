"""A task whose domains are known, and one mixture of experts that learns it.

Eight domains. A token of domain d is a point near the domain's centre, and what
has to be predicted is the domain's own random function of it,

    x = centre_d + noise,    y = tanh(x W_d) V_d

All tokens of a sequence come from one domain, as the words of a text are on one
subject. So a sequence is uneven by nature, and only the batch can be even.

Shape suffixes: B sequences, T tokens of a sequence, D width, G domains, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labsupport.errors import LabError
from labsupport.nn import GPTConfig, MixtureOfExperts

DOMAINS, WIDTH, LENGTH, SEQUENCES = 8, 32, 32, 16
EXPERTS, TOP_K, HIDDEN = 16, 2, 24


@dataclass(frozen=True)
class ToyBatch:
    """x_BTD, y_BTD and the domain_B of every sequence."""

    x_BTD: Tensor
    y_BTD: Tensor
    domain_B: Tensor


class ToyTask:
    """Centres and functions of the domains, and batches of them.

    Args:
        seed: another seed, another task.
        skew: 0 for domains of equal frequency; domain d has a share of
            (d + 1)^-skew.

    Raises:
        LabError: a negative skew.
    """

    def __init__(self, seed: int, skew: float = 0.0) -> None:
        if skew < 0:
            raise LabError(f"skew={skew:g}: use 0 (even) or more.")
        self.seed = seed
        generator = torch.Generator().manual_seed(7919 * seed + 1)
        G, D = DOMAINS, WIDTH

        def normal(*shape: int, size: float = 1.0) -> Tensor:
            return size * torch.randn(shape, generator=generator)

        self.centre_GD = normal(G, D)
        self.w_GDD = normal(G, D, D, size=D**-0.5)
        self.v_GDD = normal(G, D, D, size=D**-0.5)
        self.share_G = torch.arange(1.0, G + 1) ** -skew

    def batch(self, step: int, sequences: int = SEQUENCES) -> ToyBatch:
        """The batch of one step: a pure function of the task and the step."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        domain_B = torch.multinomial(
            self.share_G, sequences, replacement=True, generator=generator
        )
        noise_BTD = torch.randn(sequences, LENGTH, WIDTH, generator=generator)
        x_BTD = self.centre_GD[domain_B, None] + noise_BTD
        y_BTD = torch.tanh(x_BTD @ self.w_GDD[domain_B]) @ self.v_GDD[domain_B]
        return ToyBatch(x_BTD, y_BTD, domain_B)

    def validation(self, sequences: int = 256) -> ToyBatch:
        """The same batch every time; no training step has it."""
        return self.batch(1_000_000, sequences)


class ToyMixture(nn.Module):
    """One mixture of experts between input and prediction.

    Args:
        parts: arguments of `MixtureOfExperts`, such as a reader's `gate`.
    """

    def __init__(self, **parts: object) -> None:
        super().__init__()
        config = GPTConfig(d_model=WIDTH, n_layers=1, n_heads=1)
        sizes = {"experts": EXPERTS, "top_k": TOP_K, "d_expert": HIDDEN}
        self.layer = MixtureOfExperts(config, **(sizes | parts))  # type: ignore[arg-type]

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.layer(x_BTD)
        return y_BTD

    def loss(self, x_BTD: Tensor, y_BTD: Tensor) -> Tensor:
        """Mean squared error."""
        return (self(x_BTD) - y_BTD).square().mean()
