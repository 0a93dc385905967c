"""Countdown: games that can be won, and a verifier that believes nothing."""

from __future__ import annotations

import pytest
import torch

from labsupport.errors import LabError
from labsupport.tasks.countdown import Countdown, aimless
from labsupport.tasks.game import random_numbers

GAME = Countdown(numbers=3)
PROMPT = "3 7 2 | 20 ?"


tokens = GAME.vocabulary.encode


@pytest.mark.parametrize(
    ("text", "wins"),
    [
        ("3 + 7 = 10 ; 10 * 2 = 20 EOS", True),
        ("7 + 3 = 10 ; 2 * 10 = 20 EOS", True),
        ("3 + 7 = 10 ; 10 * 2 = 20", False),  # no end
        ("3 + 7 = 10 EOS", False),  # 2 is left
        ("7 * 3 = 21 ; 21 - 2 = 19 EOS", False),  # another number
        ("3 + 7 = 20 EOS", False),  # wrong, and 2 is left
        ("3 + 7 = 18 ; 18 + 2 = 20 EOS", False),  # wrong on the way
        ("18 + 2 = 20 EOS", False),  # 18 was not given
        ("2 + 2 = 4 ; 7 + 3 = 10 ; 4 * 5 = 20 EOS", False),  # 2 twice
        ("20 EOS", False),
        ("EOS", False),
        ("", False),
        ("3 + 7 = 10 ; 10 * 2 = 20 ; EOS", False),
        ("3 + 7 = 10 10 * 2 = 20 EOS", False),
        ("= = = = = EOS", False),
        ("3 + 7 = 10 ; 10 * 2 = 20 EOS EOS", False),
    ],
)
def test_the_verifier_plays_every_step(text, wins):
    assert GAME.verify(tokens(PROMPT), tokens(text)) == float(wins)


def test_the_two_completions_of_the_modules_docstring():
    game = Countdown()
    prompt = game.vocabulary.encode("3 7 15 2 | 34 ?")
    for text, wins in (
        ("7 * 3 = 21 ; 15 + 21 = 36 ; 36 - 2 = 34 EOS", 1),
        ("15 * 2 = 30 ; 7 - 3 = 4 EOS", 0),
    ):
        assert game.verify(prompt, game.vocabulary.encode(text)) == wins


def test_results_stay_numbers_of_the_game():
    assert GAME.result(7, "/", 2) is None
    assert GAME.result(7, "/", 0) is None
    assert GAME.result(3, "-", 7) is None
    assert GAME.result(50, "*", 2) is None
    assert GAME.result(50, "+", 49) == 99
    assert GAME.result(8, "/", 2) == 4


def test_every_game_can_be_won():
    """The steps a game was made of are found again by trying many."""
    game = Countdown(numbers=3, highest=6)
    numbers = random_numbers(1, 0, "train")
    for prompt in game.prompts(20, seed=0).tolist():
        given, _ = game.given(prompt)
        found = (game.random_steps(given, numbers) for _ in range(3000))
        assert any(s and game.verify(prompt, game.written(s)) for s in found)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_aimless_steps_have_the_form_and_seldom_win(count):
    game = Countdown(numbers=count)
    prompts_BT = game.prompts(200, seed=0)
    written_BN = aimless()(game, prompts_BT, random_numbers(0, 0, "train"))
    assert written_BN.shape == (200, game.longest)
    won = 0.0
    for prompt, row in zip(prompts_BT.tolist(), written_BN.tolist(), strict=True):
        steps = game.parse([token for token in row if token != game.pad])
        assert steps is not None
        assert len(steps) == count - 1
        assert all(game.result(a, sign, b) == value for a, sign, b, value in steps)
        won += game.verify(prompt, [token for token in row if token != game.pad])
    assert 0 < won < 140


def test_draws_depend_on_seed_step_and_split_alone():
    game = Countdown()
    first = game.prompts(8, seed=0)
    assert torch.equal(first, game.prompts(8, seed=0))
    for other in ({"seed": 1}, {"seed": 0, "step": 1}):
        assert not torch.equal(first, game.prompts(8, **other))
    assert not torch.equal(first, game.prompts(8, seed=0, split="validation"))


def test_wrong_sizes_and_prompts_are_named():
    with pytest.raises(LabError, match="numbers=1; use 2 to 6"):
        Countdown(numbers=1)
    with pytest.raises(LabError, match="highest=200, largest=99"):
        Countdown(highest=200)
    with pytest.raises(LabError, match="is no prompt of this game"):
        GAME.verify(tokens("3 7 | 20 ?"), tokens("EOS"))
