"""The divergence of two rows passes every kernel's tests, and those only it has."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from kernels import token_divergence as module
from kernels.operation import KERNEL_DTYPES, Cost
from kernels.selected_logprob import MAX_BLOCK
from kernels.token_divergence import (
    token_divergence,
    token_divergence_backward_cost,
    token_divergence_cost,
    token_divergence_reference,
)
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.divergence_cases import (
    BETAS,
    TEMPERATURES,
    closed_form,
    counted,
    with_mask,
)
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
    """Logits of a few units of both, and which rows count."""
    student, teacher = 2 * torch.randn(
        (2, *shape), generator=generator, dtype=torch.float64
    )
    return [student, teacher, counted(shape[:-1])]


def refused(sentence, **changed):
    given = {"student": LOGITS, "teacher": LOGITS, "mask": MASK, **changed}
    return BadCall(lambda: token_divergence(**given), f"token_divergence: {sentence}")


LOGITS, MASK = torch.zeros(2, 3), torch.tensor([True, False])


def variant(**settings):
    """The operation at another beta or temperature."""
    return replace(
        FORWARD,
        function=with_mask(token_divergence, **settings),
        reference=with_mask(token_divergence_reference, **settings),
    )


FORWARD = MixedOperation(
    module=module,
    function=with_mask(token_divergence),
    reference=with_mask(token_divergence_reference),
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(4, 5),
    fixed=[1],
    cancelled=1e-5,  # logits of size 8 at T = 0.5, less each other and their lse
    bad_calls=[
        refused("student must be a torch.Tensor; got list.", student=[1.0]),
        refused(
            "student must be float32, float16 or bfloat16; got float64 "
            "(token_divergence_reference takes float64 too).",
            student=LOGITS.double(),
        ),
        refused(
            "student must have shape (..., V) with at least one entry; got ().",
            student=torch.tensor(1.0),
        ),
        refused(
            "student must have shape (..., V) with at least one entry; got (2, 0).",
            student=LOGITS[:, :0],
        ),
        refused("teacher must be a torch.Tensor; got NoneType.", teacher=None),
        refused(
            "teacher must have shape (..., V) = (2, 3) for student of shape (2, 3); "
            "got (2, 4).",
            teacher=torch.zeros(2, 4),
        ),
        refused(
            "teacher must have shape (..., V) = (2, 3) for student of shape (2, 3); "
            "got (3,).",
            teacher=LOGITS[0],
        ),
        refused("teacher must be float32; got bfloat16.", teacher=LOGITS.bfloat16()),
        refused(
            "teacher must be on student's device, cpu; got meta.",
            teacher=LOGITS.to("meta"),
        ),
        refused(
            "mask must have shape (...) = (2,) for student of shape (2, 3); "
            "got (2, 3).",
            mask=LOGITS.bool(),
        ),
        refused("mask must be bool; got int64.", mask=MASK.long()),
        refused("mask must be a torch.Tensor; got list.", mask=[True, False]),
        refused(
            "mask must be on student's device, cpu; got meta.", mask=MASK.to("meta")
        ),
        *[
            refused(f"beta must be a number from 0 to 1; got {beta!r}.", beta=beta)
            for beta in (-0.1, 1.1, math.nan, math.inf, True, None)
        ],
        *[
            refused(f"temperature must be a number above 0; got {T!r}.", temperature=T)
            for T in (0, -1.0, math.inf, math.nan, True, None)
        ],
    ],
)

MIXTURE = replace(
    variant(beta=0.3),
    value_cases=[*SHAPE_CASES[: 3 * 6], *SCALE_CASES],
    gradient_cases=SHAPE_CASES[: 3 * 6],
    bad_calls=[],
)


class TestTokenDivergence(MixedKernelTests):
    operation = FORWARD

    def test_specs_are_what_is_launched(self, monkeypatch):
        """All three kinds, one after the other."""

        def every(*given, interpret):
            call = with_mask(token_divergence, interpret=interpret)
            return tuple(call(*given, beta=beta) for beta in (0, 0.5, 1))

        check_specs(replace(FORWARD, function=every), monkeypatch)


class TestMixture(MixedKernelTests):
    operation = MIXTURE
    test_bad_input = None
    test_specs_are_what_is_launched = None


every_beta = pytest.mark.parametrize("beta", BETAS)
every_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@every_temperature
@every_beta
def test_every_beta_and_temperature(beta, temperature, dtype):
    operation = variant(beta=beta, temperature=temperature)
    check_values(operation, Case((5, 33), dtype))
    check_gradients(operation, Case((5, 33), dtype))


@every_beta
def test_every_reference_by_finite_differences(beta):
    check_reference_gradients(variant(beta=beta, temperature=0.7))


@needs_a_kernel
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_no_two_programs_touch_one_element(beta):
    """Nothing of a row is read that does not count."""
    first, second = ("a_ptr", "b_ptr"), ("student_ptr", "teacher_ptr")
    check_accesses(
        variant(beta=beta),
        Case((4, MAX_BLOCK + 5), torch.float32),
        partly=[*first, *second, "arriving_ptr"],
    )


def everywhere(test):
    """By the kernel, and by the reference, which serves calls on a CPU."""

    def by_the_reference(student, teacher, mask=None, *settings):
        mask = None if mask is None else mask.cpu()
        answer = token_divergence(student.cpu(), teacher.cpu(), mask, *settings)
        return answer.to(DEVICE)

    ways = [partial(token_divergence, interpret=INTERPRET), by_the_reference]
    by = pytest.mark.parametrize("divergence", ways, ids=["kernel", "CPU"])
    return needs_a_kernel(by(test))


def random_inputs(*shape):
    """In float32: student, teacher, mask."""
    values = inputs(shape, torch.Generator().manual_seed(2))
    student, teacher = (x.float().to(DEVICE) for x in values[:2])
    return student, teacher, values[2].bool().to(DEVICE)


@everywhere
def test_it_is_what_pytorchs_distributions_say(divergence):
    student, teacher, mask = random_inputs(6, 37)
    q, p = (
        torch.distributions.Categorical(logits=x.double() / 0.7)
        for x in (student, teacher)
    )
    M = torch.distributions.Categorical(probs=0.2 * p.probs + 0.8 * q.probs)
    kl = torch.distributions.kl_divergence
    for beta, wanted in (
        (0, kl(p, q)),
        (1, kl(q, p)),
        (0.2, 0.2 * kl(p, M) + 0.8 * kl(q, M)),
    ):
        found = divergence(student, teacher, mask, beta, 0.7).double()
        wanted = wanted.where(mask, 0.0)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@everywhere
@every_beta
def test_the_gradient_is_the_closed_form(divergence, beta):
    student, teacher, _ = random_inputs(4, 9)
    leaf = student.clone().requires_grad_()
    found = divergence(leaf, teacher, None, beta, 2.0)
    g = torch.randn(4, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    (gradient,) = torch.autograd.grad(found, leaf, g)
    for n in range(4):
        value, slope = closed_form(student[n], teacher[n], beta, 2.0)
        assert found[n].item() == pytest.approx(value, abs=1e-6)
        wanted = [g[n].item() * each for each in slope]
        assert gradient[n].tolist() == pytest.approx(wanted, abs=1e-6)


@everywhere
@every_beta
def test_large_logits_lose_nothing(divergence, beta):
    """Sums are relative to the largest: what is added to all logits changes nothing."""
    student, teacher, mask = random_inputs(6, 37)
    # So that 2 ** 15 more is exact.
    student, teacher = ((8 * x).round() / 8 for x in (student, teacher))
    wanted = divergence(student, teacher, mask, beta)
    for raised in ((2**15, 2**15), (2**15, 0), (0, -(2**15))):
        found = divergence(student + raised[0], teacher + raised[1], mask, beta)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


@everywhere
@every_beta
def test_a_token_that_does_not_count_gives_nothing(divergence, beta):
    """Whatever its logits are: both models' padding may hold anything."""
    student, teacher, mask = random_inputs(6, 37)
    assert (~mask).sum() == 2
    student[~mask] = math.nan
    teacher[~mask] = math.inf
    student.requires_grad_()
    found = divergence(student, teacher, mask, beta)
    assert not found[~mask].any() and found[mask].isfinite().all()
    (gradient,) = torch.autograd.grad(found, student, torch.full_like(found, 3.0))
    assert not gradient[~mask].any()
    assert gradient[mask].isfinite().all() and gradient[mask].any(1).all()


