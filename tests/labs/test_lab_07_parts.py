"""What lab 07 is made of: rewards, teachers, raters, a playground."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from labs.lab_07 import attempts, keeping, reward_model, slips
from labs.lab_07.boxes import boxes_start
from labs.lab_07.clip_explorer import CLIPS, DIVISIONS, draw, held
from labs.lab_07.countdown import COUNTDOWN, countdown_start
from labs.lab_07.kl_estimators import estimator_lines, gradients
from labs.lab_07.pictures import step_view
from labs.lab_07.plan import RL_PLANS
from labs.lab_07.reward_model import (
    Proxy,
    agreement,
    fit_reward_model,
    preference_loss,
    rated,
)
from labs.lab_07.rewarding import lax, on_tokens, strict
from labs.lab_07.runs import examined, reinforced, warm_start
from labs.lab_07.teachers import hedging
from labsupport.errors import LabError
from labsupport.generate import Completions
from labsupport.rl import roll_out
from labsupport.rl.objectives import clipped
from labsupport.tasks.boxes import Boxes
from labsupport.tasks.game import random_numbers
from labsupport.tasks.shell_game import ShellGame

GAME = ShellGame(swaps=4)


@pytest.fixture(scope="module")
def start():
    return warm_start(0, "ci")


def test_rewards_raise_what_a_warm_start_can_do(start):
    """The lab's headline, at the size of CI; 0.2 is a guess.

    Of six seeds the gain was 0.12 to 0.58: another processor is like another seed.
    """
    before = examined(start.model, start.game, "ci")
    weights = {name: w.clone() for name, w in start.model.state_dict().items()}
    run = reinforced(start, 0, "ci")
    after = examined(run.model, start.game, "ci")
    assert before.accuracy < 0.45
    assert after.accuracy > before.accuracy + 0.1
    assert after.length > before.length + 1
    for name, w in start.model.state_dict().items():
        assert torch.equal(w, weights[name]), "the warm start was trained"


def test_the_strict_reward_is_the_games_verifier(start):
    prompts_PT = start.game.prompts(32, seed=5)
    found = roll_out(start.model, start.game, prompts_PT, group=8, seeds=0)
    reward = on_tokens(strict, start.game)
    rows = zip(found.prompts_RT.tolist(), found.completions.rows(), strict=True)
    mine = [reward(prompt, row) for prompt, row in rows]
    assert mine == found.rewards_PG.flatten().tolist()
    assert 0 < sum(mine) < len(mine)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A C D = D EOS", (1, 1)),
        ("= D EOS", (1, 1)),
        ("= A = D EOS", (0, 1)),
        ("= A = B = D", (0, 1)),
        ("A C D = A EOS", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_two_rewards(text, wanted):
    """The table at the top of rewarding.py."""
    assert (strict("D", text), lax("D", text)) == wanted


def test_a_teacher_who_hedges():
    prompts_BT = GAME.prompts(2000, seed=0)
    rows = hedging()(GAME, prompts_BT, random_numbers(0, 0, "train"))
    equals = GAME.vocabulary["="]
    several = (rows == equals).sum(dim=1) > 1
    assert several.float().mean().item() == pytest.approx(0.2, abs=0.03)
    for row in rows.tolist():
        written = [token for token in row if token != GAME.pad]
        assert written[-1] == GAME.eos
        assert GAME.eos not in written[:-1]
        assert written[-3] == equals
        cups = [b for a, b in pairwise(written) if a == equals]
        assert len(set(cups)) == len(cups)
        assert all(0 <= cup < GAME.cups for cup in cups)


@pytest.mark.parametrize("flipped", [0.0, 0.2])
def test_raters_err_as_often_as_they_are_told(start, flipped):
    ratings = rated(start, 400, flipped, seed=3)
    right = [
        GAME.verify(prompt, [t for t in row if t != GAME.pad])
        for prompt, row in zip(
            ratings.prompts_BT.tolist(), ratings.better_BN.tolist(), strict=True
        )
    ]
    assert 1 - sum(right) / 400 == pytest.approx(flipped, abs=0.06)
    assert len(ratings.prompts_BT) == len(ratings.worse_BN) == 400


def test_raters_need_two_different_completions(start, monkeypatch):
    monkeypatch.setattr(reward_model, "ROLLOUTS", 2)

    class Always(ShellGame):
        def verify(self, prompt, completion):
            return 1.0

    always = type(start)(start.model, Always(swaps=4), start.run)
    with pytest.raises(LabError, match="a right and a wrong completion"):
        rated(always, 10, 0.0, seed=0)


def test_a_reward_model_learns_to_agree(start):
    """Here on what is plain to see: whether a completion is long."""
    ratings = rated(start, 300, 0.0, seed=3)
    long_first = ratings.better_BN.ne(GAME.pad).sum(1) >= ratings.worse_BN.ne(
        GAME.pad
    ).sum(1)
    swap_B1 = ~long_first[:, None]
    by_length = type(ratings)(
        ratings.prompts_BT,
        torch.where(swap_B1, ratings.worse_BN, ratings.better_BN),
        torch.where(swap_B1, ratings.better_BN, ratings.worse_BN),
        0.0,
    )
    model = fit_reward_model(start, by_length, seed=0, epochs=4)
    different = by_length.better_BN.ne(GAME.pad).sum(1) != by_length.worse_BN.ne(
        GAME.pad
    ).sum(1)
    plain = type(ratings)(
        by_length.prompts_BT[different],
        by_length.better_BN[different],
        by_length.worse_BN[different],
        0.0,
    )
    assert agreement(model, plain) > 0.9


def test_a_score_is_that_of_the_last_token(start):
    """What stands behind the end does not count."""
    ratings = rated(start, 20, 0.0, seed=3)
    model = fit_reward_model(start, ratings, seed=0, epochs=1)
    tokens_BN = ratings.better_BN
    longer = torch.cat([tokens_BN, torch.full((20, 2), GAME.pad)], dim=1)
    short = ratings.prompts_BT, tokens_BN
    room = start.model.config.max_len - GAME.prompt_length
    with torch.no_grad():
        wanted = model(*short)
        found = model(ratings.prompts_BT, longer[:, :room])
    torch.testing.assert_close(found, wanted)


def test_a_proxy_writes_down_what_the_verifier_says(start):
    ratings = rated(start, 40, 0.0, seed=3)
    proxy = Proxy(fit_reward_model(start, ratings, seed=0, epochs=1), start.game)
    prompts_PT = start.game.prompts(8, seed=9)
    judged = roll_out(start.model, start.game, prompts_PT, proxy, group=4)
    plain = roll_out(start.model, start.game, prompts_PT, group=4)
    assert proxy.gold == [plain.mean_reward]
    assert not torch.equal(judged.rewards_PG, plain.rewards_PG)
    assert isinstance(judged.completions, Completions)


def test_preferences_as_autograd_of_log_sigmoid():
    better, worse = torch.tensor([2.0, -1.0]), torch.tensor([0.0, 1.0])
    wanted = -torch.sigmoid(better - worse).log().mean()
    torch.testing.assert_close(preference_loss(better, worse), wanted)


@pytest.mark.parametrize("A", [1.0, -1.0])
@pytest.mark.parametrize("rho", [0.5, 0.79, 0.9, 1.1, 1.19, 1.25, 1.9])
def test_the_playground_says_what_the_gradient_does(A, rho):
    logp = torch.tensor([[rho]]).log().requires_grad_()
    gain = clipped(logp, torch.zeros(1, 1), torch.tensor([[A]]), torch.ones(1, 1))
    (slope,) = torch.autograd.grad(gain.sum(), logp)
    assert held(rho, A, 0.2, 0.2) == (slope.item() == 0)


def test_the_playgrounds_sentences():
    gspo, *_ = DIVISIONS
    clip, *_ = CLIPS
    assert "every advantage is 0" in draw(8, gspo, clip, 1.0).sentence
    view = draw(2, gspo, clip, 1.4)
    assert "right one has A = +1.62 and is held" in view.sentence
    assert "wrong one has A = -0.54 and still pulls" in view.sentence
    # The numbers of the answers below the playground.
    for right, divided, wanted in (
        (1, "yes (GRPO)", 2.47),
        (1, "no (Dr. GRPO)", 0.875),
        (4, "yes (GRPO)", 0.935),
        (4, "no (Dr. GRPO)", 0.5),
    ):
        first = draw(right, divided, clip, 1.0).figure.data[0].y[0]
        assert first == pytest.approx(wanted, abs=0.006)


def test_the_warm_start_of_boxes_learns_and_is_kept():
    start = boxes_start(0, "ci")
    first, *_, last = start.run.metrics
    assert last["loss"] < first["loss"]
    assert boxes_start(0, "ci") is start


def test_a_step_pushes_a_completion_as_far_as_its_advantage(start):
    prompts_PT = start.game.prompts(3, seed=3, split="validation")
    rollout = roll_out(start.model, start.game, prompts_PT, group=4, seeds=0)
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0] * 4, [1.0] * 4])
    view = step_view(replace(rollout, rewards_PG=rewards_PG), start.game)
    assert view.table["advantage"] == [1.5, -0.5, -0.5, -0.5] + [0.0] * 8
    (tokens,) = view.figure.data
    completions = view.table["completion"]
    assert " ".join(tokens.text) == " ".join(completions)
    lengths = [len(text.split()) for text in completions]
    pushed = [
        a
        for a, n in zip(view.table["advantage"], lengths, strict=True)
        for _ in range(n)
    ]
    assert list(tokens.marker.color) == pytest.approx(pushed, abs=0.01)
    assert "Of prompt 1, 1 of 4 completions are right: what won" in view.sentence
    assert "Of prompt 2, 0 of 4 completions are right: the group teaches nothing" in (
        view.sentence
    )
    shown = [note.text for note in view.figure.layout.annotations]
    assert "R = 1, A = +1.50" in shown


def test_the_kl_estimates_are_what_the_text_says():
    _, k1, k2, k3, weighted, values = estimator_lines()
    assert "teaches nothing" in k1
    assert "that of KL(pi || ref)" in k2
    assert "that of KL(ref || pi)" in k3
    assert "that of KL(pi || ref)" in weighted
    assert values == "KL(pi || ref) = 0.217, KL(ref || pi) = 0.254"
    generator = torch.Generator().manual_seed(0)
    pi_V, ref_V = torch.rand((2, 7), generator=generator).double().softmax(-1)
    found = gradients(pi_V, ref_V)
    for kind, (value, gradient_V) in found.items():
        away = abs(value - found["KL(pi || ref)"][0])
        assert (away < 1e-9) == (kind not in ("k2", "KL(ref || pi)")), kind
        assert gradient_V.sum().abs() < 1e-9


def test_a_start_of_countdown_keeps_the_form():
    start = countdown_start(0, "ci")
    assert countdown_start(0, "ci") is start
    first, *_, last = start.run.metrics
    assert last["loss"] < 0.7 * first["loss"]
    exam = examined(start.model, start.game, "ci")
    assert exam.ended > 0.9
    assert exam.accuracy < 0.5
    for plan in COUNTDOWN.values():
        assert plan.config.max_len >= plan.game.max_len


def test_the_better_model_is_kept_for_lab_08(start, monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setattr(keeping, "is_interactive", lambda: False)
    assert "Run in JupyterLab" in keeping.keep_model(start.model, GAME, 0.9)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(keeping, "is_interactive", lambda: True)
    assert "takes the course's own" in keeping.keep_model(start.model, GAME, 0.6)
    assert not list(tmp_path.iterdir())
    said = keeping.keep_model(start.model, GAME, 0.9)
    assert said == "Kept as lab 08's teacher: models/shell_game_4.safetensors."
    assert keeping.kept_accuracy(GAME) == 0.9
    assert "wins 90.0% and stays" in keeping.keep_model(start.model, GAME, 0.8)
    assert keeping.kept_accuracy(GAME) == 0.9
    keeping.keep_model(start.model, GAME, 0.95)
    assert keeping.kept_accuracy(GAME) == 0.95
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(b"damaged")
    assert keeping.kept_accuracy(GAME) == 0


def test_what_is_done_with_attempts():
    game = Boxes(boxes=3, attempts=4)
    written = [
        ("B C A A ?", "1 B RETRY 2 C RETRY 2 B QUIT EOS"),  # opened again, misread
        ("B C A A ?", "3 A OK EOS"),
        ("B C A A ?", "? RETRY"),
    ]
    looked = [
        attempts.looks(game, [game.vocabulary[word] for word in text.split()])
        for _, text in written
    ]
    A, B, C = 3, 4, 5
    assert looked == [[(0, B), (1, C), (1, B)], [(2, A)], []]
    assert attempts.share([True] * 19) is None
    assert attempts.share([True, False, False] * 10) == 0.3333
    start = boxes_start(0, "ci")
    row = attempts.attempts_row(start.model, start.game, "ci")
    assert set(row) == {"quits", "misread", "misread_late", "again"}
    assert all(value is None or 0 <= value <= 1 for value in row.values())


def test_slips_are_found_where_they_are(start, monkeypatch):
    """The model always writes the first cup: right until the first swap of it."""
    game = start.game

    class Stubborn:
        def __init__(self, prompts_PT):
            cups = prompts_PT[:, :1].repeat(1, game.swaps)
            tail = torch.tensor([[game.vocabulary["="], 0, game.eos]])
            self.completions = SimpleNamespace(
                rows=lambda: torch.cat(
                    [cups, tail.expand(len(cups), 3)], dim=1
                ).tolist()
            )

    monkeypatch.setattr(slips, "roll_out", lambda m, g, p, seeds: Stubborn(p))
    found = slips.first_slips(start.model, game, "ci")
    assert found
    for step in found:
        cup, swap, _, state = step.split()
        assert cup in swap
        assert state == cup
    prompts = game.prompts(64, seed=1, split="validation")
    stays = game.states(prompts) == prompts[:, :1]
    assert sum(found.values()) == int((~stays).any(dim=1).sum())
    row = slips.slips_row(start.model, game, "ci")
    assert row["slips"] == sum(found.values())
    assert row["commonest_share"] == round(max(found.values()) / row["slips"], 4)


def test_plans_say_what_they_are():
    assert RL_PLANS["cpu"].completions == 38_400
    assert "100 rollouts of 24 x 16" in str(RL_PLANS["cpu"])
