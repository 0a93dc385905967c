"""The router passes every kernel's tests, and those that only it has.

What is true is computed here too, token by token, from the paper's words alone
(`by_the_paper`).
"""

import pytest
import torch

from kernels import moe_router as module
from kernels.moe_router import (
    moe_router,
    moe_router_backward_cost,
    moe_router_cost,
    moe_router_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation

ROUTINGS = {
    1: (1, 1, None),
    12: (2, 4, 2),
    13: (3, 1, None),
    20: (20, 1, None),  # all of them
    24: (5, 3, 2),
    33: (4, 1, None),
    128: (8, 1, None),
    256: (8, 8, 4),
}
"""Experts -> top_k, groups, kept_groups with which they are tested."""

SHAPES = [(4, 128), (3, 256), (13, 13), (1, 1), (70, 12), (6, 24), (5, 33), (2, 20)]
SHAPE_CASES = [Case(s, torch.float32) for s in [*SHAPES, (0, 13)]]
SHAPE_CASES += [Case((5, 33), d) for d in KERNEL_DTYPES[1:]]
SPREAD_CASES = [Case((9, 33), torch.float32, scale=s) for s in (1e-3, 5)]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((5, 13), torch.float32, layout=name) for name in STRIDED]
DY_CASES = [Case((5, 13), torch.float32, dy_layout=name) for name in STRIDED]


def everywhere(test):
    """By the kernel, and by the reference, which serves calls on a CPU."""
    by = pytest.mark.parametrize("interpret", [True, False], ids=["kernel", "CPU"])
    return needs_a_kernel(by(test))


def inputs(shape, generator):
    """Logits, and biases that make some scores negative."""
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    bias = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    return [logits, 0.5 * bias]


def routed_by(router):
    """A router that looks up how many experts to choose."""

    def routed(logits, bias, interpret=None):
        top_k, groups, kept = ROUTINGS[logits.shape[1]]
        return router(logits, bias, top_k, groups, kept, 2.5, interpret)

    return routed


def reference(logits, bias):
    top_k, groups, kept = ROUTINGS[logits.shape[1]]
    return moe_router_reference(logits, bias, top_k, groups, kept, 2.5)


def refused(call, sentence):
    return BadCall(call, f"moe_router: {sentence}")


X, BIAS = torch.zeros(3, 6), torch.zeros(6)
NAN = torch.tensor([[0.0, torch.nan, torch.inf]])

ROUTER = MixedOperation(
    module=module,
    function=routed_by(moe_router),
    reference=reference,
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SPREAD_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *SPREAD_CASES, *X_CASES, *DY_CASES],
    small=(3, 12),
    coefficients=[1],
    fixed=[1],
    cancelled=1e-6,
    dtypes=[torch.float32],
    benchmark_shape=lambda shape: (2, shape[1] * shape[2]),
    bad_calls=[
        refused(
            lambda: moe_router([[1.0]], BIAS, 1),
            "logits must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: moe_router(X.double(), BIAS, 1),
            "logits must be float32, float16 or bfloat16; got float64 "
            "(moe_router_reference takes float64 too).",
        ),
        refused(
            lambda: moe_router(X[None], BIAS, 1),
            "logits must have shape (T, E), tokens by experts, with E 1 to 1024; got "
            "(1, 3, 6).",
        ),
        refused(
            lambda: moe_router(torch.zeros(2, 1025), torch.zeros(1025), 1),
            "logits must have shape (T, E), tokens by experts, with E 1 to 1024; got "
            "(2, 1025).",
        ),
        refused(
            lambda: moe_router(X, torch.zeros(5), 1),
            "bias must have shape (E,) = (6,) for logits of shape (3, 6); got (5,).",
        ),
        refused(
            lambda: moe_router(X, BIAS.half(), 1),
            "bias must be float32; got float16.",
        ),
        refused(
            lambda: moe_router(X, BIAS.to("meta"), 1),
            "bias must be on logits' device, cpu; got meta.",
        ),
        refused(
            lambda: moe_router(X, BIAS, 2.0),
            "top_k must be a whole number; got 2.0.",
        ),
        refused(lambda: moe_router(X, BIAS, 0), "top_k must be 1 to 6; got 0."),
        refused(lambda: moe_router(X, BIAS, 7), "top_k must be 1 to 6; got 7."),
        refused(
            lambda: moe_router(torch.zeros(1, 64), torch.zeros(64), 33),
            "top_k must be 1 to 32; got 33.",
        ),
        refused(
            lambda: moe_router(X, BIAS, 3, groups=3, kept_groups=1),
            "top_k must be 1 to 2; got 3.",
        ),
        refused(
            lambda: moe_router(X, BIAS, 1, groups=4),
            "groups must be of equal size, at least 2 experts each; got 4 groups of 6 "
            "experts.",
        ),
        refused(
            lambda: moe_router(X, BIAS, 1, groups=6),
            "groups must be of equal size, at least 2 experts each; got 6 groups of 6 "
            "experts.",
        ),
        refused(
            lambda: moe_router(X, BIAS, 1, groups=0), "groups must be 1 to 6; got 0."
        ),
        refused(
            lambda: moe_router(X, BIAS, 1, groups=3, kept_groups=4),
            "kept_groups must be 1 to 3; got 4.",
        ),
        refused(
            lambda: moe_router(NAN, torch.zeros(3), 1),
            "logits must be finite; 2 of 3 are NaN or infinite.",
        ),
        refused(
            lambda: moe_router(
                torch.zeros(1, 3, device=DEVICE), NAN[0].to(DEVICE), 1,
                check_finite=True,
            ),
            "bias must be finite; 2 of 3 are NaN or infinite.",
        ),
    ],
)  # fmt: skip


