"""The students of lab 08 at each scale, and what they may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from labs.lab_06.plan import CI as CI_THINKER
from labs.lab_07.plan import WARM
from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.tasks.shell_game import ShellGame


@dataclass(frozen=True)
class StudentPlan:
    """A student, the game of its teacher, and a budget that all ways of learning share.

    Attributes:
        game: the teacher's.
        width: D of the student, which has one layer and heads of 8 numbers.
        traces: how many games the teacher plays for it.
        batch_size: B, traces a step.
        budget: FLOPs, the teacher's writing and scoring included; its own training
            is not.
    """

    game: ShellGame
    width: int = 32
    traces: int = 2000
    batch_size: int = 64
    budget: float = 150e9

    @property
    def config(self) -> GPTConfig:
        """The student, with room for the longest completion."""
        return GPTConfig(
            vocab_size=len(self.game.vocabulary),
            d_model=self.width,
            n_layers=1,
            n_heads=max(1, self.width // 8),
            # As the other labs' models; the default rounds up for narrow ones.
            d_ff=round(8 / 3 * self.width),
            max_len=self.game.max_len,
        )

    def __str__(self) -> str:
        return (
            f"a student of width {self.width}; {self.traces} games of the teacher; "
            f"{self.budget / 1e9:g} GFLOPs"
        )


CPU = StudentPlan(WARM.game)
PLANS: Mapping[Scale, StudentPlan] = {
    "ci": replace(
        CPU,
        game=CI_THINKER.game,
        width=24,
        traces=400,
        batch_size=32,
        budget=8e9,
    ),
    "cpu": CPU,
    "gpu": CPU,
}
