"""The quantiser of weights gives the reference's bits, also transposed."""

from dataclasses import replace

import pytest
import torch

from kernels import fp8_blocks as module
from kernels.float8 import E4M3
from kernels.fp8_blocks import fp8_blocks, fp8_blocks_cost, fp8_blocks_reference
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.fp8_cases import (
    CASES,
    RECIPES,
    assert_same_bits,
    bits,
    quantiser,
    recipes_of,
    special,
)
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import check_specs, check_values

BAD_CALLS = [
    BadCall(
        lambda: fp8_blocks(torch.ones(3)),
        "fp8_blocks: w must have two axes, rows and columns; got shape (3,).",
    )
]


def blocks(fmt=E4M3, power_of_two=False, transposed=True, module=module):
    """The operation, its outputs as bits."""
    return quantiser(
        module,
        lambda w, interpret: module.fp8_blocks(
            w, fmt, power_of_two, transposed=transposed, interpret=interpret
        ),
        lambda w: fp8_blocks_reference(w, fmt, power_of_two, transposed),
        BAD_CALLS,
    )


@needs_a_kernel
@pytest.mark.parametrize("case", [*CASES, Case((131, 70), KERNEL_DTYPES[0])], ids=str)
def test_values(case):
    check_values(blocks(), case)


@needs_a_kernel
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_recipe(fmt, power_of_two, transposed):
    case = Case((130, 150), KERNEL_DTYPES[2])
    check_values(blocks(fmt, power_of_two, transposed), case)


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
def test_what_is_easily_got_wrong(fmt, power_of_two):
    """A matrix that is one block by two, from each row of the special ones."""
    for row in special(fmt).to(DEVICE):
        w = row.view(2, 128).T.repeat_interleave(130, 1)
        found = fp8_blocks(w, fmt, power_of_two, transposed=True, interpret=INTERPRET)
        assert_same_bits(found, fp8_blocks_reference(w, fmt, power_of_two, True))


def test_bad_input():
    check_bad_calls(blocks())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = replace(blocks(), function=every_compiled)
    check_specs(launches, monkeypatch)


def every_compiled(w, interpret):
    for recipe in recipes_of(w.dtype):
        fp8_blocks(w, *recipe, interpret=interpret)
        found = fp8_blocks(w, *recipe, transposed=True, interpret=interpret)
    return bits(*found)


def test_the_cost_by_hand():
    """2 x 130 in bfloat16: two blocks."""
    cost = fp8_blocks_cost(2, 130, torch.bfloat16)
    assert cost == Cost(260 * 3 + 4 * 2, 3 * 260)
    cost = fp8_blocks_cost(2, 130, torch.bfloat16, transposed=True)
    assert cost == Cost(260 * 4 + 4 * 2, 3 * 260)
