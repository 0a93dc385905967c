"""The divergence of fused output layers passes every kernel's tests, and its own."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import linear_divergence as module
from kernels.linear_divergence import (
    linear_divergence,
    linear_divergence_backward_cost,
    linear_divergence_cost,
    linear_divergence_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from kernels.token_divergence import token_divergence
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.divergence_cases import BETAS, TEMPERATURES, counted, with_mask
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

SHAPES = [
    (64, 128, 32, 32),  # whole blocks
    (3, 5, 7, 4),
    (1, 1, 1, 1),
    (2, 3, 9, 6, 11),
    (70, 65, 33, 20),  # two blocks of each, or one
    (2, 140, 70, 35),
    (0, 5, 4, 3),
]
"""Rows (leading axes), entries of the vocabulary, width of the student, the teacher."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
SCALE_CASES = [Case((3, 33, 5, 6), dtype, scale=100) for dtype in KERNEL_DTYPES]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((5, 9, 7, 6), torch.bfloat16, layout=name) for name in STRIDED]
X_CASES.append(Case((2, 3, 9, 6, 5), torch.float32, layout="transposed"))
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """Hidden states and output matrices that make logits of a few units, of student
    and teacher, and which rows count."""
    *rows, V, D, E = shape
    layers = []
    for width in (D, E):
        hidden = torch.randn((*rows, width), generator=generator, dtype=torch.float64)
        weight = torch.randn((V, width), generator=generator, dtype=torch.float64)
        layers += [hidden, 2 * weight / width**0.5]
    return [*layers, counted(rows)]


H, W, H2, W2 = (torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, 5),
                torch.zeros(3, 5))  # fmt: skip
MASK = torch.tensor([True, False])


def refused(sentence, **changed):
    given = {
        "student_hidden": H,
        "student_weight": W,
        "teacher_hidden": H2,
        "teacher_weight": W2,
        "mask": MASK,
        **changed,
    }
    return BadCall(lambda: linear_divergence(**given), f"linear_divergence: {sentence}")


def variant(**settings):
    """The operation at another beta or temperature."""
    return replace(
        FORWARD,
        function=with_mask(linear_divergence, **settings),
        reference=with_mask(linear_divergence_reference, **settings),
    )


FORWARD = MixedOperation(
    module=module,
    function=with_mask(linear_divergence),
    reference=with_mask(linear_divergence_reference),
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(4, 5, 3, 2),
    fixed=[2, 3],
    cancelled=2e-5,
    # The gradient of logits, and a product of it: sums of up to 8 numbers of size 1.
    rounded=8,
    # Blocks depend on the dtype only.
    benchmark_shape=lambda shape: (2, 3, 4, 4),
    bad_calls=[
        refused(
            "student_hidden must be a torch.Tensor; got list.", student_hidden=[1.0]
        ),
        refused(
            "student_hidden must be float32, float16 or bfloat16; got float64 "
            "(linear_divergence_reference takes float64 too).",
            student_hidden=H.double(),
        ),
        refused(
            "student_hidden must have shape (..., D) with at least one number a row; "
            "got ().",
            student_hidden=torch.tensor(1.0),
        ),
        refused(
            "teacher_hidden must have shape (..., E) with at least one number a row; "
            "got (2, 0).",
            teacher_hidden=H2[:, :0],
        ),
        refused(
            "student_weight must have shape (V, D) with at least one entry; "
            "got (0, 4).",
            student_weight=W[:0],
        ),
        refused(
            "student_weight must have shape (V, D) with at least one entry; got (4,).",
            student_weight=W[0],
        ),
        refused(
            "student_weight must have shape (V, D) = (4, 4) for student_hidden of "
            "shape (2, 4); got (4, 3).",
            student_weight=W.T,
        ),
        refused(
            "student_weight must be float32; got float16.", student_weight=W.half()
        ),
        refused(
            "teacher_hidden must have shape (..., E) = (2, 5) for student_hidden of "
            "shape (2, 4); got (1, 5).",
            teacher_hidden=H2[:1],
        ),
        refused(
            "teacher_hidden must be float32; got float16.", teacher_hidden=H2.half()
        ),
        refused(
            "teacher_hidden must be on student_hidden's device, cpu; got meta.",
            teacher_hidden=H2.to("meta"),
        ),
        refused(
            "teacher_weight must have shape (V, E) = (3, 5) for student_weight of "
            "shape (3, 4); got (4, 5).",
            teacher_weight=torch.zeros(4, 5),
        ),
        refused(
            "teacher_weight must be a torch.Tensor; got NoneType.", teacher_weight=None
        ),
        refused(
            "mask must have shape (...) = (2,) for student_hidden of shape (2, 4); "
            "got (1,).",
            mask=MASK[:1],
        ),
        refused("mask must be bool; got float32.", mask=MASK.float()),
        refused("beta must be a number from 0 to 1; got 2.", beta=2),
        refused("beta must be a number from 0 to 1; got nan.", beta=math.nan),
        refused("temperature must be a number above 0; got 0.0.", temperature=0.0),
        refused("temperature must be a number above 0; got inf.", temperature=math.inf),
    ],
)


