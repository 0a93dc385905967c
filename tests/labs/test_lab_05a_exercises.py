"""Lab 05a's exercises: what no list of known mistakes says."""

import pytest
import torch
import torch.nn.functional as F

from labs.lab_05a import exercises_core as core
from labs.lab_05a import exercises_deep as deep
from labs.lab_05a.adam import Adam
from labs.lab_05a.both_ways import both_ways
from labsupport.errors import LabError
from labsupport.exercise import run_checks
from labsupport.exercise.practice.counted import calls_in_words, on_counted_ranks

# --- 5.1 ---------------------------------------------------------------------


def test_one_process_is_a_swiglu_of_the_course():
    """The check's own yardstick, held against the layer that the labs train."""
    from labsupport.nn import GPTConfig
    from labsupport.nn.gpt import SwiGLU

    layer = SwiGLU(GPTConfig(d_model=4, n_heads=1, d_ff=6))
    x_ND = torch.randn(3, 4)
    matrices = [getattr(layer, n).weight.t() for n in ("gate", "up", "down")]
    torch.testing.assert_close(core.one_swiglu(x_ND, *matrices), layer(x_ND))


def test_a_sum_that_autograd_does_not_see_will_do_at_the_output():
    """Its gradient is passed on as it is, on real ranks and on practice ranks."""

    def swiglu(x_ND, gate_DH, up_DH, down_HD, dist):
        def total(t):
            dist.all_reduce(t)
            return t

        x_ND = both_ways(x_ND, lambda t: t, total)
        y_ND = (F.silu(x_ND @ gate_DH) * (x_ND @ up_DH)) @ down_HD
        dist.all_reduce(y_ND)
        return y_ND

    assert run_checks(core.SWIGLU, swiglu).passed


def test_an_input_summed_in_the_forward_of_the_layer_before_is_no_excuse():
    def detached(x_ND, *rest):
        return core.swiglu_on_ranks(x_ND.detach(), *rest)

    verdict = run_checks(core.SWIGLU, detached)
    assert "Asked: a gradient of x.\nYours: none." in verdict.message


def test_both_ways_wants_tensors_of_the_same_shape():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(LabError, match="`forward` has to return a tensor of shape"):
        both_ways(x, lambda t: None, lambda t: t)
    y = both_ways(x, lambda t: 2 * t, lambda t: t[:1])
    with pytest.raises(LabError, match=r"`backward` .* returned one of shape \(1,\)"):
        y.sum().backward()


def test_both_ways_does_what_each_way_says_and_keeps_what_it_was_given():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = both_ways(x, lambda t: t.mul_(3), lambda t: t.add_(10))
    y.sum().backward()
    assert y.tolist() == [3.0, 6.0]
    assert x.tolist() == [1.0, 2.0]
    assert x.grad.tolist() == [11.0, 11.0]


# --- 5.2 ---------------------------------------------------------------------


def test_adam_is_torch_s():
    w_P, adam = torch.randn(5), Adam(0.1)
    parameter = torch.nn.Parameter(w_P.clone())
    theirs = torch.optim.Adam([parameter], lr=0.1, betas=(0.9, 0.95))
    assert adam.bytes == 0
    for step in range(4):
        g_P = torch.randn(5, generator=torch.Generator().manual_seed(step))
        w_P = adam(w_P, g_P)
        parameter.grad = g_P.clone()
        theirs.step()
    torch.testing.assert_close(w_P, parameter.detach())
    assert adam.bytes == 2 * 4 * 5


def test_another_way_to_the_same_weights_passes():
    """all_reduce and a cut, in place of a reduce_scatter."""

    def step(weights_P, gradient_P, update, dist):
        W, rank, P = dist.get_world_size(), dist.get_rank(), len(weights_P)
        S = (P + W - 1) // W
        dist.all_reduce(gradient_P)
        padded = torch.zeros(S * W)
        padded[:P] = weights_P
        gradient = torch.zeros(S * W)
        gradient[:P] = gradient_P / W
        mine = slice(rank * S, rank * S + S)
        whole = torch.empty(S * W)
        new = update(padded[mine], gradient[mine])
        dist.all_gather_into_tensor(whole, new)
        return whole[:P]

    assert run_checks(core.ZERO, step).passed


