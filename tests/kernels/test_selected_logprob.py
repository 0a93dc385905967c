"""The selected log-probability passes every kernel's tests, and those only it has."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kernels import selected_logprob as module
from kernels.chosen_tokens import IGNORED
from kernels.operation import KERNEL_DTYPES, Cost
from kernels.selected_logprob import (
    MAX_BLOCK,
    selected_logprob,
    selected_logprob_backward_cost,
    selected_logprob_cost,
    selected_logprob_reference,
)
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import (
    MixedKernelTests,
    MixedOperation,
    check_gradients,
    check_values,
)
from tests.kernels.logprob_cases import chosen, made_positive

SHAPES = [
    (4, 128),  # a whole block
    (3, 129),
    (1, 1),
    (7,),
    (2, 3, 7),
    (3, MAX_BLOCK + 905),  # two blocks
    (2, 2 * MAX_BLOCK + 1),  # a last block of one entry
    (0, 5),
]
"""Rows, entries of the vocabulary."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
SCALE_CASES = [Case((3, 129), dtype, scale=300) for dtype in KERNEL_DTYPES]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((5, 33), torch.bfloat16, layout=name) for name in STRIDED]
X_CASES.append(Case((2, 3, 7), torch.float32, layout="transposed"))
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """Logits of a few units, and the chosen entry of each row."""
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return [logits, chosen(shape[:-1], shape[-1], generator)]


def refused(call, sentence):
    return BadCall(call, f"selected_logprob: {sentence}")


LOGITS, TARGETS = torch.zeros(2, 3), torch.tensor([0, 2])

SELECTED = MixedOperation(
    module=module,
    function=selected_logprob,
    reference=made_positive(selected_logprob_reference),
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(4, 5),
    cancelled=3e-6,  # of logits of size 8, less their log-sum-exp
    bad_calls=[
        refused(
            lambda: selected_logprob([1.0], TARGETS),
            "logits must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: selected_logprob(LOGITS.double(), TARGETS),
            "logits must be float32, float16 or bfloat16; got float64 "
            "(selected_logprob_reference takes float64 too).",
        ),
        refused(
            lambda: selected_logprob(torch.tensor(1.0), TARGETS),
            "logits must have shape (..., V) with at least one entry; got ().",
        ),
        refused(
            lambda: selected_logprob(LOGITS[:, :0], TARGETS),
            "logits must have shape (..., V) with at least one entry; got (2, 0).",
        ),
        refused(
            lambda: selected_logprob(LOGITS, [0, 2]),
            "targets must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: selected_logprob(LOGITS, TARGETS[:1]),
            "targets must have shape (...) = (2,) for logits of shape (2, 3); "
            "got (1,).",
        ),
        refused(
            lambda: selected_logprob(LOGITS, TARGETS.int()),
            "targets must be int64; got int32.",
        ),
        refused(
            lambda: selected_logprob(LOGITS, TARGETS.to("meta")),
            "targets must be on logits' device, cpu; got meta.",
        ),
        refused(
            lambda: selected_logprob(LOGITS, torch.tensor([0, 3])),
            "targets must be 0 to 2, or -100 for a token to ignore; got 3.",
        ),
        refused(
            lambda: selected_logprob(LOGITS, torch.tensor([-1, 2])),
            "targets must be 0 to 2, or -100 for a token to ignore; got -1.",
        ),
        *[
            refused(
                lambda T=T: selected_logprob(LOGITS, TARGETS, T),
                f"temperature must be a number above 0; got {T!r}.",
            )
            for T in (0, -1.0, math.inf, math.nan, True, None)
        ],
    ],
)


class TestSelectedLogprob(MixedKernelTests):
    operation = SELECTED


def everywhere(test):
    """By the kernel, and by the reference, which serves calls on a CPU."""

    def by_the_reference(logits, targets, temperature=1.0):
        answer = selected_logprob(logits.cpu(), targets.cpu(), temperature)
        return tuple(x.to(DEVICE) for x in answer)

    ways = [partial(selected_logprob, interpret=INTERPRET), by_the_reference]
    by = pytest.mark.parametrize("selected", ways, ids=["kernel", "CPU"])
    return needs_a_kernel(by(test))


def random_inputs(*shape):
    logits, targets = inputs(shape, torch.Generator().manual_seed(2))
    return logits.float().to(DEVICE), targets.to(DEVICE)


@needs_a_kernel
@pytest.mark.parametrize("temperature", [0.5, 3])
def test_any_temperature(temperature):
    operation = replace(
        SELECTED,
        function=partial(selected_logprob, temperature=temperature),
        reference=made_positive(
            partial(selected_logprob_reference, temperature=temperature)
        ),
    )
    for case in (Case((5, 33), torch.float32), Case((5, 33), torch.bfloat16)):
        check_values(operation, case)
        check_gradients(operation, case)


@needs_a_kernel
def test_no_two_programs_touch_one_element():
    """Nothing of an ignored row's logits is read."""
    check_accesses(
        SELECTED,
        Case((4, MAX_BLOCK + 5), torch.float32),
        partly=["logits_ptr", "dlogp_ptr", "dentropy_ptr"],
    )


@everywhere
def test_it_is_what_pytorchs_distributions_say(selected):
    logits, targets = random_inputs(6, 37)
    logp, entropy = selected(logits, targets, 0.7)
    policy = torch.distributions.Categorical(logits=logits.double() / 0.7)
    counts = targets != IGNORED
    wanted = policy.log_prob(targets.clamp(min=0)).where(counts, 0.0)
    torch.testing.assert_close(logp.double(), wanted, rtol=1e-6, atol=1e-6)
    wanted = policy.entropy().where(counts, 0.0)
    torch.testing.assert_close(entropy.double(), wanted, rtol=1e-6, atol=1e-6)