class TestLinearDivergence(MixedKernelTests):
    operation = FORWARD

    def test_specs_are_what_is_launched(self, monkeypatch):
        """All three kinds, one after the other."""

        def every(*given, interpret):
            call = with_mask(linear_divergence, interpret=interpret)
            return tuple(call(*given, beta=beta) for beta in (0, 0.5, 1))

        check_specs(replace(FORWARD, function=every), monkeypatch)


every_beta = pytest.mark.parametrize("beta", BETAS)
every_kind = pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("temperature", TEMPERATURES)
@every_beta
def test_every_beta_and_temperature(beta, temperature, dtype):
    operation = variant(beta=beta, temperature=temperature)
    check_values(operation, Case((5, 33, 6, 9), dtype))
    check_gradients(operation, Case((5, 33, 6, 9), dtype))


@every_kind
def test_every_reference_by_finite_differences(beta):
    check_reference_gradients(variant(beta=beta, temperature=0.7))


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@every_kind
def test_many_spans(beta, dtype, monkeypatch):
    """Put together from partial results, the last of fewer entries; dhidden from
    several products."""
    monkeypatch.setattr(module, "SPAN", 128)
    check_values(variant(beta=beta), Case((5, 300, 6, 4), dtype))
    check_gradients(variant(beta=beta), Case((5, 300, 6, 4), dtype))


@needs_a_kernel
@every_kind
def test_no_two_programs_touch_one_element(beta, monkeypatch):
    monkeypatch.setattr(module, "SPAN", 64)
    # A launch on the way back reads its own span of the weights, and the last one is
    # shorter than the buffer.
    check_accesses(
        variant(beta=beta),
        Case((35, 70, 17, 5), torch.float32),
        partly=["student_weight_ptr", "teacher_weight_ptr", "dlogits_ptr"],
    )


def random_inputs(shape=(6, 37, 5, 8)):
    """In float32; the student's require a gradient. Which rows count comes last."""
    values = inputs(shape, torch.Generator().manual_seed(2))
    layers = [x.float().to(DEVICE) for x in values[:4]]
    for x in layers[:2]:
        x.requires_grad_()
    return *layers, values[4].bool().to(DEVICE)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
