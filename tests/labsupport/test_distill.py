"""Distillation's parts: losses, few scores for all, traces, and what learning costs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from labsupport.distill import (
    FORWARD,
    JSD,
    REVERSE,
    Compute,
    DistillationLoss,
    Traces,
    top_k_of,
    write_traces,
)
from labsupport.distill.compute import weights
from labsupport.distill.loss import disagreement
from labsupport.distill.top_k import top_k_divergence
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.tasks.game import IGNORED
from labsupport.tasks.shell_game import ShellGame

GAME = ShellGame(swaps=2)


def scores(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(width=16, vocab_size=None, seed=0):
    torch.manual_seed(seed)
    return GPT(
        GPTConfig(
            vocab_size=vocab_size or len(GAME.vocabulary),
            d_model=width,
            n_layers=1,
            n_heads=2,
            max_len=GAME.max_len,
        )
    )


# --- losses -------------------------------------------------------------------


def test_forward_and_reverse_are_torchs_divergences():
    student, teacher = scores(2, 3, 5), scores(2, 3, 5, seed=1)
    targets = torch.zeros(2, 3, dtype=torch.long)
    p, q = (x.log_softmax(-1).flatten(0, 1) for x in (teacher, student))
    forward = F.kl_div(q, p, log_target=True, reduction="batchmean")
    reverse = F.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(FORWARD(student, teacher, targets), forward)
    torch.testing.assert_close(REVERSE(student, teacher, targets), reverse)
    assert 0 < JSD(student, teacher, targets) < min(forward, reverse)


def test_ignored_positions_and_the_teacher_get_no_gradient():
    student = scores(1, 3, 5).requires_grad_()
    teacher = scores(1, 3, 5, seed=1).requires_grad_()
    targets = torch.tensor([[IGNORED, 2, IGNORED]])
    FORWARD(student, teacher, targets).backward()
    assert teacher.grad is None
    assert student.grad[0, 0].abs().max() == student.grad[0, 2].abs().max() == 0
    assert student.grad[0, 1].abs().max() > 0


@pytest.mark.parametrize("T", [4.0, 16.0])
def test_the_size_of_the_gradient_does_not_follow_the_temperature(T):
    """T^2 in front: without it the gradient would be T^2 times smaller."""
    targets = torch.zeros(1, 64, dtype=torch.long)
    teacher = 0.1 * scores(1, 64, 11, seed=1)  # small scores: softmax is nearly linear

    def size(temperature):
        student = (0.1 * scores(1, 64, 11)).requires_grad_()
        DistillationLoss(0.0, temperature)(student, teacher, targets).backward()
        return student.grad.norm().item()

    assert size(T) == pytest.approx(size(1.0), rel=0.1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher": scores(1, 3, 6)}, "knows 5 tokens, the teacher 6"),
        ({"teacher": scores(1, 2, 5)}, "both need the same positions"),
        ({"teacher": scores(1, 3, 5) * torch.inf}, "not all finite"),
        ({"targets": torch.full((1, 3), IGNORED)}, "Every token is ignored"),
    ],
)
def test_what_a_loss_refuses(change, said):
    given = {
        "student": scores(1, 3, 5),
        "teacher": scores(1, 3, 5, seed=1),
        "targets": torch.zeros(1, 3, dtype=torch.long),
    } | change
    with pytest.raises(LabError, match=said):
        FORWARD(given["student"], given["teacher"], given["targets"])


@pytest.mark.parametrize("T", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_is_a_number_above_0(T):
    with pytest.raises(LabError, match="finite number above 0"):
        DistillationLoss(0.0, T)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_beta_is_a_share(beta):
    with pytest.raises(LabError, match="from 0 to 1"):
        DistillationLoss(beta)


def test_disagreement_is_known_token_by_token():
    student, teacher = scores(1, 3, 5), scores(1, 3, 5, seed=1)
    targets = torch.tensor([[IGNORED, 1, 2]])
    found = disagreement(student, teacher, targets)
    assert found.shape == (1, 3)
    assert found[0, 0] == 0
    assert found.sum() / 2 == pytest.approx(
        FORWARD(student, teacher, targets).item(), rel=1e-5
    )


# --- top-k ----------------------------------------------------------------------


def test_with_all_but_one_nothing_is_lost():
    student, teacher = scores(20, 9), scores(20, 9, seed=1)
    found = top_k_divergence(student, top_k_of(teacher, 8))
    wanted = F.kl_div(
        student.log_softmax(-1),
        teacher.log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    torch.testing.assert_close(found, wanted, atol=3e-3, rtol=3e-3)  # float16


def test_fewer_events_never_look_farther_apart():
    student, teacher = scores(50, 30), 3 * scores(50, 30, seed=1)
    each = [top_k_divergence(student, top_k_of(teacher, k)) for k in (1, 4, 16, 29)]
    for fewer, more in pairwise(each):
        assert (more - fewer).min() > -0.01
    assert each[0].min() > -0.01


def test_the_rest_is_not_called_impossible():
    """The student's gradient pulls at tokens that were not sent, too."""
    student = scores(1, 6).requires_grad_()
    teacher = torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    equal = teacher.clone().requires_grad_()
    top_k_divergence(equal, top_k_of(teacher, 2)).sum().backward()
    assert equal.grad.abs().max() < 1e-3  # a student like the teacher stays
    top_k_divergence(student, top_k_of(teacher, 2)).sum().backward()
    assert (student.grad[0, 2:] != 0).all()


