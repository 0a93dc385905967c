"""What lab 02 counts and computes: loads, costs, the toy, expert choice, updates."""

import math

import pytest
import torch

from labs.lab_02.costs import gpt_cost, mixture_weights
from labs.lab_02.exercises_deep import quantile_update
from labs.lab_02.expert_choice import expert_choice, leaked_bits, token_choice
from labs.lab_02.language import ARMS, dense_width, kind_of, make_gpt
from labs.lab_02.loads import dead_experts, information_share, load_table
from labs.lab_02.size_explorer import draw as draw_size
from labs.lab_02.size_explorer import model_weights
from labs.lab_02.toy import DOMAINS, ToyTask
from labs.lab_02.toy_runs import by_size, examine, train_toy
from labs.lab_02.updates import multiplicative_gate, proportional_update
from labsupport.errors import LabError
from labsupport.nn.moe_balance import max_violation

# --- loads -------------------------------------------------------------------


def test_a_load_table_by_hand():
    """Sequence 0 is of domain 1, sequence 1 of domain 0; two tokens, two visits."""
    index_BTK = torch.tensor([[[0, 1], [0, 2]], [[2, 1], [2, 0]]])
    count_GE = load_table(index_BTK, torch.tensor([1, 0]), 2, 3)
    assert count_GE.tolist() == [[1, 1, 2], [2, 1, 1]]
    with pytest.raises(LabError, match="no tokens"):
        load_table(index_BTK[:0], torch.tensor([]), 2, 3)


def test_information_by_hand():
    assert information_share(torch.eye(4)) == pytest.approx(1.0)
    assert information_share(torch.ones(4, 6)) == pytest.approx(0.0)
    # Two domains, equally frequent; expert 0 is all of domain 0 and half of 1.
    table = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    h_e, given = 0.75 * math.log(4 / 3) + 0.25 * math.log(4), 0.5 * math.log(2)
    assert information_share(table) == pytest.approx((h_e - given) / math.log(2))
    with pytest.raises(LabError, match="two domains"):
        information_share(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))


def test_dead_means_less_than_a_twentieth():
    assert dead_experts(torch.tensor([100, 100, 2, 0])) == 2


def test_max_violation_falls_when_more_is_computed_together():
    """Each of two sequences goes to one expert; together they are even."""
    index_BTK = torch.tensor([0, 1]).repeat(8)[:, None, None].expand(16, 4, 1)
    sizes = by_size(index_BTK)
    assert sizes[0] == 15.0
    assert sizes[1] == sizes[-1] == 7.0


# --- costs -------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_costs_are_the_models(arm):
    """All weights but the norms' vectors."""
    model, cost = make_gpt(arm, "cpu")
    vectors = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    assert cost.total == model.parameter_count() - vectors


def test_the_arms_are_what_their_names_say():
    cost = {arm: make_gpt(arm, "cpu")[1] for arm in ARMS}
    experts = cost["free"]
    assert cost["dense_25"].flops / experts.flops == pytest.approx(2.5, abs=0.01)
    router = 3 * 16 * 48
    assert cost["dense"].active == experts.active - router
    assert cost["dense_total"].total == experts.total - router
    assert dense_width("dense", "cpu") == 144


def test_a_mixtures_weights_by_hand():
    """D 4, H 2: an expert has 24 weights; 3 + 1 experts and a router of 12."""
    assert mixture_weights(4, 3, 2, 1, 2) == (4 * 24 + 12, 3 * 24 + 12)
    with pytest.raises(LabError, match="1 to 3 experts, not 4"):
        mixture_weights(4, 3, 4, 1, 2)


def test_v3_comes_out_as_published():
    """671 billion weights, 37 billion activated (arXiv 2412.19437, section 4.2)."""
    total, active = model_weights(256, 8, 1)
    assert round(total / 1e9) == 671
    assert round(active / 1e9) == 37
    assert "671 billion weights" in draw_size(256, 8, 1).sentence
    assert "cannot visit 16 of 8" in draw_size(8, 16, 1).sentence


def test_the_answers_beside_the_size_explorer():
    total, active = model_weights(256, 8, 1)
    assert f"{active / total:.1%}" == "5.5%"
    twice, more = model_weights(512, 8, 1)
    assert twice / total > 1.95
    assert round((more - active) / 1e9, 1) == 0.1
    half, same = model_weights(128, 8, 1)
    assert 0.5 < half / total < 0.53
    assert abs(same / active - 1) < 0.01


def test_gpt_flops_are_twice_the_active_weights():
    model, cost = make_gpt("dense", "ci")
    assert cost.flops == 2 * cost.active
    assert gpt_cost(model.config).total == cost.total


# --- the toy -----------------------------------------------------------------


