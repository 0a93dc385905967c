"""GRPO's loss passes every kernel's tests, and those that only it has."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kernels import grpo_loss as module
from kernels.chosen_tokens import IGNORED
from kernels.grpo_loss import (
    grpo_loss,
    grpo_loss_backward_cost,
    grpo_loss_cost,
    grpo_loss_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.grpo_cases import inputs
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import (
    MixedKernelTests,
    MixedOperation,
    check_gradients,
    check_reference_gradients,
    check_specs,
    check_values,
)
from tests.kernels.logprob_cases import made_positive

SHAPES = [
    (2, 3, 5),
    (2, 4, 33),
    (1, 1, 1),
    (1, 3, 5000),  # a row of logits is longer than a block
    (0, 3, 5),
    (2, 0, 5),
]
"""Sequences, tokens, entries of the vocabulary."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
# More tokens than a block of them holds. That kernel knows float32 only.
SHAPE_CASES.append(Case((2, 70, 3), torch.float32))
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((2, 3, 7), torch.bfloat16, layout=name) for name in STRIDED]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]

LOGITS, TARGETS = torch.zeros(2, 3, 4), torch.tensor([[0, 1, 2], [3, 0, IGNORED]])
A, LOGP = torch.ones(2), torch.zeros(2, 3)


def refused(sentence, **changed):
    given = {"logits": LOGITS, "targets": TARGETS, "advantages": A, **changed}
    return BadCall(lambda: grpo_loss(**given), f"grpo_loss: {sentence}")


def variant(**settings):
    """The operation under other settings."""
    return replace(
        GRPO,
        function=partial(grpo_loss, **settings),
        reference=made_positive(partial(grpo_loss_reference, **settings)),
    )


GRPO = MixedOperation(
    module=module,
    function=partial(grpo_loss, beta=0.5),
    reference=made_positive(partial(grpo_loss_reference, beta=0.5)),
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(2, 4, 5),
    coefficients=[2, 3, 4],
    fixed=[2, 3, 4],
    cancelled=1e-5,  # exp(d) - d - 1 and ratios of up to 3
    benchmark_shape=lambda shape: (1, 2, 3),
    bad_calls=[
        refused("logits must be a torch.Tensor; got list.", logits=[1.0]),
        refused(
            "logits must be float32, float16 or bfloat16; got float64 "
            "(grpo_loss_reference takes float64 too).",
            logits=LOGITS.double(),
        ),
        refused(
            "logits must have shape (B, T, V), sequences by tokens by at least one "
            "entry; got (3, 4).",
            logits=LOGITS[0],
        ),
        refused(
            "targets must have shape (B, T) = (2, 3) for logits of shape (2, 3, 4); "
            "got (2, 2).",
            targets=TARGETS[:, :2],
        ),
        refused(
            "targets must be 0 to 3, or -100 for a token to ignore; got 4.",
            targets=TARGETS.clamp(min=0) + 1,
        ),
        refused(
            "advantages must be a torch.Tensor; got NoneType.",
            advantages=None,
        ),
        refused(
            "advantages must have shape (B,) = (2,) for logits of shape (2, 3, 4); "
            "got (2, 3).",
            advantages=LOGP,
        ),
        refused("advantages must be float32; got int64.", advantages=A.long()),
        refused(
            "old_logp must have shape (B, T) = (2, 3) for logits of shape (2, 3, 4); "
            "got (6,).",
            old_logp=LOGP.view(-1),
        ),
        refused("old_logp must be float32; got float16.", old_logp=LOGP.half()),
        refused(
            "ref_logp must be on logits' device, cpu; got meta.",
            ref_logp=LOGP.to("meta"),
        ),
        refused(
            'surrogate must be "grpo", "gspo" or "cispo"; got \'dapo\'.',
            surrogate="dapo",
        ),
        refused("eps_low must be a number of 0 or more; got -0.1.", eps_low=-0.1),
        refused("eps_high must be a number of 0 or more; got nan.", eps_high=math.nan),
        refused("beta must be a number of 0 or more; got None.", beta=None),
        refused("beta must be a number of 0 or more; got inf.", beta=math.inf),
        refused(
            "beta = 0.1 weighs a KL to a reference: it needs ref_logp.",
            beta=0.1,
        ),
        refused("temperature must be a number above 0; got 0.", temperature=0),
    ],
)

