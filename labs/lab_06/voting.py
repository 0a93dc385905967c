"""Self-consistency: ask several times, and take what is said most often.

Source: Wang et al., 2022 (arXiv 2203.11171).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from labs.lab_06.thinker import Thinker
from labs.lab_06.traces import answer_of
from labs.lab_06.verifying import where

Vote = Callable[[Sequence[str]], str]


def vote(answers: Sequence[str]) -> str:
    """The most frequent answer; of several, the one that was said first.

    Args:
        answers: one a completion; "" where a completion has none.

    Returns:
        "" only where no completion has an answer.
    """
    given = [answer for answer in answers if answer]
    # Among equals, a counter names first what it saw first.
    return Counter(given).most_common(1)[0][0] if given else ""


def sampled_answers(
    thinker: Thinker,
    games: int,
    samples: int,
    *,
    temperature: float,
    seed: int,
) -> tuple[list[str], list[list[str]]]:
    """Ask about each game several times.

    Returns:
        where the ball is in each game, and what was answered.
    """
    game = thinker.game
    prompts_PT = game.prompts(games, seed=seed, split="validation")
    rows = thinker.write(
        prompts_PT, group=samples, temperature=temperature, seed=seed
    ).rows()
    said = [answer_of(game, row) for row in rows]
    right = [where(game.vocabulary.decode(prompt)) for prompt in prompts_PT]
    return right, [said[i : i + samples] for i in range(0, len(said), samples)]


def voted_accuracy(
    right: Sequence[str],
    answers: Sequence[Sequence[str]],
    votes: int,
    *,
    vote: Vote = vote,
    draws: int = 8,
    seed: int = 0,
) -> float:
    """The share of games won by a vote of `votes` answers.

    Each game's vote is held `draws` times, with answers drawn from its samples without
    putting them back, so that one unlucky draw counts little.
    """
    numbers = np.random.default_rng(seed)
    won = 0
    for cup, said in zip(right, answers, strict=True):
        for _ in range(draws):
            order = numbers.permutation(len(said))[:votes]
            won += vote([said[i] for i in order]) == cup
    return won / (draws * len(right))
