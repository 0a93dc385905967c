"""The mixture of experts is the V3 report's, and its balance is algorithm 1's.

`token_by_token` is written from equations 12 to 16 of arXiv 2412.19437 alone: loops
over tokens and experts, in float64, nothing shared with the layer but its weights.
"""

import copy
import math
from functools import partial

import pytest
import torch

from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig, MixtureOfExperts, moe_balance
from labsupport.nn.moe_balance import (
    AuxiliaryLoss,
    LoadBalancer,
    auxiliary_loss,
    max_violation,
    routings,
    sign_update,
)
from labsupport.train import train

CONFIG = GPTConfig(d_model=8, n_layers=2, n_heads=2, max_len=16)


def mixture(seed=0, **sizes):
    torch.manual_seed(seed)
    layer = MixtureOfExperts(CONFIG, **({"experts": 6, "d_expert": 8} | sizes))
    with torch.no_grad():
        layer.bias_E.normal_(std=0.3)
    return layer.double()


def swiglu(x, gate_up, down):
    H = down.shape[0]
    pre = [sum(x[d] * gate_up[d, j] for d in range(len(x))) for j in range(2 * H)]
    a = [pre[j] / (1 + math.exp(-pre[j])) * pre[H + j] for j in range(H)]
    return torch.tensor(
        [sum(a[j] * down[j, d].item() for j in range(H)) for d in range(down.shape[1])]
    )


