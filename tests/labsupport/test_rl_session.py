"""`train_rl`: rewards rise, and whatever goes wrong is said in one sentence."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from labsupport import rl
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.rl.experience import Experience
from labsupport.settings import choose_settings
from labsupport.tasks.shell_game import ShellGame

GAME = ShellGame(cups=3, swaps=2)
CUPS = range(3)


def new_model(seed=0, max_len=GAME.max_len):
    torch.manual_seed(seed)
    words = len(GAME.vocabulary)
    return GPT(
        GPTConfig(vocab_size=words, d_model=16, n_layers=1, n_heads=2, max_len=max_len)
    )


def many_cups(prompt, completion):
    """A reward that is easily learned: the share of cups among what was written."""
    return sum(token in CUPS for token in completion) / GAME.longest


def go(model=None, **options):
    defaults = {
        "steps": 5,
        "lr": 1e-2,
        "prompts": 4,
        "group": 8,
        "reward": many_cups,
        "live": False,
        "settings": choose_settings("ci"),
    }
    return rl.train_rl(model or new_model(), GAME, **{**defaults, **options})


def same_weights(a, b):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    "loss",
    [rl.REINFORCE, rl.GRPO, rl.DR_GRPO, rl.DAPO, rl.GSPO, rl.CISPO],
    ids=["reinforce", "grpo", "dr_grpo", "dapo", "gspo", "cispo"],
)
def test_every_loss_raises_the_reward(loss):
    run = go(steps=30, loss=loss)
    table = run.table()
    assert run.stopped == "finished"
    assert table.reward[:3].mean() < 0.4
    assert table.reward[-3:].mean() > 0.8
    assert table.entropy.iloc[-1] < table.entropy.iloc[0] / 2


def test_the_table_says_what_happened():
    run = go(steps=4, eval_fn=lambda model: 0.25, eval_every=3)
    table = run.table()
    assert table.step.tolist() == [1, 2, 3, 4]
    assert table.validation.dropna().tolist() == [0.25, 0.25]
    assert run.validation == 0.25
    written = (table.length * 32).round().astype(int)
    assert table.tokens.tolist() == written.cumsum().tolist()
    assert table.seconds.is_monotonic_increasing
    assert 2.0 < table.entropy.iloc[0] < math.log(11) + 1e-6
    assert (table.clipped == 0).all()
    assert "kl" not in table
    assert run.sentence.startswith("Finished 4 steps in ")
    assert f"reward {run.reward:.3f}" in run.sentence
    names = {trace.name for trace in run.figure().data}
    assert names == {"reward", "length", "entropy", "validation"}


def test_a_run_depends_on_its_seed_alone():
    first = go()
    torch.manual_seed(99)
    again, other = go(), go(settings=choose_settings("ci", seed=1))
    assert same_weights(first.model, again.model)
    assert not same_weights(first.model, other.model)
    noisy = go(eval_fn=lambda model: torch.rand(1).item(), eval_every=1)
    assert same_weights(first.model, noisy.model)


def test_clipping_fires_with_several_updates_a_rollout_only():
    once = go(lr=0.05, steps=3, warmup=0.0)
    often = go(lr=0.05, steps=3, warmup=0.0, updates=3, minibatches=2)
    assert (once.table().clipped == 0).all()
    assert (often.table().clipped > 0.02).all()


def test_every_completion_is_used_once_an_update():
    model = new_model()
    rollout = rl.roll_out(model, GAME, GAME.prompts(3, seed=0), group=5)
    seen = Experience.of(rollout, lambda rewards: torch.arange(15.0).view(3, 5))
    numbers = np.random.default_rng(0)
    parts = list(seen.minibatches(2, 4, numbers))
    assert [pass_ for pass_, _ in parts] == [0] * 4 + [1] * 4
    orders = []
    for again in range(2):
        rows = [part.advantages_R for pass_, part in parts if pass_ == again]
        orders.append(torch.cat(rows))
        assert sorted(orders[-1].tolist()) == list(range(15))
    assert not torch.equal(*orders)
    assert len(list(seen.minibatches(1, 10, numbers))) == 10
    for _, part in parts:
        for a, tokens in zip(part.advantages_R.int(), part.tokens_RN, strict=True):
            assert torch.equal(tokens, seen.tokens_RN[a])


def test_equal_rewards_move_nothing_and_are_said_once(capsys):
    model = new_model()
    before = new_model()
    run = go(model, reward=lambda prompt, completion: 0.3)
    assert same_weights(model, before)
    table = run.table()
    assert (table.equal == 1).all()
    assert table.loss.isna().all()
    assert table.entropy.notna().all()
    said = capsys.readouterr().out
    assert said.count("all advantages are 0") == 1
    assert "Step 1:" in said


def test_equal_rewards_after_some_updates_do_not_move_on_by_momentum():
    calls = []

    def reward(prompt, completion):
        calls.append(1)
        return many_cups(prompt, completion) if len(calls) <= 2 * 32 else 0.0

    model, shorter = new_model(), new_model()
    go(model, reward=reward, steps=6, warmup=0.0)
    go(shorter, steps=2, warmup=0.0)
    assert same_weights(model, shorter)


def test_kl_holds_a_model_near_its_reference():
    start = new_model()
    free = go(steps=20, reference=start)
    loss = replace(rl.GRPO, beta=1.0, corrected=True)
    held = go(steps=20, reference=start, loss=loss)
    assert free.table().kl.iloc[0] == pytest.approx(0.0, abs=1e-6)
    assert held.table().kl.iloc[-1] < free.table().kl.iloc[-1] / 3
    assert same_weights(start, new_model())


def test_a_reference_that_is_the_model_itself_stays_where_it_was():
    model = new_model()
    run = go(model, reference=model, steps=10)
    assert run.table().kl.iloc[-1] > 0.01


def test_a_nan_loss_stops_before_it_reaches_the_weights(capsys):
    calls = []

    def bad(logp_RN, old_RN, advantages_R1, mask_RN):
        calls.append(1)
        gain_RN = advantages_R1 * logp_RN
        return gain_RN * float("nan") if len(calls) > 4 else gain_RN

    run = go(loss=replace(rl.GRPO, objective=bad))
    assert run.stopped == "nan"
    assert run.steps_done == 2
    assert run.sentence.startswith("Step 3: the loss is no longer a finite number")
    assert run.sentence in capsys.readouterr().out
    assert all(p.isfinite().all() for p in run.model.parameters())


def test_a_stop_ends_the_run_after_the_step_in_progress():
    stop = threading.Event()

    def reward(prompt, completion):
        stop.set()
        return many_cups(prompt, completion)

    run = go(reward=reward, stop=stop)
    assert run.stopped == "stopped"
    assert run.steps_done == 1
    assert run.sentence.startswith("Stopped after step 1 of 5: reward ")


def raising(prompt, completion):
    return completion[99]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": raising}, r"raised IndexError: .* \(prompt \[.*completion \["),
        ({"reward": lambda p, c: None}, "returned None"),
        ({"reward": lambda p, c: math.nan}, "returned nan.*finite number"),
        ({"reward": lambda p, c: "1"}, "returned '1'"),
        ({"group": 1}, "group of one completion has nothing"),
        ({"group": 0}, "group=0; use at least 1"),
        ({"prompts": 0}, "prompts=0"),
        ({"updates": 0}, "updates=0"),
        ({"minibatches": 33}, "minibatches=33: a rollout has 4 x 8 = 32"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"steps": 0}, "steps=0"),
        ({"loss": replace(rl.GRPO, beta=0.1)}, "beta=0.1 needs a reference model"),
        ({"model": new_model(max_len=6)}, "9 tokens.* do not fit.*max_len=6"),
        ({"advantage": lambda r: r.mean(1)}, r"shape \(4,\).*\(4, 8\)"),
        ({"advantage": lambda r: None}, "advantage function returned NoneType"),
        ({"advantage": lambda r: r / 0}, "not all finite"),
    ],
)
def test_bad_input_is_one_sentence(options, words):
    with pytest.raises(LabError, match=words):
        go(**options)


def test_one_completion_a_prompt_is_enough_for_plain_reinforce():
    run = go(group=1, prompts=32, advantage=rl.batch_baseline, loss=rl.REINFORCE)
    assert run.stopped == "finished"


def test_a_verifier_gets_completions_up_to_their_end_and_may_return_a_tensor():
    seen = []

    def reward(prompt, completion):
        seen.append((prompt, completion))
        return torch.tensor(1.0)

    rollout = rl.roll_out(new_model(), GAME, GAME.prompts(4, seed=0), reward, group=8)
    assert len(seen) == 32
    assert [prompt for prompt, _ in seen] == rollout.prompts_RT.tolist()
    assert [done for _, done in seen] == rollout.completions.rows()
    assert any(
        done == [GAME.eos] for _, done in seen
    )  # an empty thought, and no answer
    assert torch.equal(rollout.rewards_PG, torch.ones(4, 8))


def test_accuracy_counts_right_answers_of_validation_games():
    model = new_model()
    assert rl.accuracy(model, GAME, count=200) < 0.2
    again = rl.accuracy(model, GAME, count=200)
    assert again == rl.accuracy(model, GAME, count=200)


class ManyCups:
    """As the function `many_cups`, of a whole rollout at once."""

    def judge(self, prompts_RT, completions):
        is_cup_RN = (completions.tokens_RN < len(CUPS)) & completions.mask_RN
        return is_cup_RN.sum(dim=1) / GAME.longest


def test_a_judge_of_all_completions_is_worth_a_function_of_one():
    one, all_at_once = go(reward=many_cups), go(reward=ManyCups())
    assert one.table().reward.tolist() == all_at_once.table().reward.tolist()
    assert same_weights(one.model, all_at_once.model)


@pytest.mark.parametrize(
    ("came", "words"),
    [
        (lambda R: [1.0] * R, "judge returned list: 32 numbers, one a row"),
        (lambda R: torch.ones(R, 1), r"judge returned shape \(32, 1\): 32 numbers"),
        (lambda R: torch.full((R,), math.nan), "numbers that are not all finite"),
    ],
)
def test_a_judge_that_says_something_else_is_named(came, words):
    class Judge:
        def judge(self, prompts_RT, completions):
            return came(len(prompts_RT))

    with pytest.raises(LabError, match=words):
        go(reward=Judge())
