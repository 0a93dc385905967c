"""Advantages, policy losses, KL estimates: against plain loops and exact sums."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from labsupport import rl
from labsupport.errors import LabError
from labsupport.rl.advantages import equal_groups
from labsupport.rl.objectives import clip_fraction, clipped, reinforce
from labsupport.rl.policy import completion_logits, entropy, log_probs
from tests.labsupport import plain_policy_losses as plain

PAIRS = [
    (rl.GRPO, plain.grpo),
    (rl.DR_GRPO, plain.dr_grpo),
    (rl.DAPO, plain.dapo),
    (rl.GSPO, plain.gspo),
    (rl.CISPO, plain.cispo),
    (rl.REINFORCE, plain.reinforce),
]
NAMES = ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce"]


def case(R=6, N=9, seed=0, off=0.4):
    """Log-probs of three policies, off-policy enough that some tokens are clipped."""
    numbers = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=numbers, dtype=torch.float64)

    old_RN = -draw(R, N).abs() - 0.05
    logp_RN = (old_RN + off * draw(R, N)).clamp(max=-1e-3).requires_grad_()
    ref_RN = old_RN + 0.5 * draw(R, N)
    lengths_R = torch.randint(1, N + 1, (R,), generator=numbers)
    mask_RN = torch.arange(N) < lengths_R[:, None]
    return logp_RN, old_RN, draw(R), mask_RN, ref_RN


def as_lists(x_RN, mask_RN):
    """The written tokens of each row."""
    rows = zip(x_RN, mask_RN, strict=True)
    return [list(x_N[mask_N]) for x_N, mask_N in rows]


@pytest.mark.parametrize(("loss", "oracle"), PAIRS, ids=NAMES)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("off", [0.0, 0.4, 3.0])
def test_losses_and_gradients_equal_the_plain_loops(loss, oracle, beta, off):
    logp_RN, old_RN, A_R, mask_RN, ref_RN = case(off=off)
    lists = [as_lists(x, mask_RN) for x in (logp_RN, old_RN, ref_RN)]
    expected = oracle(*lists, A_R.tolist(), beta, 9)
    (slope,) = torch.autograd.grad(expected, logp_RN)

    found = replace(loss, beta=beta)(
        logp_RN, old_RN, A_R, mask_RN, longest=9, ref_RN=ref_RN
    )
    (own_slope,) = torch.autograd.grad(found, logp_RN)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(own_slope, slope, rtol=1e-9, atol=1e-12)
    assert (own_slope[~mask_RN] == 0).all()


@pytest.mark.parametrize(
    ("loss", "kind", "level", "clip"),
    [
        (rl.GRPO, "grpo", "token", (0.2, 0.2)),
        (rl.DR_GRPO, "dr_grpo", "token", (0.2, 0.2)),
        (rl.DAPO, "dapo", "token", (0.2, 0.28)),
        (rl.GSPO, "grpo", "sequence", (3e-4, 4e-4)),
        (rl.CISPO, "cispo", "token", (0.0, 5.0)),
    ],
    ids=["grpo", "dr_grpo", "dapo", "gspo", "cispo"],
)
def test_losses_and_gradients_equal_liger_kernels(loss, kind, level, clip):
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    torch.manual_seed(0)
    R, N, D, V = 6, 9, 8, 13
    x_RND = torch.randn(R, N, D, dtype=torch.float64, requires_grad=True)
    head_VD = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    tokens_RN = torch.randint(V, (R, N))
    _, _, A_R, mask_RN, _ = case(R, N)
    here_RN = log_probs((x_RND @ head_VD.T).detach(), tokens_RN)
    old_RN = here_RN + 0.3 * torch.randn(R, N)
    ref_RN = here_RN + 0.3 * torch.randn(R, N)
    low, high = clip
    oracle = liger.LigerFusedLinearGRPOLoss(
        beta=0.04,
        compiled=False,
        use_ref_model=True,
        chunk_size=2,
        epsilon_low=low,
        epsilon_high=high,
        loss_type=kind,
        max_completion_length=N,
        importance_sampling_level=level,
        temperature=1.0,
    )
    expected, _ = oracle(
        x_RND,
        head_VD,
        tokens_RN,
        mask_RN.long(),
        A_R,
        old_per_token_logps=old_RN,
        ref_per_token_logps=ref_RN,
    )
    slopes = torch.autograd.grad(expected, (x_RND, head_VD))
    found = replace(loss, beta=0.04)(
        log_probs(x_RND @ head_VD.T, tokens_RN),
        old_RN,
        A_R,
        mask_RN,
        longest=N,
        ref_RN=ref_RN,
    )
    own_slopes = torch.autograd.grad(found, (x_RND, head_VD))
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6, check_dtype=False)
    close(found, expected)
    for own, theirs in zip(own_slopes, slopes, strict=True):
        close(own, theirs)


@pytest.mark.parametrize("loss", [pair[0] for pair in PAIRS], ids=NAMES)
def test_an_empty_completion_counts_as_nothing(loss):
    logp_RN, old_RN, A_R, mask_RN, _ = case()
    mask_RN[2] = False
    with torch.no_grad():
        logp_RN[2], old_RN[2] = float("-inf"), float("-inf")
    found = loss(logp_RN, old_RN, A_R, mask_RN, longest=9)
    found.backward()
    assert found.isfinite()
    assert logp_RN.grad.isfinite().all()
    assert (logp_RN.grad[2] == 0).all()
    empty = loss(logp_RN, old_RN, A_R, torch.zeros_like(mask_RN), longest=9)
    assert empty == 0


def test_in_the_first_update_all_gradients_point_the_same_way():
    logp_RN, old_RN, A_R, mask_RN, _ = case(off=0.0)
    logp_RN = old_RN.clone().requires_grad_()
    slopes = {}
    for name, (loss, _) in zip(NAMES, PAIRS, strict=True):
        found = loss(logp_RN, old_RN, A_R, mask_RN, longest=9)
        (slopes[name],) = torch.autograd.grad(found, logp_RN)
    for name in ("dapo", "cispo"):
        torch.testing.assert_close(slopes[name], slopes["reinforce"])
    torch.testing.assert_close(slopes["gspo"], slopes["grpo"])
    share = mask_RN.sum() / (len(A_R) * 9)
    torch.testing.assert_close(slopes["dr_grpo"], slopes["reinforce"] * share)
    # GRPO weighs a token by its row's length.
    length_R1 = mask_RN.sum(1, keepdim=True)
    torch.testing.assert_close(
        slopes["grpo"] * length_R1 * len(A_R), slopes["reinforce"] * mask_RN.sum()
    )


def test_a_clipped_token_has_no_gradient_and_is_counted():
    # rho = 1.5 and 0.5, with A = 1 and -1 each: clipped where it has gone far enough.
    old_RN = torch.zeros(4, 1)
    logp_RN = torch.tensor([[1.5], [0.5], [1.5], [0.5]]).log().requires_grad_()
    A_R = torch.tensor([1.0, 1.0, -1.0, -1.0])
    mask_RN = torch.ones(4, 1, dtype=torch.bool)
    rl.GRPO(logp_RN, old_RN, A_R, mask_RN, longest=1).backward()
    assert (logp_RN.grad[:, 0] == 0).tolist() == [True, False, False, True]
    share = partial(clip_fraction, clipped)
    assert share(logp_RN, old_RN, A_R[:, None], mask_RN) == 0.5
    assert share(old_RN, old_RN, A_R[:, None], mask_RN) == 0.0
    # Rows without an advantage and what is not written do not count.
    A_R[1:3] = 0.0
    assert share(logp_RN, old_RN, A_R[:, None], mask_RN) == 1.0
    mask_RN[0] = mask_RN[3] = False
    assert math.isnan(share(logp_RN, old_RN, A_R[:, None], mask_RN))
    assert clip_fraction(reinforce, logp_RN, old_RN, A_R[:, None], mask_RN | True) == 0


def test_group_advantages_of_the_worked_examples():
    one_of_8 = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0]])
    half = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    for rewards, std, right, wrong in (
        (one_of_8, "unbiased", 2.475, -0.354),
        (one_of_8, "biased", 2.646, -0.378),
        (one_of_8, "none", 0.875, -0.125),
        (half, "unbiased", 0.935, -0.935),
        (half, "none", 0.5, -0.5),
    ):
        found = rl.group_advantages(rewards, std)
        assert found[0, 0].item() == pytest.approx(right, abs=2e-3)
        assert found[0, -1].item() == pytest.approx(wrong, abs=2e-3)


def test_equal_rewards_teach_exactly_nothing():
    rewards = torch.tensor([[0.1] * 7, [0.0] * 7, [1.0] * 7, [0.0] * 6 + [1.0]])
    assert equal_groups(rewards).tolist() == [True, True, True, False]
    for std in ("unbiased", "biased", "none"):
        found = rl.group_advantages(rewards, std)
        assert (found[:3] == 0).all()
        assert found[3].abs().min() > 0


def test_baselines():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    assert torch.equal(rl.no_baseline(rewards), rewards)
    torch.testing.assert_close(rl.batch_baseline(rewards), rewards - 0.5)
    expected = torch.tensor([[1.0, -0.5, -0.5], [0.5, 0.5, -1.0]])
    torch.testing.assert_close(rl.leave_one_out(rewards), expected)


@pytest.mark.parametrize("function", [rl.group_advantages, rl.leave_one_out])
def test_a_group_of_one_is_named(function):
    with pytest.raises(LabError, match=r"group of one .* use at least 2"):
        function(torch.ones(4, 1))


def test_an_unknown_std_is_named():
    with pytest.raises(LabError, match="std='yes'"):
        rl.group_advantages(torch.ones(4, 2), "yes")


def policies(V=7):
    """Two distributions over V tokens, the first with weights."""
    torch.manual_seed(1)
    weights_V = torch.randn(V, dtype=torch.float64, requires_grad=True)
    ref_V = torch.log_softmax(torch.randn(V, dtype=torch.float64), dim=0)
    return weights_V, torch.log_softmax(weights_V, dim=0), ref_V


def expected_slope(kind, rho=False):
    """Of an estimate as a loss: the mean of its gradient over tokens from pi."""
    weights_V, logp_V, ref_V = policies()
    term_V = kind(logp_V, ref_V)
    if rho:
        term_V = (logp_V - logp_V.detach()).exp() * term_V
    # pi in front is where samples come from: it has no gradient.
    loss = (logp_V.detach().exp() * term_V).sum()
    return torch.autograd.grad(loss, weights_V)[0]


def slope_of_kl(forward):
    weights_V, logp_V, ref_V = policies()
    a, b = (logp_V, ref_V) if forward else (ref_V, logp_V)
    return torch.autograd.grad((a.exp() * (a - b)).sum(), weights_V)[0]


def test_values_of_kl_estimates():
    _, logp_V, ref_V = policies()
    p_V = logp_V.exp()
    exact = (p_V * (logp_V - ref_V)).sum()
    torch.testing.assert_close((p_V * rl.k1(logp_V, ref_V)).sum(), exact)
    torch.testing.assert_close((p_V * rl.k3(logp_V, ref_V)).sum(), exact)
    assert abs((p_V * rl.k2(logp_V, ref_V)).sum() - exact) > 0.01
    assert (rl.k1(logp_V, ref_V) < 0).any()
    for kind in (rl.k2, rl.k3):
        assert (kind(logp_V, ref_V) >= 0).all()
        assert (kind(logp_V, logp_V) == 0).all()


def test_gradients_of_kl_estimates():
    there, back = slope_of_kl(True), slope_of_kl(False)
    assert (there - back).abs().max() > 0.01
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)
    close(expected_slope(rl.k1), torch.zeros_like(there))
    close(expected_slope(rl.k2), there)
    close(expected_slope(rl.k3), back)
    close(expected_slope(rl.k3, rho=True), there)
    close(expected_slope(rl.k1, rho=True), there)


def test_a_corrected_penalty_has_the_gradient_of_kl():
    weights_V, logp_V, ref_V = policies()
    # Every token once, weighted by how often it would be sampled: rows of one token.
    p_V = logp_V.detach().exp()
    rows = {"mask_RN": torch.ones(7, 1, dtype=torch.bool), "longest": 1}
    sampled = {
        "logp_RN": logp_V[:, None],
        "old_RN": logp_V.detach()[:, None],
        "ref_RN": ref_V[:, None],
        "advantages_R": torch.zeros(7, dtype=torch.float64),
    }

    def average(gain_RN, mask_RN, longest):
        return (p_V[:, None] * gain_RN).sum()

    for corrected, expected in ((True, slope_of_kl(True)), (False, slope_of_kl(False))):
        loss = replace(rl.GRPO, average=average, beta=1.0, corrected=corrected)
        (slope,) = torch.autograd.grad(
            loss(**sampled, **rows), weights_V, retain_graph=True
        )
        torch.testing.assert_close(slope, expected)


def test_a_readers_objective_takes_its_place():
    logp_RN, old_RN, A_R, mask_RN, _ = case()

    def mine(logp_RN, old_RN, advantages_R1, mask_RN):
        rho = torch.exp(logp_RN - old_RN)
        gain, held = rho * advantages_R1, rho.clip(0.8, 1.2) * advantages_R1
        return torch.where(gain < held, gain, held)

    own = replace(rl.GRPO, objective=mine)
    args = (logp_RN, old_RN, A_R, mask_RN)
    torch.testing.assert_close(own(*args, longest=9), rl.GRPO(*args, longest=9))


def test_what_a_loss_cannot_do_is_said():
    logp_RN, old_RN, A_R, mask_RN, _ = case()
    with pytest.raises(LabError, match=r"beta=0.1 needs log-probs of a reference"):
        replace(rl.GRPO, beta=0.1)(logp_RN, old_RN, A_R, mask_RN, longest=9)
    summed = replace(rl.GRPO, objective=lambda *parts: clipped(*parts).sum())
    with pytest.raises(LabError, match=r"returned shape \(\).*\(6, 9\)"):
        summed(logp_RN, old_RN, A_R, mask_RN, longest=9)
    unwritten = replace(rl.GRPO, objective=lambda *parts: None)
    with pytest.raises(LabError, match="objective returned NoneType: a tensor"):
        unwritten(logp_RN, old_RN, A_R, mask_RN, longest=9)
    blind = replace(rl.GRPO, objective=lambda *parts: clipped(*parts).detach())
    with pytest.raises(LabError, match="no gradient to the log-probs"):
        blind(logp_RN, old_RN, A_R, mask_RN, longest=9)


def test_entropy_and_logprobs():
    logits = torch.tensor(
        [[[0.0, 0.0, 0.0, 0.0], [50.0, 0, 0, 0], [1.0, 1.0, -1e9, -1e9]]]
    )
    logits[0, 2, 2:] = float("-inf")
    torch.testing.assert_close(
        entropy(logits), torch.tensor([[math.log(4), 0.0, math.log(2)]])
    )
    logp = log_probs(logits, torch.tensor([[1, 0, 1]]))
    torch.testing.assert_close(logp, torch.tensor([[-math.log(4), 0.0, -math.log(2)]]))


def test_completion_logits_are_those_behind_which_tokens_were_chosen():
    from labsupport.nn import GPT, GPTConfig

    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=9, d_model=16, n_layers=1, n_heads=2, max_len=12))
    prompts, tokens = torch.randint(9, (3, 5)), torch.randint(9, (3, 4))
    whole = model(torch.cat([prompts, tokens], dim=1))
    torch.testing.assert_close(completion_logits(model, prompts, tokens), whole[:, 4:8])