def token_by_token(layer, x_ND):
    """Equations 12 to 16, with the groups of section 2.1.2, without the residual."""
    outputs = []
    E, K = len(layer.router_ED), layer.top_k
    size = E // layer.groups
    for u in x_ND.tolist():
        s = []
        for e in layer.router_ED.tolist():
            dot = sum(a * b for a, b in zip(u, e, strict=True))
            s.append(1 / (1 + math.exp(-dot)))
        biased = [s_i + b_i for s_i, b_i in zip(s, layer.bias_E.tolist(), strict=True)]
        groups = [
            sum(sorted(biased[g * size : (g + 1) * size])[-2:])
            for g in range(layer.groups)
        ]
        kept = sorted(range(layer.groups), key=lambda g: -groups[g])
        kept = kept[: layer.kept_groups or layer.groups]
        allowed = [i for i in range(E) if i // size in kept]
        chosen = sorted(allowed, key=lambda i: -biased[i])[:K]
        total = sum(s[i] for i in chosen)
        y = torch.zeros(len(u), dtype=torch.float64)
        for i in chosen:
            out = swiglu(u, layer.gate_up_ED2H[i], layer.down_EHD[i])
            y += layer.scale * s[i] / total * out
        if layer.shared is not None:
            shared = layer.shared
            gate_up = torch.cat([shared.gate.weight.T, shared.up.weight.T], dim=1)
            y += swiglu(u, gate_up, shared.down.weight.T)
        outputs.append(y)
    return torch.stack(outputs)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"shared": 0, "top_k": 1},
        {"shared": 2, "top_k": 3, "scale": 2.5},
        {"groups": 3, "kept_groups": 1},
        {"groups": 2, "kept_groups": 1, "top_k": 3},
    ],
    ids=str,
)
def test_it_is_the_reports_equations(sizes):
    layer = mixture(**sizes)
    x_ND = torch.randn(5, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = token_by_token(layer, x_ND)
        found = layer(x_ND[None])[0]
    assert (found - wanted).abs().max() < 1e-12


def test_float32_and_the_layers_parts_agree():
    layer = mixture()
    x_BTD = torch.randn(2, 3, 8, dtype=torch.float64)
    wanted = layer(x_BTD)
    assert (layer.float()(x_BTD.float()) - wanted).abs().max() < 1e-6


def test_the_bias_selects_and_never_weighs():
    layer = mixture().train()
    x_BTD = torch.randn(2, 4, 8, dtype=torch.float64)
    index, weight = (layer.route(x_BTD.flatten(0, 1)) for _ in range(2))
    before = index.index_NK
    with torch.no_grad():
        layer.bias_E += 0.7  # the same for all: nobody else is chosen
    after = layer.route(x_BTD.flatten(0, 1))
    assert torch.equal(after.index_NK, before)
    assert torch.equal(after.weight_NK, weight.weight_NK)
    with torch.no_grad():
        layer.bias_E[3] += 10
    assert (layer.route(x_BTD.flatten(0, 1)).index_NK == 3).any(1).all()
    assert "bias_E" not in dict(layer.named_parameters())


def test_negative_biased_scores_still_choose_the_best():
    layer = mixture(groups=3, kept_groups=1)
    layer.bias_E -= 5.0
    x_ND = torch.randn(4, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = token_by_token(layer, x_ND)
        assert (layer(x_ND[None])[0] - wanted).abs().max() < 1e-12


def test_gradients_reach_router_and_chosen_experts_only():
    layer = mixture(top_k=1)
    x_BTD = torch.randn(1, 1, 8, dtype=torch.float64)
    index = layer.route(x_BTD[0]).index_NK.item()
    layer(x_BTD).square().sum().backward()
    reached = layer.down_EHD.grad.abs().sum((1, 2)) > 0
    assert reached.tolist() == [i == index for i in range(6)]
    two = mixture(top_k=2)
    two(x_BTD).square().sum().backward()
    assert two.router_ED.grad.abs().sum() > 0


def test_an_expert_without_tokens_and_one_with_all():
    layer = mixture()
    with torch.no_grad():
        layer.bias_E.copy_(torch.tensor([9.0, 8.0, 0, 0, 0, 0]))
    x_ND = torch.randn(3, 8, dtype=torch.float64)
    layer.train()
    layer.count_E.zero_()
    with torch.no_grad():
        assert (layer(x_ND[None])[0] - token_by_token(layer, x_ND)).abs().max() < 1e-12
    assert layer.count_E.tolist() == [3, 3, 0, 0, 0, 0]


def test_no_tokens_give_no_output():
    assert mixture()(torch.zeros(1, 0, 8, dtype=torch.float64)).shape == (1, 0, 8)


def test_nan_scores_are_refused():
    layer = mixture().float()
    x_BTD = torch.zeros(1, 2, 8)
    x_BTD[0, 1, 0] = math.nan
    with pytest.raises(ValueError, match=r"moe_router: .*finite"):
        layer(x_BTD)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"experts": 4, "top_k": 5}, "top_k=5 of 4 experts"),
        ({"top_k": 0}, "top_k=0 of 6 experts"),
        ({"experts": 0}, "of 0 experts"),
        ({"shared": -1}, "shared=-1; use 0 or more"),
        ({"groups": 4}, "6 experts do not form 4 equal groups"),
        ({"groups": 3, "kept_groups": 4}, "kept_groups=4 of 3"),
        ({"groups": 3, "kept_groups": 1, "top_k": 3}, "kept_groups=1 of 3"),
    ],
)
def test_sizes_that_cannot_be(sizes, message):
    with pytest.raises(LabError, match=message):
        mixture(**sizes)


# --- balance -----------------------------------------------------------------


def test_algorithm_1_step_by_step_by_hand():
    """Three experts, speed 0.1: counts 4, 2, 0 in the first step, then 1, 1, 4."""
    layer = mixture(experts=3)
    layer.bias_E.copy_(torch.tensor([0.0, 0.5, -0.5]))
    balancer = LoadBalancer(layer, 0.1)
    layer.count_E.copy_(torch.tensor([4.0, 2.0, 0.0]))
    balancer.step()
    assert torch.allclose(layer.bias_E, torch.tensor([-0.1, 0.5, -0.4]).double())
    assert balancer.load_LE.tolist() == [[4, 2, 0]]
    assert layer.count_E.tolist() == [0, 0, 0]
    layer.count_E.copy_(torch.tensor([1.0, 1.0, 4.0]))
    balancer.step()
    assert torch.allclose(layer.bias_E, torch.tensor([0.0, 0.6, -0.5]).double())
    balancer.step()  # nothing was counted, so nothing is known
    assert torch.allclose(layer.bias_E, torch.tensor([0.0, 0.6, -0.5]).double())