@everywhere
def test_the_gradient_is_the_papers_closed_form(selected):
    """(g (1[v = y] - p_v) - h p_v (log p_v + entropy)) / T, an entry at a time."""
    logits, targets = random_inputs(5, 9)
    leaf = logits.clone().requires_grad_()
    logp, entropy = selected(leaf, targets, 2.0)
    g, h = torch.randn(2, 5, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    (found,) = torch.autograd.grad((logp, entropy), leaf, (g, h))
    for n, row in enumerate(logits.double() / 2):
        log_p = row - row.logsumexp(0)
        surprise = -(log_p.exp() * log_p).sum()
        for v in range(9):
            p = log_p[v].exp()
            wanted = g[n] * ((v == targets[n]).double() - p)
            wanted = (wanted - h[n] * p * (log_p[v] + surprise)) / 2
            wanted = 0.0 if targets[n] == IGNORED else wanted.item()
            assert found[n, v].item() == pytest.approx(wanted, abs=1e-6)


@everywhere
def test_large_logits_lose_nothing(selected):
    """Sums are relative to the largest: what is added to all logits changes nothing."""
    logits, targets = random_inputs(6, 37)
    logits = (logits * 8).round() / 8  # so that 2 ** 15 more is exact
    for found, wanted in zip(
        selected(logits + 2**15, targets), selected(logits, targets), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@everywhere
def test_an_ignored_token_gives_nothing_whatever_its_logits_are(selected):
    logits, targets = random_inputs(6, 37)
    ignored = targets == IGNORED
    assert ignored.sum() == 2
    logits[ignored] = math.nan
    logits.requires_grad_()
    logp, entropy = selected(logits, targets)
    assert not logp[ignored].any() and not entropy[ignored].any()
    arriving = torch.full_like(logp, 3.0)
    (dlogits,) = torch.autograd.grad((logp, entropy), logits, (arriving, arriving))
    assert not dlogits[ignored].any()
    assert dlogits[~ignored].isfinite().all() and dlogits[~ignored].any(1).all()


@everywhere
def test_minus_infinity_hides_an_entry(selected):
    """Even a whole first block of them: the rest is a smaller vocabulary."""
    logits, _ = random_inputs(2, MAX_BLOCK + 50)
    targets = torch.tensor([MAX_BLOCK, MAX_BLOCK + 49], device=DEVICE)
    hidden = logits.clone()
    hidden[:, :MAX_BLOCK] = -math.inf
    few = logits[:, MAX_BLOCK:].clone().requires_grad_()
    hidden.requires_grad_()
    found, wanted = selected(hidden, targets), selected(few, targets - MAX_BLOCK)
    torch.testing.assert_close(found, wanted)
    dys = torch.randn(2, 2, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    (dhidden,) = torch.autograd.grad(found, hidden, list(dys))
    (dfew,) = torch.autograd.grad(wanted, few, list(dys))
    torch.testing.assert_close(dhidden[:, MAX_BLOCK:], dfew)
    assert not dhidden[:, :MAX_BLOCK].any()


@everywhere
def test_a_chosen_entry_that_is_hidden_has_probability_0(selected):
    logits = torch.tensor([[0.0, -math.inf, 0.0]], device=DEVICE)
    logp, entropy = selected(logits, torch.tensor([1], device=DEVICE))
    assert logp.item() == -math.inf
    assert entropy.item() == pytest.approx(math.log(2))


@everywhere
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # inf - inf
def test_a_nan_stays_in_its_row(selected):
    logits, _ = random_inputs(2, 5)
    logits[0, 3] = math.nan
    logp, entropy = selected(logits, torch.tensor([1, 2], device=DEVICE))
    assert logp[0].isnan() and entropy[0].isnan()
    assert logp[1].isfinite() and entropy[1].isfinite()


@needs_a_kernel
def test_on_a_gpu_a_target_beyond_the_vocabulary_is_not_followed(monkeypatch):
    """It cannot be refused without waiting: NaN says that something is wrong."""
    monkeypatch.setattr(module, "check_targets", lambda *given: None)
    logits, _ = random_inputs(2, 5)
    targets = torch.tensor([5, 4], device=DEVICE)
    logp, _ = selected_logprob(logits, targets, interpret=INTERPRET)
    assert logp[0].isnan() and logp[1].isfinite()


@needs_a_kernel
def test_rows_are_read_where_they_lie(monkeypatch):
    """A slice of a wider matrix, such as a vocabulary padded for speed: no copy."""
    logits, targets = random_inputs(6, 37)
    wanted = selected_logprob(logits, targets, interpret=INTERPRET)
    wide = torch.cat([logits, torch.full_like(logits, 99.0)], 1)
    copied = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(
        torch.Tensor, "contiguous", lambda t: copied.append(t.shape) or contiguous(t)
    )
    found = selected_logprob(wide[:, :37], targets, interpret=INTERPRET)
    assert all(map(torch.equal, found, wanted))
    assert logits.shape not in copied


def test_the_costs_by_hand():
    """N = 2, V = 3. A row has 8 bytes of target; logp, entropy and lse have 4 each."""
    forward = Cost(2 * 6 + 2 * (8 + 12), flops=7 * 6)
    assert selected_logprob_cost(2, 3, torch.bfloat16) == forward
    backward = Cost(4 * (6 + 6) + 2 * (8 + 4 * 4), flops=10 * 6)
    assert selected_logprob_backward_cost(2, 3, torch.float32) == backward
