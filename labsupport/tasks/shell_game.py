"""The shell game: a ball lies under one of K cups, n swaps follow, where is it?

    prompt        C AB CE DE ?       the ball is under C; A and B change places, ...
    every state   C E D = D EOS      where it is after each swap, then the answer
    direct        = D EOS            the answer at once
    filler        . . . = D EOS      as long as every state, and says nothing

To answer at once a model has to follow all n swaps inside one forward pass. When it
writes each state down, the next one needs one look at one swap.

A guess is right once in K. The verifier reads the answer only, and finds out for itself
where the ball is.

Shape suffixes: B games, T = n + 2 tokens of a prompt, M of a thought, N of a
completion, n swaps, K cups, S = K (K - 1) / 2 different swaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from string import ascii_uppercase

import numpy as np
import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.tasks.game import Game, Writer
from labsupport.tasks.vocabulary import Vocabulary


@dataclass(frozen=True)
class ShellGame(Game):
    """A shell game with its vocabulary, its corpora and its verifier.

    Tokens are the cups 0 .. K - 1, then the swaps, then five signs.

    Attributes:
        cups: K, from 2 to 26.
        swaps: n, 1 or more.

    Raises:
        LabError: other numbers of cups or swaps.
    """

    cups: int = 5
    swaps: int = 12

    def __post_init__(self) -> None:
        if not 2 <= self.cups <= len(ascii_uppercase):
            raise LabError(
                f"ShellGame: cups={self.cups}; use 2 to {len(ascii_uppercase)}."
            )
        if self.swaps < 1:
            raise LabError(f"ShellGame: swaps={self.swaps}; use at least 1.")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Cups A, B, ..; swaps AB, AC, ..; then ? = . EOS PAD."""
        cups = ascii_uppercase[: self.cups]
        swaps = [a + b for a, b in combinations(cups, 2)]
        return Vocabulary([*cups, *swaps, "?", "=", ".", "EOS", "PAD"])

    @property
    def prompt_length(self) -> int:
        """T = n + 2."""
        return self.swaps + 2

    @property
    def longest(self) -> int:
        """Tokens of a completion that writes every state: n, then `= d EOS`."""
        return self.swaps + 3

    @cached_property
    def after_SK(self) -> Tensor:
        """The cup with the ball after swap s, when it was under cup c before."""
        after_SK = torch.arange(self.cups).repeat(len(self._pairs), 1)
        for s, (a, b) in enumerate(self._pairs):
            after_SK[s, a], after_SK[s, b] = b, a
        return after_SK

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(self.cups), 2))

    def draw(self, count: int, numbers: np.random.Generator) -> Tensor:
        """prompts_BT of random games: a cup, n swaps, `?`."""
        start_B1 = numbers.integers(0, self.cups, size=(count, 1))
        swaps_Bn = numbers.integers(0, len(self._pairs), size=(count, self.swaps))
        ask_B1 = np.full((count, 1), self.vocabulary["?"])
        rows = [start_B1, self.cups + swaps_Bn, ask_B1]
        return torch.from_numpy(np.concatenate(rows, axis=1)).long()

    def states(self, prompts_BT: Tensor) -> Tensor:
        """states_Bn: the cup with the ball after each swap, int64."""
        after_SK = self.after_SK.to(prompts_BT.device)
        cup_B, states = prompts_BT[:, 0], []
        for i in range(1, self.swaps + 1):
            cup_B = after_SK[prompts_BT[:, i] - self.cups, cup_B]
            states.append(cup_B)
        return torch.stack(states, dim=1)

    def answer(self, completion: Sequence[int]) -> int | None:
        """The cup that a completion names: it has to end with `=`, a cup, EOS.

        What stands before is not read, but a second `=` makes it no answer. None where
        there is none.
        """
        equals = self.vocabulary["="]
        if len(completion) < 3 or list(completion).count(equals) != 1:
            return None
        sign, cup, end = completion[-3:]
        named = sign == equals and 0 <= cup < self.cups and end == self.eos
        return cup if named else None

    def verify(self, prompt: Sequence[int], completion: Sequence[int]) -> float:
        """1.0 where the completion names the cup with the ball, else 0.0.

        Args:
            prompt: T tokens.
            completion: up to its end, EOS included.

        Raises:
            LabError: a prompt that is none of this game.
        """
        return float(self.answer(completion) == self.where(prompt))

    def where(self, prompt: Sequence[int]) -> int:
        """The cup with the ball after all swaps, found by playing the game.

        Raises:
            LabError: a prompt that is none of this game.
        """
        known = range(self.cups, self.cups + len(self._pairs))
        if (
            len(prompt) != self.prompt_length
            or not 0 <= prompt[0] < self.cups
            or not all(swap in known for swap in prompt[1:-1])
            or prompt[-1] != self.vocabulary["?"]
        ):
            raise LabError(
                f"{self.vocabulary.decode(prompt)!r} is no prompt of this game: it "
                f"needs a cup, then {self.swaps} swaps, then ?."
            )
        cup, *swaps, _ = prompt
        for swap in swaps:
            a, b = self._pairs[swap - self.cups]
            if cup in (a, b):
                cup = a + b - cup
        return cup

    def closed(self, thought_BM: Tensor, answer_B: Tensor) -> Tensor:
        """completions_BN: a thought of M tokens, `=`, the answer, EOS."""
        ends = [self.vocabulary["="], self.eos]
        equals_B, eos_B = (torch.full_like(answer_B, token) for token in ends)
        tail_B3 = torch.stack([equals_B, answer_B, eos_B], dim=1)
        return torch.cat([thought_BM, tail_B3], dim=1)


