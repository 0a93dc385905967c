"""The shell game: prompts, corpora and a verifier that plays the game itself."""

from collections import Counter

import numpy as np
import pytest
import torch

from labsupport.errors import LabError
from labsupport.tasks.game import IGNORED
from labsupport.tasks.shell_game import (
    ShellGame,
    direct,
    every_state,
    filler,
    hasty,
)

GAME = ShellGame(cups=5, swaps=4)
WORDS = GAME.vocabulary


def written(write, prompt):
    """What a writer puts behind one prompt, as text."""
    prompts_BT = torch.tensor([WORDS.encode(prompt)])
    return WORDS.decode(write(GAME, prompts_BT, None)[0])


def learned(tokens, targets):
    """What is read, and what is learned, of one row."""
    return WORDS.decode(tokens), WORDS.decode(targets[targets != IGNORED])


def test_names_are_those_of_the_docstring():
    assert len(WORDS) == 5 + 10 + 5
    assert WORDS.decode(range(8)) == "A B C D E AB AC AD"
    assert WORDS.decode(range(13, 20)) == "CE DE ? = . EOS PAD"
    assert WORDS.decode([99]) == "99"
    with pytest.raises(LabError, match="'Z' is not in the vocabulary: use A B C"):
        WORDS.encode("A Z")


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (every_state(), "C E D D = D EOS"),
        (every_state(2), "E D = D EOS"),
        (every_state(4), "D = D EOS"),
        (direct(), "= D EOS"),
        (filler(), ". . . . = D EOS"),
    ],
)
def test_every_corpus_writes_what_was_worked_out_by_hand(write, text):
    assert written(write, "C AB CE DE AC ?") == text


def test_only_what_is_written_is_learned():
    tokens, targets = GAME.batch(every_state(), 0, batch_size=8, seed=0)
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.shape == targets.shape == (8, 6 + 7 - 1)
    for row in range(8):
        read, said = learned(tokens[row], targets[row])
        prompt = read.split()[:6]
        assert f"{read} EOS" == " ".join(prompt) + f" {said}"
        assert said == written(every_state(), " ".join(prompt))


def test_padding_is_not_learned():
    tokens, targets = GAME.batch(hasty(hasty=1.0, part=0.0), 0, batch_size=4, seed=0)
    for row in range(4):
        _, said = learned(tokens[row], targets[row])
        assert len(said.split()) == 3
        assert said.startswith("= ")
        assert said.endswith(" EOS")


def test_batches_depend_on_seed_step_and_split_alone():
    def batch(step=3, seed=1, split="train"):
        return GAME.batch(hasty(), step, batch_size=16, seed=seed, split=split)

    first = batch()
    torch.manual_seed(9)
    for one, other in zip(first, batch(), strict=True):
        assert torch.equal(one, other)
    for other in (batch(step=4), batch(seed=2), batch(split="validation")):
        assert not torch.equal(first[0], other[0])
    prompts = GAME.prompts(16, seed=1, step=3)
    assert torch.equal(first[0][:, :6], prompts)


def test_prompts_use_all_cups_and_swaps_about_equally():
    prompts = GAME.prompts(5000, seed=0)
    cups = Counter(prompts[:, 0].tolist())
    swaps = Counter(prompts[:, 1:5].flatten().tolist())
    assert sorted(cups) == list(range(5))
    assert sorted(swaps) == list(range(5, 15))
    assert all(900 < n < 1100 for n in cups.values())
    assert all(1800 < n < 2200 for n in swaps.values())