@everywhere
@every_beta
def test_all_tokens_masked(divergence, beta):
    student, teacher, mask = random_inputs(3, 5)
    student.requires_grad_()
    found = divergence(student, teacher, torch.zeros_like(mask), beta)
    assert not found.any()
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert not gradient.any()


@everywhere
@every_beta
def test_without_a_mask_every_token_counts(divergence, beta):
    student, teacher, mask = random_inputs(2, 3, 5)
    found = divergence(student, teacher, None, beta)
    assert torch.equal(found, divergence(student, teacher, mask | True, beta))
    assert found.shape == (2, 3) and (found > 0).all()


@everywhere
@every_beta
def test_entries_that_both_hide_are_a_smaller_vocabulary(divergence, beta):
    """Even a whole first block of them."""
    student, teacher, _ = random_inputs(2, MAX_BLOCK + 50)
    few = student[:, MAX_BLOCK:].clone().requires_grad_()
    wanted = divergence(few, teacher[:, MAX_BLOCK:].clone(), None, beta)
    for x in (student, teacher):
        x[:, :MAX_BLOCK] = -math.inf
    student.requires_grad_()
    found = divergence(student, teacher, None, beta)
    torch.testing.assert_close(found, wanted)
    g = torch.tensor([0.7, -1.3], device=DEVICE)
    (gradient,) = torch.autograd.grad(found, student, g)
    (of_few,) = torch.autograd.grad(wanted, few, g)
    torch.testing.assert_close(gradient[:, MAX_BLOCK:], of_few)
    assert not gradient[:, :MAX_BLOCK].any()


