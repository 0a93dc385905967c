"""Combine passes every kernel's tests, and those that only it has."""

from dataclasses import replace

import pytest
import torch

from kernels import moe_combine as module
from kernels.moe_combine import (
    moe_combine,
    moe_combine_backward_cost,
    moe_combine_cost,
    moe_combine_reference,
)
from kernels.moe_permute import moe_permute
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation

SHAPES = [(4, 8, 256), (13, 3, 33), (1, 1, 1), (5, 2, 300), (3, 5, 129), (0, 2, 5)]
"""T, K, D: whole tiles, odd ones, one number, no token."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
SCALE_CASES = [Case((3, 4, 129), dtype, scale=300) for dtype in KERNEL_DTYPES]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((5, 2, 33), torch.bfloat16, layout=name) for name in STRIDED]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """z, weight, and rows in any order."""
    T, K, D = shape
    z, weight = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((T * K, D), (T, K))
    )
    row = torch.randperm(T * K, generator=generator).view(T, K)
    return [z, weight, row.int()]


def refused(call, sentence):
    return BadCall(call, f"moe_combine: {sentence}")


Z, WEIGHT = torch.zeros(6, 3), torch.zeros(2, 3)
ROW = torch.arange(6, dtype=torch.int32).view(2, 3)

COMBINE = MixedOperation(
    module=module,
    function=moe_combine,
    reference=moe_combine_reference,
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(3, 2, 5),
    coefficients=[1],
    bad_calls=[
        refused(
            lambda: moe_combine(1.0, WEIGHT, ROW),
            "z must be a torch.Tensor; got float.",
        ),
        refused(
            lambda: moe_combine(Z.double(), WEIGHT, ROW),
            "z must be float32, float16 or bfloat16; got float64 "
            "(moe_combine_reference takes float64 too).",
        ),
        refused(
            lambda: moe_combine(Z[0], WEIGHT, ROW),
            "z must have shape (R, D), rows by at least one element; got (3,).",
        ),
        refused(
            lambda: moe_combine(Z[:, :0], WEIGHT, ROW),
            "z must have shape (R, D), rows by at least one element; got (6, 0).",
        ),
        refused(
            lambda: moe_combine(Z, WEIGHT, ROW.flatten()),
            "row must have shape (T, K), tokens by experts a token, with K 1 to 32; "
            "got (6,).",
        ),
        refused(
            lambda: moe_combine(Z, WEIGHT, ROW.long()),
            "row must be int32; got int64.",
        ),
        refused(
            lambda: moe_combine(Z[:5], WEIGHT, ROW),
            "row must have as many elements as z has rows, 5; got 2 x 3 = 6.",
        ),
        refused(
            lambda: moe_combine(Z, WEIGHT, ROW.to("meta")),
            "row must be on z's device, cpu; got meta.",
        ),
        refused(
            lambda: moe_combine(Z, WEIGHT.T, ROW),
            "weight must have shape (T, K) = (2, 3) for z of shape (6, 3); got (3, 2).",
        ),
        refused(
            lambda: moe_combine(Z.half(), WEIGHT.half(), ROW),
            "weight must be float32; got float16.",
        ),
        refused(
            lambda: moe_combine(Z, WEIGHT, ROW // 2),
            "row must hold each of 0 to 5 once, as moe_permute numbers them.",
        ),
        refused(
            lambda: moe_combine(
                Z.to(DEVICE), WEIGHT.to(DEVICE), ROW.to(DEVICE) + 1, check_row=True
            ),
            "row must hold each of 0 to 5 once, as moe_permute numbers them.",
        ),
    ],
)


class TestCombine(MixedKernelTests):
    operation = COMBINE


@needs_a_kernel
@pytest.mark.parametrize("interpret", [True, False], ids=["kernel", "CPU"])
def test_experts_that_return_their_rows_give_each_token_back(interpret):
    """Weights of a token add up to 1; row r is a copy of token slot_R[r] // K."""
    device = DEVICE if interpret else "cpu"
    generator = torch.Generator().manual_seed(0)
    T, K, E, D = 9, 3, 5, 20
    x_TD = torch.randn(T, D, generator=generator).to(device)
    index_TK = torch.rand(T, E, generator=generator).argsort(1)[:, :K].to(device)
    weight_TK = torch.rand(T, K, generator=generator).softmax(1).to(device)
    slot_R, row_TK, _ = moe_permute(index_TK, E)
    z_RD = x_TD[slot_R.long() // K]
    y_TD = moe_combine(
        z_RD, weight_TK, row_TK, interpret=INTERPRET if interpret else None
    )
    torch.testing.assert_close(y_TD, x_TD)


@needs_a_kernel
def test_gradients_have_the_same_bits_every_time():
    z, weight, row = inputs((13, 4, 33), torch.Generator().manual_seed(0))
    z, weight = (x.float().to(DEVICE).requires_grad_() for x in (z, weight))

    def gradients():
        y = moe_combine(z, weight, row.to(DEVICE), interpret=INTERPRET)
        return torch.autograd.grad(y.square().sum(), (z, weight))

    once = gradients()
    assert all(torch.equal(a, b) for a, b in zip(gradients(), once, strict=True))


def test_the_costs_by_hand():
    """T = 2, K = 3, D = 5: z 30 elements, y 10; 6 weights and 6 rows of 4 bytes."""
    assert moe_combine_cost(2, 3, 5, torch.bfloat16) == Cost(2 * 40 + 4 * 12, 60)
    backward = Cost(4 * (10 + 30 + 30) + 4 * 18, 90)
    assert moe_combine_backward_cost(2, 3, 5, torch.float32) == backward


def test_eight_experts_in_bfloat16_move_18_and_34_bytes_an_element():
    assert moe_combine_cost(1, 8, 2048, torch.bfloat16).bytes == 18 * 2048 + 64
    backward = moe_combine_backward_cost(1, 8, 2048, torch.bfloat16)
    assert backward.bytes == 34 * 2048 + 96