def test_counts_of_all_ranks_come_before_the_sign(monkeypatch):
    """Here expert 0 is busy, on the other rank expert 1 is, and more so."""
    layer = mixture(experts=2, top_k=1)
    layer.bias_E.zero_()
    balancer = LoadBalancer(layer, 0.1)

    def add_the_other_rank(count_LE, group):
        count_LE += torch.tensor([[0.0, 10.0]])

    monkeypatch.setattr(moe_balance.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(moe_balance.dist, "all_reduce", add_the_other_rank)
    layer.count_E.copy_(torch.tensor([4.0, 0.0]))
    balancer.step()
    assert layer.bias_E.tolist() == [0.1, -0.1]
    assert balancer.load_LE.tolist() == [[4, 10]]


def test_the_update_uses_the_batch_before():
    """The first batch is routed without bias, whatever its own loads are."""
    layer = mixture().train()
    layer.bias_E.zero_()
    x_BTD = torch.randn(2, 8, 8, dtype=torch.float64)
    first = layer.route(x_BTD.flatten(0, 1)).index_NK
    LoadBalancer(layer, 5.0).step()
    second = layer.route(x_BTD.flatten(0, 1)).index_NK
    assert not torch.equal(first, second)
    layer.bias_E.zero_()
    assert torch.equal(layer.route(x_BTD.flatten(0, 1)).index_NK, first)


def test_counts_span_gradient_accumulation():
    """Two halves and one step move the biases as the whole batch does."""
    whole, halves = mixture(), mixture()
    x_BTD = torch.randn(4, 5, 8, dtype=torch.float64)
    for layer, parts in ((whole, [x_BTD]), (halves, x_BTD.chunk(2))):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
        LoadBalancer(layer, 0.01).attach(optimizer)
        for part in parts:
            layer(part).sum().backward()
        optimizer.step()
    assert torch.equal(whole.bias_E, halves.bias_E)
    assert not torch.equal(whole.bias_E, mixture().bias_E)


def test_evaluation_counts_nothing():
    layer = mixture().eval()
    layer(torch.randn(1, 3, 8, dtype=torch.float64))
    assert not layer.count_E.any()


def test_biases_travel_with_a_checkpoint():
    layer = mixture()
    other = mixture(seed=1)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.bias_E, layer.bias_E)


def test_training_undoes_a_bias_that_sends_all_to_one_expert():
    def batch(step):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 256, (4, 16), generator=generator)
        return tokens, tokens

    spread = {}
    for speed in (0.0, 0.05):
        torch.manual_seed(0)
        model = GPT(CONFIG, ffn=partial(MixtureOfExperts, experts=8, d_expert=8))
        for block in model.blocks:
            block.ffn.bias_E[0] = 1.0
        balancer = LoadBalancer(model, speed)
        train(model, batch, steps=40, lr=1e-3, prepare=balancer.attach, live=False)
        spread[speed] = max(max_violation(load) for load in balancer.load_LE)
        copy.deepcopy(model)  # hooks and watchers do not stand in the way
    # Two experts a token: the favoured one has half of all visits, E / K - 1 = 3.
    assert spread[0.0] == pytest.approx(3.0)
    assert spread[0.05] < 1.0


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [([2, 2, 2], 0.0), ([6, 0, 0], 2.0), ([4, 2, 0], 1.0), ([0, 0, 0], 0.0)],
)
def test_max_violation_by_hand(counts, wanted):
    assert max_violation(torch.tensor(counts)) == pytest.approx(wanted)