@everywhere
@pytest.mark.parametrize("least", [-math.inf, -1e30, -300.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5])
def test_what_the_teacher_hides_adds_nothing_to_its_kl(divergence, beta, least):
    """0 log 0 is 0. The student pays for those entries through its own sum."""
    student, teacher, _ = random_inputs(3, 37)
    teacher[:, ::2] = least
    student.requires_grad_()
    found = divergence(student, teacher, None, beta)
    p, log_q = teacher.double().softmax(-1), student.double().log_softmax(-1)
    kept = slice(1, None, 2)
    log_M = (beta * p + (1 - beta) * log_q.exp()).log()
    wanted = (p * (p.log() - log_M))[:, kept].sum(-1)
    if beta:
        of_student = (log_q.exp() * (log_q - log_M)).sum(-1)
        wanted = beta * wanted + (1 - beta) * of_student
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    g = torch.ones_like(found)
    (gradient,) = torch.autograd.grad(found, student, g)
    (exact,) = torch.autograd.grad(wanted, student, g.double())
    torch.testing.assert_close(gradient, exact.float(), rtol=1e-5, atol=1e-6)


@everywhere
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # inf - inf
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_kl_is_infinite_where_an_entry_is_asked_for_that_is_hidden(divergence, beta):
    """And it stays so when a later block is far larger. In between it is finite."""
    a, b, _ = random_inputs(2, 2 * MAX_BLOCK)
    b[0, 5] = -math.inf
    a[0, MAX_BLOCK + 5] = 30.0
    pair = (b, a) if beta == 0 else (a, b)  # student, teacher
    found = divergence(*pair, None, beta)
    assert found[0].item() == math.inf and found[1].isfinite()
    assert divergence(*pair, None, 0.5).isfinite().all()


@everywhere
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # 0 * inf
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_what_is_asked_for_too_little_to_be_a_number_adds_nothing(divergence, beta):
    """exp(-300) is 0: a block that seemed to matter does not, after the next one."""
    a, b, _ = random_inputs(1, 2 * MAX_BLOCK)
    b[0, :MAX_BLOCK] = -math.inf
    a[0, MAX_BLOCK:] += 300.0
    pair = (b, a) if beta == 0 else (a, b)
    found = divergence(*pair, None, beta)
    late = [x[:, MAX_BLOCK:] for x in pair]
    torch.testing.assert_close(found, divergence(*late, None, beta))