def test_verifier_and_simulation_agree_on_random_games():
    game = ShellGame(cups=6, swaps=12)
    prompts = game.prompts(200, seed=5)
    where = [game.where(prompt) for prompt in prompts.tolist()]
    assert where == game.states(prompts)[:, -1].tolist()
    assert len(set(where)) == 6


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("C E D D = D EOS", 1),
        ("= D EOS", 1),
        (". . = D EOS", 1),
        # A wrong thought costs nothing: only the answer is read.
        ("A A A A = D EOS", 1),
        ("C E D D = C EOS", 0),
        ("C E D D = D", 0),
        ("D EOS", 0),
        ("EOS", 0),
        ("", 0),
        ("= D D EOS", 0),
        # All cups in turn would otherwise be right somewhere.
        ("= A = B = C = D EOS", 0),
        ("= DE EOS", 0),
        ("= EOS EOS", 0),
        ("= D PAD", 0),
    ],
)
def test_the_verifier_reads_the_answer_only(completion, reward):
    prompt = WORDS.encode("C AB CE DE AC ?")
    assert GAME.verify(prompt, WORDS.encode(completion)) == reward


@pytest.mark.parametrize(
    "prompt", ["", "C", "C AB CE DE ?", "AB AB CE DE AC ?", "C AB CE D AC ?"]
)
def test_a_prompt_of_another_game_is_named(prompt):
    with pytest.raises(LabError, match="is no prompt of this game: it needs a cup"):
        GAME.verify(WORDS.encode(prompt), WORDS.encode("= D EOS"))


def test_the_hasty_corpus_has_the_shares_that_it_promises():
    game, n = ShellGame(cups=5, swaps=12), 12
    prompts = game.prompts(6000, seed=0)
    write = hasty(hasty=0.5, part=0.2, slip=0.04)
    completions = write(game, prompts, np.random.default_rng(0)).tolist()
    rows = [row[: row.index(game.eos) + 1] for row in completions]
    lengths = Counter(len(row) - 3 for row in rows)
    assert 0.47 < lengths[0] / 6000 < 0.53
    assert 0.27 < lengths[n] / 6000 < 0.33
    assert set(lengths) == set(range(n + 1))
    right = [game.verify(p, r) for p, r in zip(prompts.tolist(), rows, strict=True)]
    whole = [r for r, row in zip(right, rows, strict=True) if len(row) == n + 3]
    guessed = [r for r, row in zip(right, rows, strict=True) if len(row) < n + 3]
    # All 12 states without a slip: 0.96^12 = 0.61; some slips cancel.
    assert 0.57 < sum(whole) / len(whole) < 0.74
    assert 0.17 < sum(guessed) / len(guessed) < 0.23


def test_a_slip_is_carried_on():
    prompts = GAME.prompts(300, seed=1)
    write = hasty(hasty=0.0, part=0.0, slip=0.2)
    completions = write(GAME, prompts, np.random.default_rng(1))
    states = torch.cat([prompts[:, :1], completions[:, :4]], dim=1)
    follows = torch.stack(
        [GAME.after_SK[prompts[:, i] - 5, states[:, i - 1]] for i in range(1, 5)], dim=1
    )
    slipped = follows != completions[:, :4]
    assert 0.15 < slipped.float().mean() < 0.25
    # The answer is the last state, as it was written.
    assert torch.equal(completions[:, 5], completions[:, 3])


def test_without_haste_and_slips_it_is_every_state():
    prompts = GAME.prompts(50, seed=1)
    write = hasty(hasty=0.0, part=0.0, slip=0.0)
    completions = write(GAME, prompts, np.random.default_rng(1))
    assert torch.equal(completions, every_state()(GAME, prompts, None))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ShellGame(cups=1), "cups=1; use 2 to 26"),
        (lambda: ShellGame(cups=27), "cups=27; use 2 to 26"),
        (lambda: ShellGame(swaps=0), "swaps=0; use at least 1"),
        (lambda: every_state(0), r"every_state\(0\)"),
        (
            lambda: GAME.batch(every_state(3), 0, batch_size=1, seed=0),
            "3 does not divide the 4 swaps; use one of 1, 2, 4",
        ),
        (lambda: hasty(slip=1.5), "slip=1.5"),
        (lambda: hasty(hasty=0.7, part=0.5), "add up to more than 1"),
        (lambda: GAME.prompts(1, seed=0, split="test"), "Unknown split 'test'"),
    ],
)
def test_bad_input_is_one_sentence(make, words):
    with pytest.raises(LabError, match=words):
        make()