VARIANTS = {
    "no KL": {},
    "bias corrected": {"beta": 0.5, "bias_corrected": True},
    "clip higher": {"eps_low": 0.2, "eps_high": 0.28},
    "gspo": {"surrogate": "gspo", "eps_low": 0.05, "eps_high": 0.1},
    "gspo with KL": {"surrogate": "gspo", "beta": 0.5},
    "gspo bias corrected": {
        "surrogate": "gspo",
        "beta": 0.5,
        "bias_corrected": True,
    },
    "cispo": {"surrogate": "cispo", "eps_low": math.inf, "eps_high": 0.3},
    "cispo bias corrected": {
        "surrogate": "cispo",
        "beta": 0.5,
        "bias_corrected": True,
    },
    "temperature": {"beta": 0.5, "temperature": 0.7},
}


class TestGrpoLoss(MixedKernelTests):
    operation = GRPO

    def test_specs_are_what_is_launched(self, monkeypatch):
        """All four variants of the kernel, one after the other."""

        def every(*given, interpret):
            answers = [
                grpo_loss(
                    *given,
                    surrogate=surrogate,
                    bias_corrected=corrected,
                    beta=0.5,
                    interpret=interpret,
                )
                for surrogate in ("gspo", "cispo")
                for corrected in (False, True)
            ]
            return tuple(y for answer in answers for y in answer)

        check_specs(replace(GRPO, function=every), monkeypatch)


@needs_a_kernel
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(name):
    """In float32: in halves are only the logits, and settings change nothing there."""
    operation, case = variant(**VARIANTS[name]), Case((3, 5, 9), torch.float32)
    check_values(operation, case)
    check_gradients(operation, case)


@pytest.mark.parametrize("name", [n for n in VARIANTS if not n.startswith("cispo")])
def test_every_variants_reference_by_finite_differences(name):
    """CISPO's weight is taken for constant: its gradient is no derivative."""
    check_reference_gradients(variant(**VARIANTS[name]))


@needs_a_kernel
def test_no_two_programs_touch_one_element(monkeypatch):
    """In blocks of 8 tokens: two whole ones and a half."""
    launch = module.token_launch
    monkeypatch.setattr(module, "token_launch", lambda *of: {**launch(*of), "BLOCK": 8})
    check_accesses(
        GRPO,
        Case((2, 10, 3), torch.float32),
        # Of an ignored token nothing but its target is read.
        partly=["logp_ptr", "log_ratio_ptr", "ref_ptr"],
    )


def everywhere(test):
    """By the kernel, and by the reference, which serves calls on a CPU."""

    def by_the_reference(*given, **settings):
        given = (x.cpu() if x is not None else None for x in given)
        return tuple(x.to(DEVICE) for x in grpo_loss(*given, **settings))

    ways = [partial(grpo_loss, interpret=INTERPRET), by_the_reference]
    by = pytest.mark.parametrize("losses", ways, ids=["kernel", "CPU"])
    return needs_a_kernel(by(test))


def random_inputs(*shape):
    values = inputs(shape, torch.Generator().manual_seed(2))
    given = [x.float() if x.is_floating_point() else x for x in values]
    return [x.to(DEVICE) for x in given]


