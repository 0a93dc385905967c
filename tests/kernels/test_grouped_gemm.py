"""The grouped product passes every kernel's tests, and those that only it has."""

from dataclasses import replace

import pytest
import torch

import kernels
from kernels import grouped_gemm as module
from kernels.grouped_gemm import (
    grouped_gemm,
    grouped_gemm_backward_cost,
    grouped_gemm_cost,
    grouped_gemm_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.expert_cases import normal, routing
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation

SHAPES = [
    (80, 2, 64, 128, 2),  # whole blocks of each width
    (13, 3, 9, 5, 3),
    (1, 1, 1, 1, 1),
    (1, 4, 3, 2, 1),  # fewer rows than experts
    (40, 6, 7, 11, 2),  # experts without rows
    (140, 3, 5, 6, 1),  # one takes all: two blocks of rows, or three
    (60, 4, 130, 140, 3),  # two blocks of each width
    (0, 3, 5, 4, 1),
]
"""(R, E, C, N, busy): rows, experts, widths, experts that get rows."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
SCALE_CASES = [Case((13, 3, 33, 5, 3), d, scale=300) for d in KERNEL_DTYPES]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [
    Case((13, 3, 9, 5, 2), dtype, layout=name)
    for name in STRIDED
    for dtype in (torch.float32, torch.bfloat16)
]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """x, weight and first."""
    R, E, C, N, busy = shape
    *_, first = routing(R, 1, E, busy, generator)
    return [
        normal(R, C, generator=generator),
        normal(E, C, N, generator=generator),
        first,
    ]


X, WEIGHT = torch.zeros(10, 3), torch.zeros(2, 3, 4)
FIRST = torch.tensor([0, 4, 10], dtype=torch.int32)


def refused(call, sentence):
    return BadCall(call, f"grouped_gemm: {sentence}")


def refused_first(numbers):
    first = torch.tensor(numbers, dtype=torch.int32)
    return refused(
        lambda: grouped_gemm(X, WEIGHT, first),
        "first must begin at 0, never fall and end at the number of rows, 10; got "
        f"{numbers}.",
    )


GROUPED = MixedOperation(
    module=module,
    function=grouped_gemm,
    reference=grouped_gemm_reference,
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(7, 3, 4, 5, 2),
    # Blocks depend on the dtype and the number of experts only.
    benchmark_shape=lambda shape: (2, shape[1], 2, 2, 2),
    bad_calls=[
        refused(
            lambda: grouped_gemm("x", WEIGHT, FIRST),
            "x must be a torch.Tensor; got str.",
        ),
        refused(
            lambda: grouped_gemm(X.double(), WEIGHT, FIRST),
            "x must be float32, float16 or bfloat16; got float64 "
            "(grouped_gemm_reference takes float64 too).",
        ),
        refused(
            lambda: grouped_gemm(X[0], WEIGHT, FIRST),
            "x must have shape (R, C): rows by expert, numbers; got (3,).",
        ),
        refused(
            lambda: grouped_gemm(X, [WEIGHT], FIRST),
            "weight must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT[0], FIRST),
            "weight must have shape (E, C, N) with 1 to 1024 experts and no empty "
            "axis; got (3, 4).",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT[:, :, :0], FIRST),
            "weight must have shape (E, C, N) with 1 to 1024 experts and no empty "
            "axis; got (2, 3, 0).",
        ),
        refused(
            lambda: grouped_gemm(X, torch.zeros(1025, 3, 4), FIRST),
            "weight must have shape (E, C, N) with 1 to 1024 experts and no empty "
            "axis; got (1025, 3, 4).",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT.transpose(1, 2), FIRST),
            "weight must have shape (E, C, N) = (2, 3, 3) for x of shape (10, 3); got "
            "(2, 4, 3).",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT.half(), FIRST),
            "weight must be float32; got float16.",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT.to("meta"), FIRST),
            "weight must be on x's device, cpu; got meta.",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT, [0, 4, 10]),
            "first must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT, FIRST[:2]),
            "first must have shape (E + 1,) = (3,) for x of shape (10, 3); got (2,).",
        ),
        refused(
            lambda: grouped_gemm(X, WEIGHT, FIRST.long()),
            "first must be int32; got int64.",
        ),
        refused_first([1, 4, 10]),
        refused_first([0, 11, 10]),
        refused_first([0, 4, 9]),
    ],
)


class TestGroupedGemm(MixedKernelTests):
    operation = GROUPED


def small_inputs(dtype=torch.float32, shape=(40, 6, 7, 11, 3)):
    x, weight, first = inputs(shape, torch.Generator().manual_seed(0))
    x, weight = (v.to(DEVICE, dtype).requires_grad_() for v in (x, weight))
    return x, weight, first.to(DEVICE)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_each_row_meets_the_weights_of_its_expert(interpret):
    """What the equation says, a row at a time, whichever way the call goes."""
    x, weight, first = small_inputs()
    y = grouped_gemm(x, weight, first, interpret=interpret)
    expert = 0
    for r in range(40):
        while r >= first[expert + 1]:
            expert += 1
        torch.testing.assert_close(y[r], x[r] @ weight[expert])


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_an_expert_without_rows_has_a_gradient_of_zeros(interpret):
    x, weight, first = small_inputs()
    y = grouped_gemm(x, weight, first, interpret=interpret)
    (dweight,) = torch.autograd.grad(y.square().sum(), weight)
    has_rows = first.diff() > 0
    assert has_rows.sum() == 3
    assert not dweight[~has_rows].any()
    assert dweight[has_rows].flatten(1).any(1).all()


@needs_a_kernel
def test_gradients_have_the_same_bits_every_time():
    x, weight, first = small_inputs(shape=(140, 3, 5, 6, 2))

    def gradients():
        y = grouped_gemm(x, weight, first, interpret=INTERPRET)
        return torch.autograd.grad(y.square().sum(), (x, weight))

    once = gradients()
    assert all(map(torch.equal, gradients(), once))


@needs_a_kernel
def test_weights_kept_transposed_are_read_where_they_lie(monkeypatch):
    x, weight, first = small_inputs()
    kept = weight.detach().transpose(1, 2).contiguous().requires_grad_()
    y = grouped_gemm(x, weight, first, interpret=INTERPRET)
    wanted = torch.autograd.grad(y.square().sum(), (x, weight))

    def refuse(tensor):
        raise AssertionError(f"copied a tensor of shape {tuple(tensor.shape)}")

    monkeypatch.setattr(torch.Tensor, "contiguous", refuse)
    found_y = grouped_gemm(x, kept.transpose(1, 2), first, interpret=INTERPRET)
    dx, dkept = torch.autograd.grad(found_y.square().sum(), (x, kept))
    torch.testing.assert_close(found_y, y)
    torch.testing.assert_close(dx, wanted[0])
    torch.testing.assert_close(dkept, wanted[1].transpose(1, 2))


@needs_a_kernel
def test_the_counts_are_never_read_by_the_cpu(monkeypatch):
    """A GPU would have to be waited for. Here `first` lies on a CPU, where a check
    looks at it; without that check nothing does."""
    x, weight, first = small_inputs()
    monkeypatch.setattr(module, "check_first", lambda *given: None)

    def refuse(*given):
        raise AssertionError("read a tensor's numbers")

    for name in ("item", "tolist", "__bool__", "__int__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    y = grouped_gemm(x, weight, first, interpret=INTERPRET)
    torch.autograd.grad(y, (x, weight), torch.ones_like(y))


@pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="only the interpreter records what a kernel reads and writes",
)
@pytest.mark.parametrize("busy", [1, 2, 6])
def test_no_program_writes_what_is_anothers(busy):
    """Weights of experts without rows are not read."""
    case = Case((90, 6, 7, 11, busy), torch.float32)
    check_accesses(GROUPED, case, partly=["weight_ptr"])


def test_the_costs_by_hand():
    """x (2, 3), W (4, 3, 5), y (2, 5); first has 5 numbers of 4 bytes."""
    forward = Cost(2 * (6 + 60 + 10) + 20, flops=2 * 2 * 15)
    assert grouped_gemm_cost(2, 4, 3, 5, torch.bfloat16) == forward
    backward = Cost(4 * (10 + 6 + 6 + 60 + 60) + 20, flops=4 * 2 * 15)
    assert grouped_gemm_backward_cost(2, 4, 3, 5, torch.float32) == backward
