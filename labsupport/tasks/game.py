"""What all games have in common: prompts, completions to learn, and a verifier.

A prompt states a game, and a completion is what a model writes behind it: its thoughts,
then an answer. The verifier finds the right answer itself, from the prompt.

Shape suffixes: B games, T tokens of a prompt, N tokens of a completion, S = T + N - 1
positions at which a model says what comes next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.tasks.vocabulary import Vocabulary

Split = Literal["train", "validation"]
Writer = Callable[[Any, Tensor, np.random.Generator], Tensor]
"""(game, prompts_BT, random numbers) -> completions_BN, filled up with PAD."""
IGNORED = -100
"""A target that does not count in `GPT.loss`."""


class Game(ABC):
    """A game in which every prompt has the same length."""

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The names of all tokens, EOS and PAD among them."""

    @property
    @abstractmethod
    def prompt_length(self) -> int:
        """T, the tokens of a prompt."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """The tokens of the longest completion that makes sense, EOS included."""

    @abstractmethod
    def draw(self, count: int, numbers: np.random.Generator) -> Tensor:
        """prompts_BT of `count` random games, int64."""

    @abstractmethod
    def verify(self, prompt: Sequence[int], completion: Sequence[int]) -> float:
        """1.0 where a completion answers its prompt rightly, else 0.0.

        It parses what a model wrote, and never evaluates it.

        Raises:
            LabError: a prompt that is none of this game.
        """

    @property
    def eos(self) -> int:
        """The token that ends a completion."""
        return self.vocabulary["EOS"]

    @property
    def pad(self) -> int:
        """The token that fills up what is shorter."""
        return self.vocabulary["PAD"]

    @property
    def max_len(self) -> int:
        """Positions that a model needs for a prompt and its longest completion."""
        return self.prompt_length + self.longest

    def prompts(
        self, count: int, *, seed: int, step: int = 0, split: Split = "train"
    ) -> Tensor:
        """prompts_BT of `count` games, int64, on the CPU.

        A pure function of seed, step and split; the two splits are drawn apart.
        """
        return self.draw(count, random_numbers(seed, step, split))

    def batch(
        self,
        write: Writer,
        step: int,
        *,
        batch_size: int,
        seed: int,
        split: Split = "train",
    ) -> tuple[Tensor, Tensor]:
        """The supervised batch of one step, a pure function of seed and step.

        Args:
            write: what stands behind the prompts.
            step: 0 or more.
            batch_size: B.
            seed: another seed, other games.
            split: the games of training, or those of validation.

        Returns:
            tokens_BS and targets_BS, int64, on the CPU; see `supervised`.
        """
        numbers = random_numbers(seed, step, split)
        prompts_BT = self.draw(batch_size, numbers)
        return supervised(prompts_BT, write(self, prompts_BT, numbers), self.pad)


def random_numbers(seed: int, step: int, split: Split) -> np.random.Generator:
    """The random numbers of one batch.

    Raises:
        LabError: an unknown split.
    """
    if split not in ("train", "validation"):
        raise LabError(f"Unknown split {split!r}: use 'train' or 'validation'.")
    # SeedSequence mixes the numbers well: neighbouring steps are unrelated.
    return np.random.default_rng([seed, step, split == "validation"])


def supervised(
    prompts_BT: Tensor, completions_BN: Tensor, pad: int
) -> tuple[Tensor, Tensor]:
    """What a model reads, and what it should say next; prompts are not learned.

    Args:
        prompts_BT: int64.
        completions_BN: int64, `pad` behind the end of the shorter ones.
        pad: the token that fills up.

    Returns:
        tokens_BS and targets_BS, int64. A target is `IGNORED` inside the prompt and
        where a completion is filled up.
    """
    whole = torch.cat([prompts_BT, completions_BN], dim=1)
    targets_BS = whole[:, 1:].masked_fill(whole[:, 1:] == pad, IGNORED)
    targets_BS[:, : prompts_BT.shape[1] - 1] = IGNORED
    return whole[:, :-1].contiguous(), targets_BS
