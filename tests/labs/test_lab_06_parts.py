"""What lab 06 is made of: writers, changes of a trace, votes, verifiers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from labs.lab_06.plan import CI, GAMES
from labs.lab_06.sampler import read_again
from labs.lab_06.thinker import Thinker, train_thinker
from labs.lab_06.traces import Edit, corrupt, edits, right_states, shares
from labs.lab_06.verifying import as_reward, verify, where
from labs.lab_06.voting import sampled_answers, voted_accuracy
from labs.lab_06.writers import WRITERS, mended
from labsupport.errors import LabError
from labsupport.generate import generate
from labsupport.nn import GPT
from labsupport.rl import roll_out
from labsupport.tasks.game import random_numbers
from labsupport.tasks.shell_game import ShellGame

GAME = ShellGame(swaps=4)


@pytest.fixture(scope="module")
def in_steps() -> Thinker:
    return train_thinker("every", 0, CI)


def test_steps_solve_what_direct_answers_do_not(in_steps: Thinker):
    """The lab's headline, at the size of CI; 0.2 is a guess."""
    assert in_steps.accuracy(512) > 0.9
    at_once = train_thinker("direct", 0, CI)
    assert at_once.accuracy(512) < 0.35


def test_both_read_as_many_tokens():
    """So who writes less takes more steps."""
    read = []
    for writer in ("every", "direct"):
        tokens_BS, _ = GAME.batch(WRITERS[writer], 0, batch_size=32, seed=0)
        read.append(tokens_BS.numel() * CI.steps(tokens_BS.shape[1]))
    assert read[0] == pytest.approx(CI.tokens, rel=0.01)
    assert read[1] == pytest.approx(CI.tokens, rel=0.01)


def test_an_answer_follows_a_changed_state(in_steps: Thinker):
    found = shares(edits(in_steps, 256, seed=1))
    assert found["follows"] > 0.8
    assert found["stays"] < 0.1
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_ends_as_the_verifier_wants(writer: str):
    """Rightly where its answers are right, and never with another ending."""
    prompts_BT = GAME.prompts(200, seed=0)
    completions_BN = WRITERS[writer](GAME, prompts_BT, random_numbers(0, 0, "train"))
    won = 0.0
    for prompt, row in zip(prompts_BT.tolist(), completions_BN.tolist(), strict=True):
        completion = [token for token in row if token != GAME.pad]
        assert completion[-1] == GAME.eos
        assert GAME.answer(completion) is not None
        won += GAME.verify(prompt, completion)
    if writer in ("every", "every_2", "every_4", "filler", "direct", "mended"):
        assert won == 200
    if writer in ("carried", "hasty"):
        assert 40 < won < 160


def test_slips_are_mended_at_once():
    """A written state is wrong in a fifth of all cases, the answer never."""
    prompts_BT = GAME.prompts(2000, seed=0)
    written_BN = mended()(GAME, prompts_BT, random_numbers(0, 0, "train"))
    states_Bn = GAME.states(prompts_BT)
    wrong_Bn = written_BN[:, : GAME.swaps] != states_Bn
    assert wrong_Bn.float().mean().item() == pytest.approx(0.2, abs=0.02)
    # As often behind a slip as elsewhere: it is not carried on.
    behind = wrong_Bn[:, 1:][wrong_Bn[:, :-1]].float().mean().item()
    assert behind == pytest.approx(0.2, abs=0.03)
    assert torch.equal(written_BN[:, -2], states_Bn[:, -1])


def test_both_verifiers_agree():
    """The one on texts, which 6.1 asks for, and the game's own on tokens."""
    torch.manual_seed(0)
    model = GPT(CI.config)
    prompts_PT = GAME.prompts(64, seed=0)
    ours = roll_out(model, GAME, prompts_PT, group=4, seeds=1)
    theirs = roll_out(
        model, GAME, prompts_PT, as_reward(verify, GAME), group=4, seeds=1
    )
    assert torch.equal(ours.rewards_PG, theirs.rewards_PG)
    completions_BN = WRITERS["carried"](GAME, prompts_PT, random_numbers(0, 0, "train"))
    for prompt, row in zip(prompts_PT.tolist(), completions_BN.tolist(), strict=True):
        reward = as_reward(verify, GAME)(prompt, row)
        assert reward == GAME.verify(prompt, row)


def test_where_is_the_games_answer():
    prompts_BT = GAME.prompts(50, seed=0)
    for prompt_T, state_n in zip(prompts_BT, GAME.states(prompts_BT), strict=True):
        cup = GAME.vocabulary.names[int(state_n[-1])]
        assert where(GAME.vocabulary.decode(prompt_T)) == cup


def test_a_right_change_changes_nothing():
    """To the cup that holds the ball anyway."""
    text, answer = corrupt("C AB CE DE ?", "C E D", 2, "E")
    assert (text, answer) == ("C AB CE DE ? C E", "D")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda p, t, i, c: p, "corrupt returned"),
        (lambda p, t, i, c: (f"{p} {t}" if c == "A" else p, c), "have"),
        (lambda p, t, i, c: (f"{p} nowhere", c), "'nowhere' is not in the vocabulary"),
    ],
)
def test_a_reader_s_mistake_is_one_sentence(in_steps: Thinker, wrong, said):
    with pytest.raises(LabError, match=said):
        edits(in_steps, 64, corrupt=wrong)


def test_a_model_that_wins_writes_right_states(in_steps: Thinker):
    assert right_states(in_steps, 128) > 0.9
    torch.manual_seed(0)
    beginner = replace(in_steps, model=GPT(CI.config))
    assert right_states(beginner, 128) < 0.4


def test_shares_count_each_edit_once():
    found = [Edit(1, "A", "B", answer) for answer in ("A", "B", "B", "", "C")]
    assert shares(found) == {"follows": 0.4, "stays": 0.2, "neither": 0.4}


def test_votes_bring_out_what_is_most_frequent():
    """A right answer of two in five wins against three different wrong ones."""
    right, said = ["A"] * 20, [["A", "A", "B", "C", "D"] * 4] * 20
    one, all_of_them = (voted_accuracy(right, said, votes) for votes in (1, 20))
    assert one == pytest.approx(0.4, abs=0.12)
    assert all_of_them == 1.0


def test_sampled_answers_belong_to_their_games(in_steps: Thinker):
    right, said = sampled_answers(in_steps, 32, 4, temperature=0.3, seed=3)
    assert len(right) == len(said) == 32
    assert {len(each) for each in said} == {4}
    won = sum(
        cup == answer for cup, each in zip(right, said, strict=True) for answer in each
    )
    assert won / 128 > 0.8


def test_the_cache_changes_no_token(in_steps: Thinker):
    prompts_PT = GAME.prompts(32, seed=5)
    again_PN = read_again(in_steps.model, prompts_PT, 5)
    kept = generate(
        in_steps.model, prompts_PT, longest=5, eos=99, pad=99, temperature=0
    )
    assert torch.equal(again_PN, kept.tokens_RN)


def test_an_unknown_writer_is_refused():
    with pytest.raises(LabError, match="use one of every"):
        train_thinker("nobody", 0, replace(CI, tokens=1000))


def test_enough_games_for_a_percent():
    assert 0.5 / GAMES["cpu"] ** 0.5 < 0.016