def test_bytes_on_the_wire():
    assert top_k_of(scores(10, 256), 8).nbytes == 10 * (8 * 3 + 2)
    assert top_k_of(scores(10, 300), 8).nbytes == 10 * (8 * 6 + 2)


@pytest.mark.parametrize("k", [0, 9, 12])
def test_k_is_smaller_than_the_vocabulary(k):
    with pytest.raises(LabError, match="use 1 to 8"):
        top_k_of(scores(2, 9), k)


def test_scores_that_are_not_finite_are_not_sent():
    with pytest.raises(LabError, match="not all finite"):
        top_k_of(torch.tensor([[1.0, torch.nan, 0.0]]), 1)


# --- traces -----------------------------------------------------------------------


def test_traces_are_judged_and_scored():
    teacher = model()
    traces = write_traces(teacher, GAME, 40, seed=1)
    assert len(traces) == 40
    rows = zip(traces.prompts_BT.tolist(), traces.completions_BN.tolist(), strict=True)
    for (prompt, row), right in zip(rows, traces.right_B.tolist(), strict=True):
        written = [token for token in row if token != GAME.pad]
        assert bool(GAME.verify(prompt, written)) == right
    tokens_BS, targets_BS = traces.supervised()
    torch.testing.assert_close(traces.scores(teacher), teacher(tokens_BS))
    assert int((targets_BS != IGNORED).sum()) == traces.written


def test_every_round_sees_every_trace_once():
    traces = Traces(
        torch.arange(10)[:, None], torch.ones(10, 3), torch.ones(10) > 0, pad=9
    )
    seen = torch.cat([traces.rows(step, 4, seed=0) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:])
    assert torch.equal(traces.rows(2, 4, seed=0), seen[8:12])
    assert not torch.equal(traces.rows(2, 4, seed=1), seen[8:12])


def test_only_some():
    traces = write_traces(model(), GAME, 10, seed=1)
    keep_B = torch.arange(10) < 3
    assert torch.equal(traces.only(keep_B).prompts_BT, traces.prompts_BT[:3])
    with pytest.raises(LabError, match="No trace is left"):
        traces.only(torch.zeros(10, dtype=torch.bool))


def test_a_teacher_of_another_game():
    with pytest.raises(LabError, match="knows 7 tokens, and this game has 20"):
        write_traces(model(vocab_size=7), GAME, 4, seed=0)
    with pytest.raises(LabError, match="count=0"):
        write_traces(model(), GAME, 0, seed=0)


# --- compute ----------------------------------------------------------------------


def test_a_budget_is_spent_and_never_exceeded():
    student, teacher = model(16), model(32)
    N = weights(student)
    assert student.parameter_count() - 16 * len(GAME.vocabulary) == N
    budget = 6 * N * 1000
    compute = Compute.of(student, teacher, budget)
    compute.writes("teacher", 10)
    assert compute.spent == {"teacher writes": 2 * weights(teacher) * 10}
    steps = compute.steps(learned=20)
    assert steps == (budget - 20 * weights(teacher)) // (6 * N * 20)
    assert 0 <= compute.left < 6 * N * 20
    with pytest.raises(LabError, match="a step takes"):
        compute.steps(learned=20)
    with pytest.raises(LabError, match="above 0"):
        Compute.of(student, teacher, 0)