@everywhere
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # inf - inf
@pytest.mark.parametrize("which", [0, 1])
@every_beta
def test_a_nan_stays_in_its_row(divergence, beta, which):
    pair = random_inputs(2, 5)[:2]
    pair[which][0, 3] = math.nan
    found = divergence(*pair, None, beta)
    assert found[0].isnan() and found[1].isfinite()


@everywhere
@every_beta
def test_equal_distributions_are_no_distance_apart(divergence, beta):
    """Also where all logits of one are 3 more: softmax does not see it."""
    student, _, _ = random_inputs(6, 37)
    leaf = student.clone().requires_grad_()
    found = divergence(leaf, student + 3, None, beta)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    torch.testing.assert_close(gradient, torch.zeros_like(leaf), rtol=0, atol=1e-6)


@everywhere
def test_in_between_it_is_bounded_and_nears_both_kls(divergence):
    student, teacher = (x / 2 for x in random_inputs(6, 37)[:2])
    half = divergence(student, teacher, None, 0.5)
    torch.testing.assert_close(half, divergence(teacher, student, None, 0.5))
    assert (half < math.log(2)).all()
    for beta, share in ((1e-3, 1e-3), (1 - 1e-3, 1e-3)):
        near = divergence(student, teacher, None, beta) / share
        end = divergence(student, teacher, None, float(round(beta)))
        torch.testing.assert_close(near, end, rtol=0.05, atol=0)


@everywhere
@every_beta
def test_the_teacher_gets_no_gradient(divergence, beta):
    student, teacher, _ = (x.requires_grad_(x.is_floating_point()) for x in
                           random_inputs(3, 5))  # fmt: skip
    found = divergence(student, teacher, None, beta).sum()
    of_both = torch.autograd.grad(found, (student, teacher), allow_unused=True)
    assert of_both[0].any() and of_both[1] is None


@needs_a_kernel
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_result_may_be_changed_in_place(beta):
    """Hinton's T^2, say: the backward has what it needs for itself."""
    student, teacher, _ = random_inputs(3, 5)
    student.requires_grad_()

    def gradient(multiply):
        found = token_divergence(student, teacher, None, beta, 2.0, INTERPRET)
        return torch.autograd.grad(multiply(found).sum(), student)[0]

    assert torch.equal(gradient(lambda y: y.mul_(4)), gradient(lambda y: y * 4))


@needs_a_kernel
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_rows_are_read_where_they_lie(beta, monkeypatch):
    """Slices of wider matrices, of different widths, as of padded vocabularies."""
    student, teacher, mask = random_inputs(6, 37)
    call = partial(token_divergence, beta=beta, interpret=INTERPRET)
    wanted = call(student, teacher, mask)
    wide = torch.cat([student, torch.full_like(student, 99.0)], 1)
    wider = torch.cat([teacher, torch.full((6, 91), 99.0, device=DEVICE)], 1)
    copied = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(
        torch.Tensor, "contiguous", lambda t: copied.append(t.shape) or contiguous(t)
    )
    assert torch.equal(call(wide[:, :37], wider[:, :37], mask), wanted)
    assert student.shape not in copied


@needs_a_kernel
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_same_bits_every_time(beta):
    student, teacher, mask = random_inputs(5, MAX_BLOCK + 5)
    student.requires_grad_()

    def once():
        found = token_divergence(student, teacher, mask, beta, 1.5, INTERPRET)
        return found, *torch.autograd.grad(found.square().sum(), student)

    assert all(map(torch.equal, once(), once()))


def test_the_costs_by_hand():
    """N = 2, V = 3. A row has 1 byte of mask; its four numbers have 4 each."""
    forward = Cost(2 * 12 + 2 * (1 + 16), flops=13 * 6)
    assert token_divergence_cost(2, 3, torch.bfloat16) == forward
    assert token_divergence_cost(2, 3, torch.bfloat16, 1.0) == forward
    between = token_divergence_cost(2, 3, torch.bfloat16, 0.5)
    assert between == Cost(forward.bytes, flops=33 * 6)
    for beta, flops in ((0, 9), (1, 10), (0.5, 19)):
        backward = Cost(4 * 18 + 2 * (1 + 16), flops=flops * 6)
        assert token_divergence_backward_cost(2, 3, torch.float32, beta) == backward