@everywhere
def test_without_an_old_policy_it_is_reinforce(losses):
    """All ratios are 1: the loss is -A, its gradient that of -A logp."""
    logits, targets, A_B, *_ = random_inputs(3, 4, 5)
    logits.requires_grad_()
    loss, logp, _ = losses(logits, targets, A_B)
    counts = targets != IGNORED
    torch.testing.assert_close(loss, -A_B[:, None].where(counts, 0.0))
    (found,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad((-A_B[:, None] * logp).sum(), logits)
    torch.testing.assert_close(found, wanted)


@everywhere
@pytest.mark.parametrize(
    "A, log_ratio, share",
    [
        (1.0, 0.5, 0.0),  # more likely already, and rewarded: enough
        (1.0, -0.5, 1.0),  # rewarded, and less likely: back
        (-1.0, -0.5, 0.0),  # less likely already, and punished: enough
        (-1.0, 0.5, 1.0),
        (1.0, 0.0, 1.0),
        (0.0, 0.5, 0.0),
    ],
)
def test_a_clipped_token_has_no_gradient_and_cispos_has(losses, A, log_ratio, share):
    logits = torch.tensor([[[0.3, -0.2, 0.1]]], device=DEVICE).requires_grad_()
    targets = torch.tensor([[1]], device=DEVICE)
    A_B = torch.tensor([A], device=DEVICE)
    logp = logits.detach().log_softmax(-1)[..., 1]
    old = logp - log_ratio
    rho = math.exp(log_ratio)

    def gradient(**settings):
        loss, *_ = losses(logits, targets, A_B, old, **settings)
        return torch.autograd.grad(loss.sum(), logits)[0]

    chosen = torch.tensor([0.0, 1.0, 0.0], device=DEVICE)
    of_logp = chosen - logits.detach().softmax(-1)
    torch.testing.assert_close(gradient(), -share * rho * A * of_logp)
    weight = min(rho, 1.2)
    cispo = gradient(surrogate="cispo", eps_low=math.inf)
    torch.testing.assert_close(cispo, -weight * A * of_logp)


@everywhere
def test_one_token_is_a_sequence_of_one(losses):
    """There GSPO is GRPO."""
    given = random_inputs(5, 1, 7)
    given[1].clamp_(min=0)
    leaf = given[0].requires_grad_()
    found, wanted = losses(*given, surrogate="gspo"), losses(*given)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(x[0].sum(), leaf) for x in (found, wanted)]
    torch.testing.assert_close(*gradients)


@everywhere
def test_the_corrected_kl_pulls_towards_the_reference_the_right_way(losses):
    """Summed over all tokens by their probability, its gradient is that of
    KL(pi || ref), and the plain one's that of KL(ref || pi)."""
    V = 6
    z_V, ref_V = torch.randn(2, V, generator=torch.Generator().manual_seed(4))
    log_ref = ref_V.log_softmax(-1)
    z = z_V.double().requires_grad_()
    p, q = z.softmax(-1), log_ref.double().exp()
    reverse = (p * (p.log() - q.log())).sum()
    forward = (q * (q.log() - p.log())).sum()
    wanted = [
        torch.autograd.grad(kl, z, retain_graph=True)[0].float()
        for kl in (reverse, forward)
    ]

    logits = z_V.expand(1, V, V).clone().to(DEVICE).requires_grad_()
    targets = torch.arange(V, device=DEVICE)[None]  # each token once
    sampled = z_V.softmax(-1).to(DEVICE)
    no_advantage = torch.zeros(1, device=DEVICE)
    ref = log_ref[None].to(DEVICE)
    for corrected, kl in ((True, wanted[0]), (False, wanted[1])):
        loss, *_ = losses(
            logits, targets, no_advantage, None, ref, beta=1, bias_corrected=corrected
        )
        (found,) = torch.autograd.grad((sampled * loss).sum(), logits)
        torch.testing.assert_close(found.sum((0, 1)).cpu(), kl, rtol=1e-4, atol=1e-6)