def every_state(k: int = 1) -> Writer:
    """Writes each k-th state, then the answer.

    Raises:
        LabError: k below 1; when used, k that does not divide the number of swaps.
    """
    if k < 1:
        raise LabError(f"every_state({k}): use 1 or more.")

    def write(
        game: ShellGame, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        if game.swaps % k:
            fit = [str(d) for d in range(1, game.swaps + 1) if game.swaps % d == 0]
            raise LabError(
                f"every_state({k}): {k} does not divide the {game.swaps} swaps; use "
                f"one of {', '.join(fit)}."
            )
        written = game.states(prompts_BT)[:, k - 1 :: k]
        return game.closed(written, written[:, -1])

    return write


def direct() -> Writer:
    """Writes the answer at once."""

    def write(
        game: ShellGame, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        return game.closed(prompts_BT[:, :0], game.states(prompts_BT)[:, -1])

    return write


def filler() -> Writer:
    """Writes n dots, then the answer: time to compute, and no states."""

    def write(
        game: ShellGame, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        states_Bn = game.states(prompts_BT)
        dots_Bn = torch.full_like(states_Bn, game.vocabulary["."])
        return game.closed(dots_Bn, states_Bn[:, -1])

    return write


def hasty(hasty: float = 0.5, part: float = 0.2, slip: float = 0.04) -> Writer:
    """Writes as somebody would who can think in steps, rarely does, and slips.

    A slip is carried on: the states behind it follow from what was written.

    Args:
        hasty: the share that answers at once, by a guess.
        part: the share that stops at a random state, and guesses.
        slip: how likely each state is written wrong.

    Raises:
        LabError: a number outside 0 to 1, or shares that add up to more than 1.
    """
    for name, share in (("hasty", hasty), ("part", part), ("slip", slip)):
        if not 0 <= share <= 1:
            raise LabError(f"hasty({name}={share}): use a number from 0 to 1.")
    if hasty + part > 1:
        raise LabError(f"hasty({hasty}, {part}): both shares add up to more than 1.")

    def write(
        game: ShellGame, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        B, n, K = len(prompts_BT), game.swaps, game.cups
        prompts, after_SK = prompts_BT.numpy(), game.after_SK.numpy()
        states_Bn = np.empty((B, n), dtype=np.int64)
        cup_B = prompts[:, 0]
        for i in range(n):
            cup_B = after_SK[prompts[:, i + 1] - K, cup_B]
            slips_B = numbers.random(B) < slip
            # From 1 to K - 1 cups further on: any cup but the right one.
            cup_B = (cup_B + slips_B * numbers.integers(1, K, B)) % K
            states_Bn[:, i] = cup_B

        kind_B = numbers.random(B)
        some_B = numbers.integers(1, n, B) if n > 1 else np.zeros(B, np.int64)
        length_B = np.where(
            kind_B < hasty, 0, np.where(kind_B < hasty + part, some_B, n)
        )
        guess_B = numbers.integers(0, K, B)
        answer_B = np.where(length_B == n, states_Bn[:, -1], guess_B)

        completions_BN = np.full((B, game.longest), game.pad)
        thought = np.arange(n) < length_B[:, None]
        completions_BN[:, :n][thought] = states_Bn[thought]
        tail = (game.vocabulary["="], answer_B, game.eos)
        for offset, token in enumerate(tail):
            completions_BN[np.arange(B), length_B + offset] = token
        return torch.from_numpy(completions_BN)

    return write
