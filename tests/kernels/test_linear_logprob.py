"""The fused output layer passes every kernel's tests, and those only it has."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import linear_logprob as module
from kernels.chosen_tokens import IGNORED
from kernels.linear_logprob import (
    linear_logprob,
    linear_logprob_backward_cost,
    linear_logprob_cost,
    linear_logprob_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from kernels.selected_logprob import selected_logprob
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
    (64, 64, 32),  # whole blocks
    (3, 5, 7),
    (1, 1, 1),
    (2, 3, 9, 6),
    (70, 65, 33),  # two blocks of each, or one
    (2, 140, 70),
    (0, 5, 4),
]
"""Rows (leading axes), entries of the vocabulary, model width."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]

SCALE_CASES = [Case((3, 33, 5), dtype, scale=100) for dtype in KERNEL_DTYPES]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((5, 9, 7), torch.bfloat16, layout=name) for name in STRIDED]
X_CASES.append(Case((2, 3, 9, 6), torch.float32, layout="transposed"))
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """Hidden states, an output matrix that makes logits of a few units, and targets."""
    *rows, V, D = shape
    hidden = torch.randn((*rows, D), generator=generator, dtype=torch.float64)
    weight = torch.randn((V, D), generator=generator, dtype=torch.float64)
    return [hidden, 2 * weight / D**0.5, chosen(rows, V, generator)]


def refused(call, sentence):
    return BadCall(call, f"linear_logprob: {sentence}")


HIDDEN, WEIGHT, TARGETS = torch.zeros(2, 4), torch.zeros(3, 4), torch.tensor([0, 2])

LINEAR = MixedOperation(
    module=module,
    function=linear_logprob,
    reference=made_positive(linear_logprob_reference),
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(4, 5, 3),
    cancelled=1e-5,
    # The gradient of logits, and a product of it: sums of up to 8 numbers of size 1.
    rounded=8,
    # Blocks depend on the dtype only.
    benchmark_shape=lambda shape: (2, 3, 4),
    bad_calls=[
        refused(
            lambda: linear_logprob([1.0], WEIGHT, TARGETS),
            "hidden must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: linear_logprob(HIDDEN.double(), WEIGHT, TARGETS),
            "hidden must be float32, float16 or bfloat16; got float64 "
            "(linear_logprob_reference takes float64 too).",
        ),
        refused(
            lambda: linear_logprob(HIDDEN[:, :0], WEIGHT[:, :0], TARGETS),
            "hidden must have shape (..., D) with at least one number a row; "
            "got (2, 0).",
        ),
        refused(
            lambda: linear_logprob(torch.tensor(1.0), WEIGHT, TARGETS),
            "hidden must have shape (..., D) with at least one number a row; got ().",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, "w", TARGETS),
            "weight must be a torch.Tensor; got str.",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT[0], TARGETS),
            "weight must have shape (V, D) with at least one entry; got (4,).",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT[:0], TARGETS),
            "weight must have shape (V, D) with at least one entry; got (0, 4).",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT.T, TARGETS),
            "weight must have shape (V, D) = (4, 4) for hidden of shape (2, 4); "
            "got (4, 3).",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT.half(), TARGETS),
            "weight must be float32; got float16.",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT.to("meta"), TARGETS),
            "weight must be on hidden's device, cpu; got meta.",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT, TARGETS[:1]),
            "targets must have shape (...) = (2,) for hidden of shape (2, 4); "
            "got (1,).",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT, TARGETS.int()),
            "targets must be int64; got int32.",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT, TARGETS + 1),
            "targets must be 0 to 2, or -100 for a token to ignore; got 3.",
        ),
        refused(
            lambda: linear_logprob(HIDDEN, WEIGHT, TARGETS, 0.0),
            "temperature must be a number above 0; got 0.0.",
        ),
    ],
)


class TestLinearLogprob(MixedKernelTests):
    operation = LINEAR


def random_inputs(shape=(6, 37, 5)):
    values = inputs(shape, torch.Generator().manual_seed(2))
    hidden, weight = (x.float().to(DEVICE).requires_grad_() for x in values[:2])
    return hidden, weight, values[2].to(DEVICE)


@needs_a_kernel
def test_any_temperature():
    operation = replace(
        LINEAR,
        function=partial(linear_logprob, temperature=0.5),
        reference=made_positive(partial(linear_logprob_reference, temperature=0.5)),
    )
    for case in (Case((5, 33, 6), torch.float32), Case((5, 33, 6), torch.bfloat16)):
        check_values(operation, case)
        check_gradients(operation, case)


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_many_spans(dtype, monkeypatch):
    """Put together from partial results, the last of fewer entries; dhidden from
    several products."""
    monkeypatch.setattr(module, "SPAN", 128)
    check_values(LINEAR, Case((5, 700, 6), dtype))
    check_gradients(LINEAR, Case((5, 700, 6), dtype))


