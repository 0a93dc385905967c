"""Open the boxes: K boxes hold K letters, one each; which one holds the wanted one?

    prompt        C A D B A ?                       box 1 holds C, ..; wanted is A
    completion    3 D RETRY 2 A OK EOS              opens box 3, then box 2

An attempt is a box, the letter that is in it, and a verdict. After RETRY comes another
attempt, after OK and QUIT the end. How long a completion gets depends on how soon it
gives up.

The warm start opens boxes at random, reads them rightly, says honestly whether it found
the letter, and often quits. No example says which box is right.

Shape suffixes: B games, T = K + 2 tokens of a prompt, N tokens of a completion, A
attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase

import numpy as np
import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.tasks.game import Game, Writer
from labsupport.tasks.vocabulary import Vocabulary

Attempt = tuple[int, int, int]
"""A box from 0, a letter from 0, the token of a verdict."""


@dataclass(frozen=True)
class Boxes(Game):
    """The game with its vocabulary, its corpus and its verifier.

    Tokens are the boxes 0 .. K - 1, the letters K .. 2 K - 1, then six signs.

    Attributes:
        boxes: K, from 2 to 26.
        attempts: A, the most that count.

    Raises:
        LabError: other numbers.
    """

    boxes: int = 6
    attempts: int = 10

    def __post_init__(self) -> None:
        if not 2 <= self.boxes <= len(ascii_uppercase):
            raise LabError(
                f"Boxes: boxes={self.boxes}; use 2 to {len(ascii_uppercase)}."
            )
        if self.attempts < 1:
            raise LabError(f"Boxes: attempts={self.attempts}; use at least 1.")

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Boxes 1, 2, ..; letters A, B, ..; then ? RETRY OK QUIT EOS PAD."""
        boxes = [str(box + 1) for box in range(self.boxes)]
        signs = ("?", "RETRY", "OK", "QUIT", "EOS", "PAD")
        return Vocabulary([*boxes, *ascii_uppercase[: self.boxes], *signs])

    @property
    def prompt_length(self) -> int:
        """T = K + 2."""
        return self.boxes + 2

    @property
    def longest(self) -> int:
        """Tokens of a completion with all A attempts."""
        return 3 * self.attempts + 1

    def draw(self, count: int, numbers: np.random.Generator) -> Tensor:
        """prompts_BT of random games: what boxes hold, the wanted letter, `?`."""
        K = self.boxes
        held_BK = numbers.permuted(np.tile(np.arange(K), (count, 1)), axis=1)
        wanted_B1 = numbers.integers(0, K, size=(count, 1))
        ask_B1 = np.full((count, 1), self.vocabulary["?"])
        rows = [K + held_BK, K + wanted_B1, ask_B1]
        return torch.from_numpy(np.concatenate(rows, axis=1)).long()

    def parse(self, completion: Sequence[int]) -> list[Attempt] | None:
        """The attempts that a completion makes; None where it has another form."""
        *body, end = completion if len(completion) else [self.pad]
        if end != self.eos or not body or len(body) % 3:
            return None
        K = self.boxes
        retry, ok, stop = (self.vocabulary[name] for name in ("RETRY", "OK", "QUIT"))
        attempts = []
        for i in range(0, len(body), 3):
            box, letter, verdict = body[i : i + 3]
            allowed = (retry,) if i + 3 < len(body) else (ok, stop)
            if not (0 <= box < K <= letter < 2 * K and verdict in allowed):
                return None
            attempts.append((box, letter - K, verdict))
        return attempts

    def verify(self, prompt: Sequence[int], completion: Sequence[int]) -> float:
        """1.0 where the last attempt says OK at the box with the wanted letter.

        What the boxes hold is read from the prompt, never from the completion. More
        than A attempts count as none.

        Raises:
            LabError: a prompt that is none of this game.
        """
        held, wanted = self.held(prompt)
        attempts = self.parse(completion)
        if not attempts or len(attempts) > self.attempts:
            return 0.0
        box, _, verdict = attempts[-1]
        return float(verdict == self.vocabulary["OK"] and held[box] == wanted)

    def held(self, prompt: Sequence[int]) -> tuple[list[int], int]:
        """The letters in the boxes, and the wanted one, each from 0.

        Raises:
            LabError: a prompt that is none of this game.
        """
        K = self.boxes
        if (
            len(prompt) != self.prompt_length
            or not all(K <= letter < 2 * K for letter in prompt[:-1])
            or prompt[-1] != self.vocabulary["?"]
        ):
            raise LabError(
                f"{self.vocabulary.decode(prompt)!r} is no prompt of this game: it "
                f"needs {K} letters in boxes, the wanted letter, then ?."
            )
        *held, wanted = (letter - K for letter in prompt[:-1])
        return held, wanted


def impatient(give_up: float = 0.5, attempts: int = 4) -> Writer:
    """Writes random attempts, read rightly, judged honestly, and soon given up.

    Args:
        give_up: how likely a miss is the last attempt.
        attempts: the most that are made.

    Raises:
        LabError: give_up outside 0 to 1, or attempts below 1; when used, more attempts
            than the game has.
    """
    if not 0 <= give_up <= 1:
        raise LabError(f"impatient(give_up={give_up}): use a number from 0 to 1.")
    if attempts < 1:
        raise LabError(f"impatient(attempts={attempts}): use at least 1.")

    def write(game: Boxes, prompts_BT: Tensor, numbers: np.random.Generator) -> Tensor:
        if attempts > game.attempts:
            raise LabError(
                f"impatient(attempts={attempts}): the game has {game.attempts}."
            )
        B, K = len(prompts_BT), game.boxes
        prompts, rows = prompts_BT.numpy(), np.arange(B)
        wanted_B = prompts[:, K]
        completions_BN = np.full((B, 3 * attempts + 1), game.pad)
        goes_on_B = np.ones(B, dtype=bool)
        for i in range(attempts):
            box_B = numbers.integers(0, K, B)
            letter_B = prompts[rows, box_B]
            found_B = letter_B == wanted_B
            quits_B = (numbers.random(B) < give_up) | (i + 1 == attempts)
            verdict_B = np.where(
                found_B,
                game.vocabulary["OK"],
                np.where(quits_B, game.vocabulary["QUIT"], game.vocabulary["RETRY"]),
            )
            ends_B = goes_on_B & (found_B | quits_B)
            attempt_B3 = np.stack([box_B, letter_B, verdict_B], axis=1)
            completions_BN[goes_on_B, 3 * i : 3 * i + 3] = attempt_B3[goes_on_B]
            completions_BN[ends_B, 3 * i + 3] = game.eos
            goes_on_B &= ~ends_B
        return torch.from_numpy(completions_BN)

    return write