def test_the_factor_shows_in_the_check_though_adam_hides_it():
    probe = core.zero_probes()[0]
    right, *_ = core.zero_group(core.zero_step, *probe)
    summed = next(w for w in core.ZERO.wrong if w.name == "sum instead of mean")
    came, *_ = core.zero_group(summed.function, *probe)
    assert (came - right).abs().max() > 1e-3


def test_weights_and_gradient_of_different_shapes():
    def step(weights_P, gradient_P, update, dist):
        return update(weights_P[:1], gradient_P)

    message = run_checks(core.ZERO, step).message
    assert "Asked: weights and gradient of the same shape in `update`" in message


def test_calls_are_counted():
    weights_P, gradient_KWP = core.zero_probes()[1]
    W = gradient_KWP.shape[1]
    _, calls = on_counted_ranks(
        core.zero_step, [weights_P] * W, gradient_KWP[0], [Adam(0.1)] * W
    )
    assert calls_in_words(calls) == (
        "reduce_scatter_single of 9 numbers and all_gather_single of 3 numbers"
    )
    assert calls_in_words([]) == "no message"


# --- 5.3 and 5.4 -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda s, S, M: [("F", 0)], 'a list of pairs such as ("F", 0), and a number'),
        (lambda s, S, M: ([("X", 0)], 0.1), "an entry ('X', 0)"),
        (lambda s, S, M: (["F0"], 0.1), "an entry 'F0'"),
        (lambda s, S, M: ([], 0.1), "F0 B0 F1 B1 F2 B2 on stage 1 of 2"),
    ],
)
def test_what_is_no_schedule(attempt, words):
    verdict = run_checks(core.SCHEDULE, attempt)
    assert verdict.state == "failed"
    assert words in verdict.message


def test_a_schedule_of_lists_passes():
    def lists(s, S, M):
        actions, share = core.one_f_one_b(s, S, M)
        return [list(action) for action in actions], share

    assert run_checks(core.SCHEDULE, lists).passed


def test_a_deadlock_names_the_stages():
    def backwards(s, S, M):
        actions, share = core.one_f_one_b(s, S, M)
        return (actions[::-1] if S > 2 else actions), share

    verdict = run_checks(core.SCHEDULE, backwards)
    assert verdict.step == "no deadlock"
    assert "A deadlock: stage 0 waits to begin B2 of stage 0" in verdict.message


def test_sizes_of_the_checks_tell_wrong_ways_apart():
    """Memory and time each catch what by hand alone would not."""

    def with_two(s, S, M):
        if S == 2:
            return core.one_f_one_b(s, S, M)
        if M < S:
            raise ValueError
        actions = [("F", i) for i in range(M)] + [("B", i) for i in range(M)]
        return actions, (S - 1) / (M + S - 1)

    assert run_checks(core.SCHEDULE, with_two).step == "memory"

    def one_by_one(s, S, M):
        if S == 2 or M < S:
            return core.one_f_one_b(s, S, M)
        actions = [(kind, i) for i in range(M) for kind in "FB"]
        return actions, (S - 1) / (M + S - 1)

    assert run_checks(core.SCHEDULE, one_by_one).step == "time"


def test_halves_in_another_order_pass_if_nobody_loses():
    """W of the last microbatches may come in any order."""

    def attempt(s, S, M):
        actions = deep.zero_bubble(s, S, M)
        if S == 2 or s < 2:
            return actions
        return actions[:-2] + actions[-1:] + actions[-2:-1]

    assert run_checks(deep.HALVES, attempt).passed


# --- 5.5 and 5.6 -----------------------------------------------------------------


def test_zero_on_one_rank_is_no_zero():
    assert {deep.zero_costs(100, 1, stage) for stage in range(4)} == {(1600.0, 0.0)}


def test_layouts_by_brute_force():
    for N, heads, layers, memory, limit in deep.layouts_probes():
        axis = range(1, N + 1)
        every = [
            (d, t, p)
            for d in axis
            for t in axis
            for p in axis
            if d * t * p == N
            and heads % t == 0
            and layers % p == 0
            and memory(d, t, p) <= limit
        ]
        assert deep.fitting_layouts(N, heads, layers, memory, limit) == every


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda *a: (4, 1, 1), "a list of triples"),
        (lambda *a: deep.fitting_layouts(*a)[::-1], "in ascending order"),
        (lambda *a: deep.fitting_layouts(*a)[1:], "among the layouts of"),
    ],
)
def test_what_is_no_list_of_layouts(attempt, words):
    assert words in run_checks(deep.LAYOUTS, attempt).message