def test_the_auxiliary_loss_by_hand():
    """V3, equations 17 to 20; two sequences of two tokens, two experts, K = 1."""

    def gate(logits, bias, top_k):
        return logits.argmax(1, keepdim=True), torch.ones(len(logits), 1)

    config = GPTConfig(d_model=2, n_layers=1, n_heads=1)
    layer = MixtureOfExperts(config, experts=2, top_k=1, gate=gate).double()
    with torch.no_grad():
        layer.router_ED.copy_(torch.eye(2))
    s = torch.tensor([[[0.9, 0.1], [0.6, 0.2]], [[0.4, 0.6], [0.1, 0.3]]])
    with routings(layer) as found:
        layer(torch.logit(s.double()))
    # Sequence 1: both tokens to expert 0: f = (2, 0), P_0 = (0.9 + 0.75) / 2.
    # Sequence 2: both to expert 1: f = (0, 2), P_1 = (0.6 + 0.75) / 2.
    by_sequence = (2 * 0.825 + 2 * 0.675) / 2
    assert auxiliary_loss(found[0], "sequence").item() == pytest.approx(by_sequence)
    # The batch: f = (1, 1), and all P sum to 1.
    assert auxiliary_loss(found[0], "batch").item() == pytest.approx(1.0)
    with pytest.raises(LabError, match="use 'sequence' or 'batch'"):
        auxiliary_loss(found[0], "token")


def test_the_auxiliary_loss_pulls_scores_of_busy_experts_down():
    layer = mixture(top_k=1)
    with torch.no_grad():
        layer.bias_E.copy_(torch.tensor([9.0, 0, 0, 0, 0, 0]))  # expert 0 gets all
    x_BTD = torch.randn(2, 4, 8, dtype=torch.float64)
    with routings(layer) as found:
        layer(x_BTD)
    (gradient_NE,) = torch.autograd.grad(auxiliary_loss(found[0]), found[0].score_NE)
    assert (gradient_NE[:, 0] > 0).all()
    assert (gradient_NE[:, 1:] < 0).all()


def test_the_loss_with_a_coefficient_of_zero_is_the_models():
    torch.manual_seed(0)
    model = GPT(CONFIG, ffn=partial(MixtureOfExperts, experts=4))
    tokens_BT = torch.arange(32).view(2, 16)
    batch = (tokens_BT, tokens_BT)
    plain = model.loss(*batch)
    assert AuxiliaryLoss(0.0)(model, batch) == plain
    assert AuxiliaryLoss(1.0)(model, batch) > plain + 0.9
    assert all(not block.ffn.watchers for block in model.blocks)


def test_a_balancer_wants_a_mixture_and_a_speed():
    with pytest.raises(LabError, match="no MixtureOfExperts"):
        LoadBalancer(GPT(CONFIG), 0.1)
    with pytest.raises(LabError, match="speed=-1"):
        LoadBalancer(mixture(), -1)


def test_signs_move_by_the_speed_or_not_at_all():
    bias = sign_update(torch.zeros(3), torch.tensor([9, 3, 3]), 0.5)
    assert bias.tolist() == [-0.5, 0.5, 0.5]
    even = sign_update(torch.zeros(2), torch.tensor([7, 7]), 0.5)
    assert even.tolist() == [0.0, 0.0]


def test_a_readers_gate_and_dispatch_take_the_layers_place():
    from labs.lab_02.exercises_core import dispatch, gate

    plain = mixture().float()
    own = mixture(gate=gate, dispatch=dispatch).float()
    x_BTD = torch.randn(2, 6, 8)
    assert (plain(x_BTD) - own(x_BTD)).abs().max() < 1e-6


def test_rows_that_are_not_sorted_are_refused():
    with pytest.raises(LabError, match="sorted by their expert"):
        mixture().run_experts(
            torch.zeros(2, 8, dtype=torch.float64), torch.tensor([1, 0])
        )
