"""Countdown: make a number out of others, each used once.

    prompt        3 7 15 2 | 34 ?          out of 3, 7, 15, 2 make 34
    completion    7 * 3 = 21 ; 15 + 21 = 36 ; 36 - 2 = 34 EOS     won
    completion    15 * 2 = 30 ; 7 - 3 = 4 EOS                     30 and 4 are left

A step takes two numbers that are there and puts their result in their place. After
n - 1 steps one number is left; the game is won if it is the wanted one. The verifier
plays the steps and checks each; nothing that a model writes is ever evaluated.

The task is known from TinyZero (Pan et al., 2025), where expressions are written with
brackets. Steps are easier to write and to check.

Shape suffixes: B games, T = n + 3 tokens of a prompt, N = 6 (n - 1) tokens of a
completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.tasks.game import Game, Writer
from labsupport.tasks.vocabulary import Vocabulary

OPERATIONS = ("+", "-", "*", "/")
Step = tuple[int, str, int, int]
"""a, operation, b, their result."""


@dataclass(frozen=True)
class Countdown(Game):
    """The game with its vocabulary, its corpus and its verifier.

    Tokens are the numbers 0 .. `largest`, then the signs.

    Attributes:
        numbers: n, how many are given, from 2 to 6.
        highest: of the given numbers, which begin with 1.
        largest: of all numbers that may occur, results and targets among them.

    Raises:
        LabError: other sizes.
    """

    numbers: int = 4
    highest: int = 20
    largest: int = 99

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 6:
            raise LabError(f"Countdown: numbers={self.numbers}; use 2 to 6.")
        if not 1 <= self.highest <= self.largest <= 999:
            raise LabError(
                f"Countdown: highest={self.highest}, largest={self.largest}; use 1 <= "
                "highest <= largest <= 999."
            )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """0, 1, .., then + - * / = ; | ? EOS PAD."""
        numbers = [str(number) for number in range(self.largest + 1)]
        return Vocabulary([*numbers, *OPERATIONS, "=", ";", "|", "?", "EOS", "PAD"])

    @property
    def prompt_length(self) -> int:
        """T = n + 3."""
        return self.numbers + 3

    @property
    def longest(self) -> int:
        """Tokens of n - 1 steps with what stands between and behind them."""
        return 6 * (self.numbers - 1)

    def draw(self, count: int, numbers: np.random.Generator) -> Tensor:
        """prompts_BT of random games, each of which can be won."""
        names = self.vocabulary
        rows = []
        for _ in range(count):
            while True:
                given = numbers.integers(1, self.highest + 1, self.numbers).tolist()
                steps = self.random_steps(given, numbers)
                if steps is not None:
                    break
            rows.append([*given, names["|"], steps[-1][3], names["?"]])
        return torch.tensor(rows).long()

    def random_steps(
        self, given: Sequence[int], numbers: np.random.Generator
    ) -> list[Step] | None:
        """n - 1 right steps that nobody has aimed; None where they got stuck."""
        left, steps = list(given), []
        while len(left) > 1:
            i, j = numbers.choice(len(left), 2, replace=False).tolist()
            a, b = left[i], left[j]
            fit = [
                (sign, value)
                for sign in OPERATIONS
                if (value := self.result(a, sign, b)) is not None
            ]
            if not fit:
                return None
            sign, value = fit[int(numbers.integers(len(fit)))]
            steps.append((a, sign, b, value))
            left = [n for at, n in enumerate(left) if at not in (i, j)] + [value]
        return steps

    def result(self, a: int, sign: str, b: int) -> int | None:
        """What a step gives; None where that is no number of this game."""
        if sign == "/":
            return a // b if b and a % b == 0 else None
        value = {"+": a + b, "-": a - b, "*": a * b}[sign]
        return value if 0 <= value <= self.largest else None

    def written(self, steps: Sequence[Step]) -> list[int]:
        """The tokens of some steps, EOS included."""
        names, tokens = self.vocabulary, []
        for a, sign, b, value in steps:
            tokens += [a, names[sign], b, names["="], value, names[";"]]
        return [*tokens[:-1], self.eos]

    def parse(self, completion: Sequence[int]) -> list[Step] | None:
        """The steps that a completion makes; None where it has another form."""
        if not len(completion) or completion[-1] != self.eos:
            return None
        body = [*completion[:-1], self.vocabulary[";"]]
        if len(body) % 6:
            return None
        signs = {self.vocabulary[sign]: sign for sign in OPERATIONS}
        steps = []
        for i in range(0, len(body), 6):
            a, sign, b, equals, value, end = body[i : i + 6]
            if (
                not all(0 <= number <= self.largest for number in (a, b, value))
                or sign not in signs
                or equals != self.vocabulary["="]
                or end != self.vocabulary[";"]
            ):
                return None
            steps.append((a, signs[sign], b, value))
        return steps

    def verify(self, prompt: Sequence[int], completion: Sequence[int]) -> float:
        """1.0 where right steps use up all numbers and end at the wanted one.

        Raises:
            LabError: a prompt that is none of this game.
        """
        left, wanted = self.given(prompt)
        for a, sign, b, value in self.parse(completion) or []:
            for number in (a, b):
                if number not in left:
                    return 0.0
                left.remove(number)
            if self.result(a, sign, b) != value:
                return 0.0
            left.append(value)
        return float(left == [wanted])

    def given(self, prompt: Sequence[int]) -> tuple[list[int], int]:
        """The numbers of a prompt, and the wanted one.

        Raises:
            LabError: a prompt that is none of this game.
        """
        names, n = self.vocabulary, self.numbers
        if (
            len(prompt) != self.prompt_length
            or not all(1 <= number <= self.highest for number in prompt[:n])
            or prompt[n] != names["|"]
            or not 0 <= prompt[n + 1] <= self.largest
            or prompt[n + 2] != names["?"]
        ):
            raise LabError(
                f"{names.decode(prompt)!r} is no prompt of this game: it needs {n} "
                "numbers, |, the wanted number, then ?."
            )
        return list(prompt[:n]), prompt[n + 1]


def aimless() -> Writer:
    """Writes right steps that use up all numbers, aimed at nothing.

    Whoever learns from it can calculate and knows the form; which steps lead to the
    wanted number is what rewards have to teach.
    """

    def write(
        game: Countdown, prompts_BT: Tensor, numbers: np.random.Generator
    ) -> Tensor:
        completions_BN = torch.full((len(prompts_BT), game.longest), game.pad)
        for row, prompt in enumerate(prompts_BT.tolist()):
            given, _ = game.given(prompt)
            while (steps := game.random_steps(given, numbers)) is None:
                pass
            tokens = game.written(steps)
            completions_BN[row, : len(tokens)] = torch.tensor(tokens)
        return completions_BN

    return write
