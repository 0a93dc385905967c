"""What came of a training with rewards: one row of metrics for each rollout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labsupport.train import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass
class RLRun(Run):
    """As `Run`; a step is a rollout and the updates that are made with it.

    Columns of the table, beside those of `Run` (`loss`, `lr` and `grad_norm` are of the
    last update, `tokens` counts what was written):
        reward: mean of the rollout, before its updates.
        length: mean tokens of a completion.
        entropy: mean over tokens, nats, before the updates.
        clipped: share of tokens that the loss would not move any more, the mean over
            updates.
        equal: share of groups in which all rewards were equal.
        kl: mean over tokens of the loss's estimate, where there is a reference.
    """

    @property
    def reward(self) -> float:
        """The latest mean reward, NaN before the first step."""
        return self.metrics[-1]["reward"] if self.metrics else math.nan

    def numbers(self) -> list[str]:
        """See `Run.numbers`."""
        if not self.metrics:
            return ["no rollout yet"]
        last = self.metrics[-1]
        parts = [
            f"reward {last['reward']:.3f}",
            f"length {last['length']:.1f}",
            f"entropy {last['entropy']:.2f}",
        ]
        if not math.isnan(self.validation):
            parts.append(f"validation {self.validation:.3f}")
        return parts

    def curves(self, most: int = 0) -> dict[str, tuple[list[float], list[float]]]:
        """See `Run.curves`."""
        from labsupport.rl.figure import curves

        return curves(self.metrics, most)

    def figure(self) -> go.Figure:
        """Reward, length and entropy, one above the other."""
        from labsupport.rl.figure import rl_figure

        return rl_figure(self.metrics, self.title, self.band)