@every_kind
def test_it_is_the_products_and_token_divergence(beta, interpret):
    h, w, h2, w2, mask = random_inputs()
    found = linear_divergence(h, w, h2, w2, mask, beta, 0.7, interpret)
    wanted = token_divergence(h @ w.T, h2 @ w2.T, mask, beta, 0.7, interpret)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    g = torch.randn(6, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    torch.testing.assert_close(
        torch.autograd.grad(found, (h, w), g),
        torch.autograd.grad(wanted, (h, w), g),
        rtol=1e-5,
        atol=1e-5,
    )


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
@every_kind
def test_a_token_that_does_not_count_gives_nothing(beta, interpret):
    h, w, h2, w2, mask = random_inputs()
    found = linear_divergence(h, w, h2, w2, mask, beta, interpret=interpret)
    assert not found[~mask].any() and found[mask].all()
    arriving = torch.full_like(found, 3.0)
    dh, dw = torch.autograd.grad(found, (h, w), arriving)
    assert not dh[~mask].any()
    kept = h.detach()[mask].requires_grad_()
    alone = linear_divergence(kept, w, h2[mask], w2, None, beta, interpret=interpret)
    wanted = torch.autograd.grad(alone, (kept, w), arriving[mask])
    torch.testing.assert_close((dh[mask], dw), wanted)


@needs_a_kernel
@every_kind
def test_all_tokens_masked(beta):
    h, w, h2, w2, mask = random_inputs()
    none = torch.zeros_like(mask)
    found = linear_divergence(h, w, h2, w2, none, beta, interpret=INTERPRET)
    assert not found.any()
    assert not any(x.any() for x in torch.autograd.grad(found.sum(), (h, w)))


@needs_a_kernel
@every_kind
def test_no_tensor_of_all_logits_is_made(beta, monkeypatch):
    """Neither on the way nor on the way back: nothing has N V elements or more."""
    monkeypatch.setattr(module, "SPAN", 64)
    h, w, h2, w2, mask = random_inputs((40, 700, 5, 6))
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.is_floating_point():
                sizes.append(made.numel())
            return made

    with Watch():
        found = linear_divergence(h, w, h2, w2, mask, beta, interpret=INTERPRET)
        torch.autograd.grad(found, (h, w), torch.ones(40, device=DEVICE))
    assert max(sizes) < 40 * 700 / 4
    assert 40 * 64 in sizes  # the buffer of a span


@needs_a_kernel
def test_what_is_frozen_is_not_computed(monkeypatch):
    """A frozen output matrix needs no product for its gradient."""
    h, w, h2, w2, mask = random_inputs()
    found = linear_divergence(h, w.detach(), h2, w2, mask, interpret=INTERPRET)

    def refuse(*given, **named):
        raise AssertionError("made the gradient of a frozen weight")

    monkeypatch.setattr(torch, "mm", refuse)
    (dh,) = torch.autograd.grad(found.sum(), h)
    assert dh.isfinite().all() and dh.any()


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_the_teacher_gets_no_gradient(interpret):
    h, w, h2, w2, mask = random_inputs()
    teacher = h2.requires_grad_(), w2.requires_grad_()
    found = linear_divergence(h, w, h2, w2, mask, interpret=interpret).sum()
    grads = torch.autograd.grad(found, (h, w, *teacher), allow_unused=True)
    assert grads[0].any() and grads[1].any() and grads[2:] == (None, None)


@needs_a_kernel
@every_kind
def test_the_result_may_be_changed_in_place(beta):
    h, w, h2, w2, mask = random_inputs()

    def gradients(multiply):
        found = linear_divergence(h, w, h2, w2, mask, beta, 2.0, INTERPRET)
        return torch.autograd.grad(multiply(found).sum(), (h, w))

    in_place, wanted = gradients(lambda y: y.mul_(4)), gradients(lambda y: y * 4)
    assert all(map(torch.equal, in_place, wanted))


@needs_a_kernel
@every_kind
def test_the_same_bits_every_time(beta, monkeypatch):
    monkeypatch.setattr(module, "SPAN", 64)
    h, w, h2, w2, mask = random_inputs((35, 70, 17, 5))

    def once():
        found = linear_divergence(h, w, h2, w2, mask, beta, interpret=INTERPRET)
        return found, *torch.autograd.grad(found.square().sum(), (h, w))

    assert all(map(torch.equal, once(), once()))


@needs_a_kernel
@every_kind
def test_large_logits_lose_nothing(beta, monkeypatch):
    """Rows whose logits are all a thousand more, over several spans."""
    monkeypatch.setattr(module, "SPAN", 64)
    h, w, h2, w2, mask = (x.detach() for x in random_inputs((6, 150, 5, 8)))
    call = partial(linear_divergence, beta=beta, interpret=INTERPRET)
    raised = torch.cat([h, torch.full((6, 1), 1024.0, device=DEVICE)], 1)
    wide = torch.cat([w, torch.ones(150, 1, device=DEVICE)], 1)
    found = call(raised, wide, h2, w2, mask)
    wanted = call(h, w, h2, w2, mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_the_costs_by_hand():
    """N = 2, V = 3, D = 5, E = 7: 2 + 3 rows of each width."""
    forward = Cost(2 * 5 * 12 + 2 * 17, flops=6 * (24 + 13))
    assert linear_divergence_cost(2, 3, 5, 7, torch.bfloat16) == forward
    between = linear_divergence_cost(2, 3, 5, 7, torch.bfloat16, 0.5)
    assert between == Cost(forward.bytes, flops=6 * (24 + 33))
    backward = Cost(4 * 5 * 17 + 2 * 17, flops=6 * (30 + 14 + 9))
    assert linear_divergence_backward_cost(2, 3, 5, 7, torch.float32) == backward