class TestRouter(MixedKernelTests):
    operation = ROUTER


def by_the_paper(logits, bias, top_k, groups, kept_groups, scale):
    """One token, with Python's sort, which keeps equals in their order."""
    s = [1 / (1 + torch.tensor(-x).exp().item()) for x in logits.tolist()]
    biased = [a + b for a, b in zip(s, bias.tolist(), strict=True)]
    size = len(s) // groups
    members = [range(g * size, (g + 1) * size) for g in range(groups)]
    best_two = [sum(sorted(biased[e] for e in group)[-2:]) for group in members]
    best = sorted(range(groups), key=lambda g: -best_two[g])[:kept_groups]
    allowed = sorted(e for g in best for e in members[g])
    chosen = sorted(allowed, key=lambda e: -biased[e])[:top_k]
    total = sum(s[e] for e in chosen)
    return chosen, [scale * s[e] / total for e in chosen]


@everywhere
@pytest.mark.parametrize("shift", [0.0, -2.0], ids=["mixed signs", "all negative"])
@pytest.mark.parametrize("E, top_k, groups, kept", [(13, 3, 1, 1), (24, 5, 4, 2)])
def test_it_is_what_the_paper_says(E, top_k, groups, kept, shift, interpret):
    """All biased scores negative: a mask of 0.0 would choose what was dropped."""
    logits, bias = (x.float() for x in inputs((9, E), torch.Generator().manual_seed(1)))
    bias += shift
    device = DEVICE if interpret else "cpu"
    index, weight = moe_router(
        logits.to(device), bias.to(device), top_k, groups, kept, 2.5,
        interpret=INTERPRET if interpret else None,
    )  # fmt: skip
    for t, row in enumerate(logits):
        chosen, shares = by_the_paper(row, bias, top_k, groups, kept, 2.5)
        assert index[t].tolist() == chosen
        assert weight[t].tolist() == pytest.approx(shares, rel=1e-5)


def run(interpret, logits, bias, *arguments, **named):
    """The kernel, or the reference on a CPU."""
    device = DEVICE if interpret else "cpu"
    named["interpret"] = INTERPRET if interpret else None
    return moe_router(logits.to(device), bias.to(device), *arguments, **named)


@everywhere
def test_of_equal_scores_the_smaller_index_wins(interpret):
    equal = torch.zeros(2, 12)
    index, weight = run(interpret, equal, torch.zeros(12), 5)
    assert index.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert weight.tolist() == [[pytest.approx(0.2)] * 5] * 2
    # Sigmoids of large logits are all 1.
    index, _ = run(interpret, torch.arange(40.0, 52.0)[None], torch.zeros(12), 3)
    assert index.tolist() == [[0, 1, 2]]