def test_a_batch_is_a_function_of_task_and_step():
    task, again = ToyTask(3), ToyTask(3)
    assert torch.equal(task.batch(5).x_BTD, again.batch(5).x_BTD)
    assert not torch.equal(task.batch(5).x_BTD, task.batch(6).x_BTD)
    assert not torch.equal(task.batch(5).x_BTD, ToyTask(4).batch(5).x_BTD)


def test_skew_makes_domains_uneven():
    even, uneven = (ToyTask(0, skew).validation(4000).domain_B for skew in (0.0, 1.0))
    shares = torch.bincount(even, minlength=DOMAINS) / 4000
    assert (shares - 1 / 8).abs().max() < 0.03
    shares = torch.bincount(uneven, minlength=DOMAINS) / 4000
    assert shares[0] > 0.33
    with pytest.raises(LabError, match="skew=-1"):
        ToyTask(0, -1)


def test_a_constant_cannot_solve_it():
    """The variance of y is what a model that knows nothing leaves."""
    made = ToyTask(0).validation()
    assert made.y_BTD.var() > 0.2


def test_a_training_is_watched_step_by_step():
    seen = []
    watched = train_toy(
        "free",
        1,
        "ci",
        coefficient=0.01,
        keep=lambda step: step in (1, 20),
        watch=lambda step, load_E, bias_E: seen.append(step),
    )
    assert seen == list(range(1, 21))
    assert len(watched.load_SE) == len(watched.bias_SE) == 2
    assert sum(watched.load_SE[0]) == pytest.approx(16, abs=0.01)
    assert {abs(b) for b in watched.bias_SE[0]} <= {0.0, 0.01}
    found = examine(watched, "ci")
    assert sum(map(sum, found["table"])) == 32 * 32 * 2


def test_names_that_do_not_exist():
    with pytest.raises(LabError, match="arm='all'"):
        train_toy("all", 0, "ci")
    with pytest.raises(LabError, match="rule='cosine'"):
        train_toy("free", 0, "ci", rule="cosine")


# --- other rules -------------------------------------------------------------


def test_proportional_updates_by_hand():
    bias = proportional_update(torch.zeros(3), torch.tensor([6, 3, 0]), 0.1)
    assert bias.tolist() == pytest.approx([-0.1, 0.0, 0.1])


def test_a_multiplicative_bias_scales_scores_and_does_not_weigh():
    logits_NE = torch.logit(torch.tensor([[0.6, 0.5, 0.1]]))
    index_NK, weight_NK = multiplicative_gate(logits_NE, torch.tensor([0, 0.5, 0]), 2)
    assert index_NK.tolist() == [[1, 0]]
    assert weight_NK[0].tolist() == pytest.approx([5 / 11, 6 / 11])


def test_quantiles_balance_scores_that_stand_still():
    generator = torch.Generator().manual_seed(0)
    noise_NE = torch.randn(1024, 8, generator=generator)
    score_NE = torch.sigmoid(torch.linspace(-1, 1, 8) + noise_NE)
    bias_E = torch.zeros(8)
    violations = []
    for _ in range(20):
        chosen = (score_NE + bias_E).topk(2).indices.flatten()
        violations.append(max_violation(torch.bincount(chosen, minlength=8)))
        bias_E = quantile_update(score_NE, bias_E, 2)
    assert violations[0] > 0.8
    assert violations[-1] < 0.05


# --- expert choice -----------------------------------------------------------


def test_experts_that_choose_are_even_and_see_the_future():
    score_NE = torch.rand(32, 8, generator=torch.Generator().manual_seed(1))
    chosen_NE = expert_choice(score_NE, 2)
    assert chosen_NE.sum(0).tolist() == [8] * 8
    changed_NE = score_NE.clone()
    changed_NE[-1] = 1.0
    assert (expert_choice(changed_NE, 2) != chosen_NE)[:-1].any()
    own = token_choice(score_NE, 2)
    assert own.sum(1).tolist() == [2] * 32
    assert torch.equal(token_choice(changed_NE, 2)[:-1], own[:-1])
    with pytest.raises(LabError, match="no place each"):
        expert_choice(score_NE[:3], 2)


def test_the_bound_is_the_papers():
    """About 50 bits a token for 9 layers of 16 experts with 2 visits (appendix D)."""
    assert 9 * leaked_bits(16, 2) == pytest.approx(50, abs=1)
    with pytest.raises(LabError, match="Use 1 to 3 visits, not 4"):
        leaked_bits(4, 4)


def test_kinds_of_bytes():
    tokens = torch.tensor(list(b"aZ3 \n_\x80"))
    assert kind_of(tokens).tolist() == [0, 1, 2, 3, 4, 5, 5]
