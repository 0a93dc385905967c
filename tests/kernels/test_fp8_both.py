"""Both orientations from one read: the reference's bits, rows and columns."""

from dataclasses import replace

import pytest
import torch

import kernels
from kernels import fp8_both as module
from kernels.access import count, findings, record_accesses
from kernels.float8 import E4M3
from kernels.fp8_both import (
    fp8_tiles_both,
    fp8_tiles_both_cost,
    fp8_tiles_both_reference,
)
from kernels.fp8_cast import constants_of
from kernels.fp8_scaling import TILE
from kernels.fp8_tiles import fp8_tiles_reference
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
        lambda: fp8_tiles_both(torch.ones(2, 3, 4)),
        "fp8_tiles_both: x must have two axes, rows and columns; got shape (2, 3, 4).",
    )
]


def both(fmt=E4M3, power_of_two=False, module=module):
    """The operation, its outputs as bits."""
    return quantiser(
        module,
        lambda x, interpret: module.fp8_tiles_both(x, fmt, power_of_two, interpret),
        lambda x: fp8_tiles_both_reference(x, fmt, power_of_two),
        BAD_CALLS,
    )


@needs_a_kernel
@pytest.mark.parametrize("case", [*CASES, Case((131, 70), KERNEL_DTYPES[0])], ids=str)
def test_values(case):
    check_values(both(), case)


@needs_a_kernel
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
def test_every_recipe(fmt, power_of_two):
    check_values(both(fmt, power_of_two), Case((130, 150), KERNEL_DTYPES[2]))


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
def test_what_is_easily_got_wrong(fmt, power_of_two):
    """As rows, as `fp8_tiles` is tested, and as columns."""
    for x in (special(fmt).to(DEVICE), special(fmt).T.to(DEVICE)):
        found = fp8_tiles_both(x, fmt, power_of_two, INTERPRET)
        assert_same_bits(found[:2], fp8_tiles_reference(x, fmt, power_of_two))
        assert_same_bits(found[2:], fp8_tiles_reference(x.T, fmt, power_of_two))


@needs_a_kernel
def test_how_it_lies_in_memory():
    """Codes with the terms of a sum side by side, scales the other way."""
    x = torch.ones(150, 300, device=DEVICE)
    q, scale, qt, scalet = fp8_tiles_both(x, interpret=INTERPRET)
    assert q.shape == (150, 300) and q.is_contiguous()
    assert qt.shape == (300, 150) and qt.is_contiguous()
    assert scale.shape == (150, 3) and scale.T.is_contiguous()
    assert scalet.shape == (300, 2) and scalet.T.is_contiguous()


@pytest.mark.skipif(not kernels.INTERPRETED, reason="accesses are recorded here only")
def test_each_number_is_read_once_and_each_code_and_scale_written_once():
    M, K = 150, 300
    x = torch.ones(M, K)
    q, qt = (torch.empty(s, dtype=E4M3.dtype) for s in [(M, K), (K, M)])
    scale, scalet = torch.empty(3, M), torch.empty(2, K)
    log = record_accesses(
        module.fp8_tiles_both_kernel,
        (6,),
        x, q, scale, qt, scalet, K, M, K,
        **constants_of(E4M3, False),
        TILE=TILE,
    )  # fmt: skip
    assert findings(log) == []
    reads, *others = (count(log, tensor) for tensor in log.tensors)
    assert (reads.reads == 1).all() and not reads.writes.any()
    for other in others:
        assert (other.writes == 1).all() and not other.reads.any()


def test_bad_input():
    check_bad_calls(both())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = replace(both(), function=every_compiled)
    check_specs(launches, monkeypatch)


def every_compiled(x, interpret):
    recipes = recipes_of(x.dtype)
    return bits(
        *(y for recipe in recipes for y in fp8_tiles_both(x, *recipe, interpret))
    )


def test_the_cost_by_hand():
    """2 x 130 in bfloat16: 260 read, twice 260 codes, 4 and 130 scales."""
    cost = fp8_tiles_both_cost(2, 130, torch.bfloat16)
    assert cost == Cost(260 * 4 + 4 * 134, 5 * 260)