@everywhere
def test_of_equal_groups_the_smaller_index_wins(interpret):
    index, _ = run(interpret, torch.zeros(1, 12), torch.zeros(12), 5, 4, 2)
    assert index.tolist() == [[0, 1, 2, 3, 4]]
    # Groups 1 and 3 tie with 0 far behind; expert 11 is their best.
    bias = torch.tensor([0.0] * 3 + [2, 2, 0] + [0, 0, 1] + [0, 1, 3])
    index, _ = run(interpret, torch.zeros(1, 12), bias, 2, 4, 1)
    assert index.tolist() == [[3, 4]]


@everywhere
def test_a_group_is_judged_by_its_two_best_not_by_its_best(interpret):
    bias = torch.tensor([3.0, 0, 0, 0, 2, 2, 0, 0])
    index, _ = run(interpret, torch.zeros(1, 8), bias, 2, 2, 1)
    assert index.tolist() == [[4, 5]]


@everywhere
def test_the_bias_selects_and_does_nothing_else(interpret):
    logits = torch.tensor([[1.0, 0.5, -3.0, -1.0]], device="cpu").requires_grad_()
    bias = torch.tensor([0.0, 0.0, 5.0, 0.0], requires_grad=True)
    index, weight = run(interpret, logits, bias, 2)
    assert index.tolist() == [[2, 0]]
    s = torch.sigmoid(logits[0, [2, 0]])
    torch.testing.assert_close(weight[0].cpu(), s / s.sum())
    weight[0, 0].backward()
    assert bias.grad is None
    assert logits.grad[0, [0, 2]].all() and not logits.grad[0, [1, 3]].any()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@everywhere
def test_scores_that_vanish_leave_weights_and_gradients_finite(interpret):
    logits = torch.full((2, 4), -200.0, requires_grad=True)
    _, weight = run(interpret, logits, torch.zeros(4), 2)
    weight.sum().backward()
    assert not weight.any() and not logits.grad.any()


@everywhere
def test_below_the_least_denominator_weights_are_proportional_to_scores(interpret):
    """s = exp(-60) / 1e-20, which is also the derivative: the sum has none."""
    logits = torch.full((1, 3), -60.0, requires_grad=True)
    _, weight = run(interpret, logits, torch.zeros(3), 2)
    weight[0, 0].backward()
    share = torch.tensor(-60.0).exp().item() / 1e-20
    assert weight.tolist() == [[pytest.approx(share, rel=1e-4)] * 2]
    assert logits.grad.tolist() == [[pytest.approx(share, rel=1e-4), 0.0, 0.0]]


@needs_a_kernel
def test_unchecked_nan_stays_with_its_token_and_indices_stay_experts():
    logits = torch.randn(3, 13, generator=torch.Generator().manual_seed(0))
    whole, _ = run(True, logits, torch.zeros(13), 3)
    logits[0, 4], logits[1] = torch.nan, torch.nan
    index, weight = run(True, logits, torch.zeros(13), 3, check_finite=False)
    assert (index >= 0).all() and (index < 13).all()
    assert (index[0] != 4).all() and weight[0].isfinite().all()
    assert weight[1].isnan().all()
    assert torch.equal(index[2], whole[2])


def test_the_weights_are_float32_whatever_the_logits():
    for dtype in KERNEL_DTYPES:
        index, weight = moe_router(X.to(dtype), BIAS, 2)
        assert (index.dtype, weight.dtype) == (torch.int32, torch.float32)


def test_the_costs_by_hand():
    """2 tokens, 6 experts, 3 of them chosen: 12 logits, 6 biases, 6 visits."""
    forward = Cost(4 * 12 + 4 * 6 + 4 * 6 + 4 * 6, flops=2 * (6 * 8 + 9))
    assert moe_router_cost(2, 6, 3, torch.float32) == forward
    backward = Cost(6 * 4 + 6 * 4 + 6 * 2 + 12 * 2, flops=14 * 6)
    assert moe_router_backward_cost(2, 6, 3, torch.bfloat16) == backward
