"""The warm starts and trainings with rewards of lab 07 at each scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from labs.lab_06.plan import CI, ThinkerPlan
from labsupport.settings import Scale


@dataclass(frozen=True)
class RLPlan:
    """How long to train with rewards, and by which steps.

    Attributes:
        steps: rollouts.
        prompts: P, fresh ones in each rollout.
        group: G, completions of each.
        lr: the learning rate.
    """

    steps: int = 100
    prompts: int = 24
    group: int = 16
    lr: float = 1e-3

    @property
    def completions(self) -> int:
        """How many are written and judged in all."""
        return self.steps * self.prompts * self.group

    def __str__(self) -> str:
        return (
            f"{self.steps} rollouts of {self.prompts} x {self.group} completions, "
            f"learning rate {self.lr:g}"
        )


WARM = ThinkerPlan(tokens=2_500_000, lr=3e-3)
"""12 swaps, one layer. With 1.5 million tokens and 60 rollouts, five recorded seeds
ended at 0.79, 0.89, 0.83, 0.90 and 0.31: it had read too little, see "some"."""
WARM_STARTS: Mapping[str, Mapping[Scale, ThinkerPlan]] = {
    "enough": {"ci": CI, "cpu": WARM, "gpu": WARM},
    "some": {
        "ci": replace(CI, tokens=80_000),
        "cpu": replace(WARM, tokens=1_500_000),
        "gpu": replace(WARM, tokens=1_500_000),
    },
    "too little": {
        "ci": replace(CI, tokens=20_000),
        "cpu": replace(WARM, tokens=400_000),
        "gpu": replace(WARM, tokens=400_000),
    },
}
"""How much a model has read before rewards come."""

RL = RLPlan()
RL_PLANS: Mapping[Scale, RLPlan] = {
    "ci": RLPlan(steps=25, prompts=12, group=8, lr=3e-3),
    "cpu": RL,
    "gpu": RL,
}
