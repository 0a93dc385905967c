"""Open the boxes: the warm start is honest, the verifier reads the prompt."""

import numpy as np
import pytest
import torch

from labsupport.errors import LabError
from labsupport.tasks.boxes import Boxes, impatient

GAME = Boxes(boxes=4, attempts=3)
WORDS = GAME.vocabulary
PROMPT = "C A D B A ?"


def rows_of(game, write, count=2000, seed=0):
    """Prompts and what was written behind them, up to EOS."""
    prompts = game.prompts(count, seed=seed)
    completions = write(game, prompts, np.random.default_rng(seed)).tolist()
    rows = [row[: row.index(game.eos) + 1] for row in completions]
    return prompts.tolist(), rows


def test_every_box_holds_another_letter_and_any_may_be_wanted():
    prompts = GAME.prompts(400, seed=0)
    assert prompts.shape == (400, 6)
    assert (prompts[:, :4].sort(dim=1).values == torch.arange(4, 8)).all()
    assert len({tuple(row) for row in prompts[:, :4].tolist()}) == 24
    assert set(prompts[:, 4].tolist()) == set(range(4, 8))


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("2 A OK EOS", 1),
        ("3 D RETRY 2 A OK EOS", 1),
        # What the model claims to have read does not count.
        ("3 A OK EOS", 0),
        ("2 D OK EOS", 1),
        ("2 A QUIT EOS", 0),
        ("1 C RETRY 3 D RETRY 2 A OK EOS", 1),
        ("1 C RETRY 1 C RETRY 1 C RETRY 2 A OK EOS", 0),
        ("2 A OK 2 A OK EOS", 0),
        ("2 A RETRY EOS", 0),
        ("2 A OK", 0),
        ("A 2 OK EOS", 0),
        ("EOS", 0),
        ("", 0),
    ],
)
def test_the_verifier_looks_into_the_last_box_itself(completion, reward):
    assert GAME.verify(WORDS.encode(PROMPT), WORDS.encode(completion)) == reward


@pytest.mark.parametrize("prompt", ["", "C A D A ?", "C A D B 1 ?", "C A D B A A"])
def test_a_prompt_of_another_game_is_named(prompt):
    with pytest.raises(LabError, match="is no prompt of this game: it needs 4 letters"):
        GAME.verify(WORDS.encode(prompt), WORDS.encode("2 A OK EOS"))


def test_the_warm_start_is_honest_random_and_gives_up():
    game = Boxes(boxes=6, attempts=10)
    prompts, rows = rows_of(game, impatient(give_up=0.5, attempts=4))
    first = []
    for prompt, row in zip(prompts, rows, strict=True):
        attempts = game.parse(row)
        held, wanted = game.held(prompt)
        assert 1 <= len(attempts) <= 4
        for box, letter, verdict in attempts:
            assert held[box] == letter
            assert (verdict == game.vocabulary["OK"]) == (letter == wanted)
        first.append(attempts[0][0])
    assert all(250 < first.count(box) < 420 for box in range(6))
    solved = sum(map(game.verify, prompts, rows)) / len(rows)
    # One attempt finds it in 1 / 6; a miss is followed by another in half the cases.
    promised = sum(1 / 6 * (5 / 12) ** i for i in range(4))
    assert abs(solved - promised) < 0.03


def test_who_never_gives_up_uses_all_attempts():
    game = Boxes(boxes=6, attempts=10)
    prompts, rows = rows_of(game, impatient(give_up=0.0, attempts=10))
    assert max(map(len, rows)) == game.longest
    solved = sum(map(game.verify, prompts, rows)) / len(rows)
    assert abs(solved - (1 - (5 / 6) ** 10)) < 0.03


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Boxes(boxes=1), "boxes=1; use 2 to 26"),
        (lambda: Boxes(attempts=0), "attempts=0; use at least 1"),
        (lambda: impatient(give_up=2), "give_up=2"),
        (lambda: impatient(attempts=0), "attempts=0"),
        (
            lambda: GAME.batch(impatient(attempts=9), 0, batch_size=1, seed=0),
            "attempts=9.: the game has 3",
        ),
    ],
)
def test_bad_input_is_one_sentence(make, words):
    with pytest.raises(LabError, match=words):
        make()
