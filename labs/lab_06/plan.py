"""The games and models of lab 06 at each scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

from labsupport.nn import GPTConfig
from labsupport.settings import Scale
from labsupport.tasks.shell_game import ShellGame


@dataclass(frozen=True)
class ThinkerPlan:
    """A game, the model that learns it, and how long.

    Attributes:
        swaps: n, how often two cups change places.
        layers: of the model.
        width: D of the model.
        tokens: what is read in training, prompts and completions together. The number
            of steps follows from it, so that who writes less sees more games.
        batch_size: B, games a step.
        lr: the highest learning rate.
    """

    swaps: int = 12
    layers: int = 1
    width: int = 64
    tokens: int = 1_000_000
    batch_size: int = 128
    lr: float = 4e-3

    @property
    def game(self) -> ShellGame:
        """Five cups, so a guess is right once in five."""
        return ShellGame(swaps=self.swaps)

    @property
    def config(self) -> GPTConfig:
        """The model, with room for the longest completion."""
        return GPTConfig(
            vocab_size=len(self.game.vocabulary),
            d_model=self.width,
            n_layers=self.layers,
            n_heads=4,
            max_len=self.game.max_len,
        )

    def steps(self, length: int) -> int:
        """Updates, where a game with its completion has this many tokens."""
        return max(1, self.tokens // (self.batch_size * length))

    def __str__(self) -> str:
        return (
            f"{self.swaps} swaps, 5 cups; {self.layers} layer"
            f"{'s' if self.layers > 1 else ''}, width {self.width}; "
            f"{self.tokens / 1e6:g} million tokens, {self.batch_size} games a step; "
            f"learning rate up to {self.lr:g}"
        )


CPU = ThinkerPlan()
CI = replace(CPU, swaps=4, width=32, tokens=150_000, batch_size=32, lr=1.6e-2)
PLANS: dict[Scale, ThinkerPlan] = {"ci": CI, "cpu": CPU, "gpu": CPU}
WATCHED = replace(CPU, tokens=1_500_000)
LIVE: dict[Scale, ThinkerPlan] = {"ci": CI, "cpu": WATCHED, "gpu": WATCHED}
"""Of the trainings that a reader watches. Of five with a million tokens, one had not
finished: it won 62 % of its games, the others above 99 %."""
GAMES: dict[Scale, int] = {"ci": 64, "cpu": 1024, "gpu": 1024}
"""Fresh games to judge a model by: of 1024 a share of a half is known to 1.6 points."""

SMALL_EASY = ThinkerPlan(
    swaps=3, layers=2, width=32, tokens=600_000, batch_size=64, lr=8e-3
)
LIVE_EASY: dict[Scale, ThinkerPlan] = {
    "ci": replace(SMALL_EASY, swaps=2, tokens=200_000),
    "cpu": SMALL_EASY,
    "gpu": SMALL_EASY,
}
"""Three swaps, which two layers can follow without steps; small, to be quick."""
SLOPPY = replace(CPU, tokens=1_500_000, lr=3e-3)
HASTY: dict[Scale, ThinkerPlan] = {"ci": CI, "cpu": SLOPPY, "gpu": SLOPPY}
"""To learn from examples that are mostly guesses takes longer."""