@needs_a_kernel
def test_no_two_programs_touch_one_element(monkeypatch):
    monkeypatch.setattr(module, "SPAN", 128)
    # A launch on the way back reads its own span of the weights, and the last one is
    # shorter than the buffer.
    check_accesses(
        LINEAR,
        Case((70, 140, 33), torch.float32),
        partly=["weight_ptr", "dlogits_ptr"],
    )


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_it_is_the_product_and_selected_logprob(interpret):
    hidden, weight, targets = random_inputs()
    found = linear_logprob(hidden, weight, targets, 0.7, interpret=interpret)
    logits = hidden @ weight.T
    wanted = selected_logprob(logits, targets, 0.7, interpret=interpret)
    torch.testing.assert_close(found, wanted)
    dys = torch.randn(2, 6, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    torch.testing.assert_close(
        torch.autograd.grad(found, (hidden, weight), list(dys)),
        torch.autograd.grad(wanted, (hidden, weight), list(dys)),
    )


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_an_ignored_token_gives_nothing(interpret):
    hidden, weight, targets = random_inputs()
    ignored = targets == IGNORED
    logp, entropy = linear_logprob(hidden, weight, targets, interpret=interpret)
    assert not logp[ignored].any() and not entropy[ignored].any()
    assert logp[~ignored].all() and entropy[~ignored].all()
    arriving = torch.full_like(logp, 3.0)
    gradients = torch.autograd.grad((logp, entropy), (hidden, weight), [arriving] * 2)
    assert not gradients[0][ignored].any()
    kept = hidden.detach()[~ignored].requires_grad_()
    alone = linear_logprob(kept, weight, targets[~ignored], interpret=interpret)
    wanted = torch.autograd.grad(alone, (kept, weight), [arriving[~ignored]] * 2)
    torch.testing.assert_close((gradients[0][~ignored], gradients[1]), wanted)


@needs_a_kernel
def test_on_a_gpu_a_target_beyond_the_vocabulary_gives_nan(monkeypatch):
    """It cannot be refused without waiting. No span has it, in its tile or beyond."""
    monkeypatch.setattr(module, "check_targets", lambda *given: None)
    hidden, weight, _ = random_inputs((3, 37, 5))
    targets = torch.tensor([36, 37, 1000], device=DEVICE)
    logp, _ = linear_logprob(hidden, weight, targets, interpret=INTERPRET)
    assert logp[0].isfinite() and logp[1:].isnan().all()


@needs_a_kernel
def test_no_tensor_of_all_logits_is_made(monkeypatch):
    """Neither on the way nor on the way back: nothing has N V elements or more."""
    monkeypatch.setattr(module, "SPAN", 64)
    hidden, weight, targets = random_inputs((40, 700, 5))
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.is_floating_point():
                sizes.append(made.numel())
            return made

    with Watch():
        answer = linear_logprob(hidden, weight, targets, interpret=INTERPRET)
        torch.autograd.grad(
            answer, (hidden, weight), [torch.ones(40, device=DEVICE)] * 2
        )
    assert max(sizes) < 40 * 700 / 4
    assert 40 * 64 in sizes  # the buffer of a span


@needs_a_kernel
def test_what_is_frozen_is_not_computed(monkeypatch):
    """A frozen output matrix needs no product for its gradient."""
    hidden, weight, targets = random_inputs()
    answer = linear_logprob(hidden, weight.detach(), targets, interpret=INTERPRET)

    def refuse(*given, **named):
        raise AssertionError("made the gradient of a frozen weight")

    monkeypatch.setattr(torch, "mm", refuse)
    (dhidden,) = torch.autograd.grad(answer, hidden, [torch.ones(6, device=DEVICE)] * 2)
    assert dhidden.isfinite().all()


@needs_a_kernel
def test_gradients_have_the_same_bits_every_time():
    hidden, weight, targets = random_inputs((70, 65, 33))

    def gradients():
        logp, _ = linear_logprob(hidden, weight, targets, interpret=INTERPRET)
        return torch.autograd.grad(logp.square().sum(), (hidden, weight))

    once = gradients()
    assert all(map(torch.equal, gradients(), once))


@needs_a_kernel
def test_large_logits_lose_nothing():
    """Rows whose logits are all a thousand more."""
    hidden, weight, targets = random_inputs()
    one = torch.ones(6, 1, device=DEVICE)
    raised = torch.cat([hidden.detach(), 1024 * one], 1)
    wide = torch.cat([weight.detach(), torch.ones(37, 1, device=DEVICE)], 1)
    logp, entropy = linear_logprob(raised, wide, targets, interpret=INTERPRET)
    wanted = linear_logprob(hidden, weight, targets, interpret=INTERPRET)
    torch.testing.assert_close(logp, wanted[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(entropy, wanted[1], rtol=0, atol=1e-3)
    assert math.isfinite(logp.sum().item())


def test_the_costs_by_hand():
    """N = 2, V = 3, D = 5: hidden has 10 numbers, weight 15."""
    forward = Cost(2 * 25 + 2 * (8 + 12), flops=6 * (10 + 7))
    assert linear_logprob_cost(2, 3, 5, torch.bfloat16) == forward
    backward = Cost(4 * 50 + 2 * (8 + 4 * 4), flops=6 * (30 + 10))
    assert linear_logprob_backward_cost(2, 3, 5, torch.float32) == backward


def test_8_flops_for_each_row_entry_and_number_of_the_width():
    """2 on the way, 6 on the way back: stored logits would take 6 in all."""
    N, V, D = 8192, 151936, 2048
    way = linear_logprob_cost(N, V, D, torch.bfloat16).flops
    back = linear_logprob_backward_cost(N, V, D, torch.bfloat16).flops
    assert (way + back) / (N * V * D) == pytest.approx(8, rel=2e-3)