@everywhere
@pytest.mark.parametrize("surrogate", ["grpo", "gspo", "cispo"])
def test_padding_may_hold_anything(losses, surrogate):
    logits, targets, A_B, old, ref = random_inputs(3, 4, 5)
    ignored = targets == IGNORED
    settings = {"surrogate": surrogate, "beta": 0.5, "bias_corrected": True}

    def everything(logits, old, ref):
        leaf = logits.clone().requires_grad_()
        answer = losses(leaf, targets, A_B, old, ref, **settings)
        return *answer, *torch.autograd.grad(answer[0].sum() + answer[2].sum(), leaf)

    wanted = everything(logits, old, ref)
    logits[ignored] = old[ignored] = ref[ignored] = math.nan
    found = everything(logits, old, ref)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not any(x[ignored].any() for x in found)


@everywhere
@pytest.mark.parametrize("surrogate", ["grpo", "gspo", "cispo"])
def test_a_sequence_without_tokens_has_no_loss(losses, surrogate):
    given = random_inputs(3, 4, 5)
    given[1][1] = IGNORED
    leaf = given[0].requires_grad_()
    loss, *_ = losses(*given, surrogate=surrogate, beta=0.5)
    assert loss.isfinite().all() and not loss[1].any() and loss[0].any()
    (dlogits,) = torch.autograd.grad(loss.sum(), leaf)
    assert dlogits.isfinite().all() and not dlogits[1].any()


@everywhere
def test_a_weight_of_0_asks_nothing_of_the_reference(losses):
    """Not even that it be near: exp of its distance overflows."""
    given = random_inputs(3, 4, 5)
    far = torch.full_like(given[4], 1000.0)
    without = losses(*given[:4])
    torch.testing.assert_close(losses(*given[:4], far), without, rtol=0, atol=0)


@everywhere
def test_a_chosen_token_may_have_become_impossible(losses):
    """A mask of logits forbids it: its ratio is 0, and nothing is NaN."""
    logits, targets, A_B, old, _ = random_inputs(3, 4, 5)
    targets[0, 1] = 2
    logits[0, 1, 2] = -math.inf
    leaf = logits.requires_grad_()
    loss, logp, _ = losses(leaf, targets, A_B, old)
    assert logp[0, 1] == -math.inf
    assert loss.isfinite().all()
    (dlogits,) = torch.autograd.grad(loss.sum(), leaf)
    assert dlogits.isfinite().all()


@needs_a_kernel
@pytest.mark.parametrize("surrogate", ["grpo", "gspo"])
def test_logits_are_read_once_on_the_way_and_once_on_the_way_back(
    surrogate, monkeypatch
):
    """By one launch each, a sequence's ratio too."""
    from kernels import selected_logprob

    launched = []
    for name in ("forward", "backward"):
        full = f"selected_logprob_{name}_kernel"
        kernel = getattr(selected_logprob, full)

        class Counted:
            def __init__(self, kernel, name):
                self.kernel, self.name = kernel, name

            def __getitem__(self, grid):
                launched.append(self.name)
                return self.kernel[grid]

        monkeypatch.setattr(selected_logprob, full, Counted(kernel, name))
    given = random_inputs(2, 3, 5)
    leaf = given[0].requires_grad_()
    loss, *_ = grpo_loss(*given, surrogate=surrogate, interpret=INTERPRET)
    torch.autograd.grad(loss.sum(), leaf)
    assert launched == ["forward", "backward"]


def test_the_costs_by_hand():
    """B = 2, T = 3, V = 5. A token has 8 bytes of target and 4 of all else.

    The loss: l, rho, two bounds, two products, the smaller; d, exp, two subtractions;
    beta kl, the sum; by_logp, two. What is computed twice counts once.
    """
    forward = Cost(2 * 30 + 6 * (8 + 6 * 4) + 4 * 2, flops=6 * (35 + 15))
    assert grpo_loss_cost(2, 3, 5, torch.bfloat16) == forward
    backward = Cost(4 * 60 + 6 * (8 + 7 * 4), flops=6 * (50 + 4))
    assert grpo_loss_backward_cost(2, 3, 5, torch.float32) == backward
