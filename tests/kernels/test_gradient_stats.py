"""u = g + e in place, its three numbers, and the blocks' sums of squares."""

from dataclasses import replace

import pytest
import torch

from kernels import gradient_stats as module
from kernels.gradient_stats import (
    BLOCK,
    gradient_stats,
    gradient_stats_cost,
    gradient_stats_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.gradient_cases import BF16, FP32, on_a_copy, strided
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values


def refused(call, sentence):
    return BadCall(call, f"gradient_stats: {sentence}")


G = torch.ones(2, 3)
BAD_CALLS = [
    refused(lambda: gradient_stats(G, [1.0]), "e must be a torch.Tensor; got list."),
    refused(lambda: gradient_stats([1.0], G), "g must be a torch.Tensor; got list."),
    refused(lambda: gradient_stats(G, G.half()), "e must be float32; got float16."),
    refused(
        lambda: gradient_stats(G, torch.ones(3, 2).T),
        "e must be contiguous, as it is changed in place; got shape (2, 3) with "
        "strides (1, 2).",
    ),
    refused(
        lambda: gradient_stats(G.double(), G),
        "g must be float32, float16 or bfloat16; got float64.",
    ),
    refused(
        lambda: gradient_stats(G[0], G), "g must have e's shape, (2, 3); got (3,)."
    ),
    refused(
        lambda: gradient_stats(G.to("meta"), G),
        "g must be on e's device, cpu; got meta.",
    ),
    refused(lambda: gradient_stats(G, G, G.half()), "m must be float32; got float16."),
    refused(
        lambda: gradient_stats(G, G, G[:1]),
        "m must have e's shape, (2, 3); got (1, 3).",
    ),
]


def stats(with_m=True, module=module):
    """The operation; the state is its second input, and its first output."""

    def reference(*inputs):
        found = gradient_stats_reference(*inputs)
        return *found, found[0]

    def inputs(shape, generator):
        # Not centred, so that the largest size is a negative number's.
        tensors = [torch.randn(shape, generator=generator) - 0.5 for _ in range(3)]
        return [x.double() for x in tensors[: 3 if with_m else 2]]

    return MixedOperation(
        module=module,
        function=on_a_copy(module.gradient_stats, at=1),
        reference=reference,
        inputs=inputs,
        value_cases=(),
        gradient_cases=(),
        small=(3, 5),
        coefficients=[1, 2],
        fixed=[0, 1, 2],
        bad_calls=BAD_CALLS,
        benchmark_shape=lambda shape: (2000,),
    )


SIZES = [(1,), (5,), (BLOCK,), (BLOCK + 1,), (3, 7, 333), (0,), (2, 0)]


@needs_a_kernel
@pytest.mark.parametrize("with_m", [True, False], ids=["m", "no m"])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_values(shape, with_m):
    check_values(stats(with_m), Case(shape, FP32))


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("scale", [1, 1e4, 1e-4])
def test_every_dtype_and_size_of_numbers(dtype, scale):
    check_values(stats(), Case((2500,), dtype, scale=scale))


@needs_a_kernel
@pytest.mark.parametrize("case", strided((3, 700)), ids=str)
def test_a_gradient_that_lies_otherwise(case):
    check_values(stats(), case)


@needs_a_kernel
def test_more_blocks_than_the_total_takes_at_a_time(monkeypatch):
    """11 blocks, added up 4 at a time."""
    few = {"BLOCK_B": 4, "num_warps": 1, "num_stages": 1}
    monkeypatch.setattr(module, "total_launch", lambda: few)
    check_values(stats(), Case((10 * BLOCK + 3,), FP32))


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_by_hand(interpret):
    """Two blocks: 1023 ones and a -3, then a 2; m is 1 in the last two places."""
    g, e, m = (torch.zeros(BLOCK + 1, device=DEVICE) for _ in range(3))
    g[: BLOCK - 1], g[BLOCK - 1], g[BLOCK] = 0.75, -3, 1.5
    e[: BLOCK - 1], e[BLOCK] = 0.25, 0.5
    m[-2:] = 1
    u, found, block_square = gradient_stats(g.half(), e, m, interpret)
    assert u.data_ptr() == e.data_ptr(), "u is written over e"
    assert torch.equal(u, e)
    assert e.tolist() == [1.0] * (BLOCK - 1) + [-3, 2]
    assert found.tolist() == [1023 + 9 + 4, 3, -1]
    assert block_square.tolist() == [1023 + 9, 4]
    assert {x.dtype for x in (u, found, block_square)} == {torch.float32}


@needs_a_kernel
def test_u_is_rounded_once():
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(3000, generator=generator).to(DEVICE, BF16)
    e = 1e-3 * torch.randn(3000, generator=generator).to(DEVICE)
    wanted = (g.double() + e.double()).float()
    u, _, _ = gradient_stats(g, e, interpret=INTERPRET)
    assert torch.equal(u, wanted)


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
@pytest.mark.parametrize("with_m", [True, False], ids=["m", "no m"])
@pytest.mark.parametrize("place", [0, 1500, 3999])
def test_a_nan_shows_in_all_three_and_in_its_block_only(place, with_m, interpret):
    """Also where later blocks have larger numbers, which a maximum would keep."""
    g, e = torch.arange(4000.0, device=DEVICE), torch.ones(4000, device=DEVICE)
    m = torch.zeros_like(e) if with_m else None
    g[place] = torch.nan
    u, found, block_square = gradient_stats(g, e, m, interpret)
    assert found.isnan().all()
    sick = [b == place // BLOCK for b in range(4)]
    assert block_square.isnan().tolist() == sick
    assert u.isnan().nonzero().tolist() == [[place]]


@needs_a_kernel
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_an_infinity_shows(interpret):
    g, e = torch.ones(2000, device=DEVICE), torch.ones(2000, device=DEVICE)
    g[7] = -torch.inf
    _, found, block_square = gradient_stats(g, e, e.clone(), interpret)
    assert found.tolist() == [torch.inf, torch.inf, -torch.inf]
    assert block_square.tolist() == [torch.inf, 4 * 976]


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None], ids=["kernel", "default"])
def test_nothing_has_a_gradient(interpret):
    g = torch.ones(5, device=DEVICE, requires_grad=True)
    found = gradient_stats(g, torch.ones(5, device=DEVICE), interpret=interpret)
    assert not any(x.requires_grad for x in found)


def test_bad_input():
    check_bad_calls(stats())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    def with_and_without(g, e, m, interpret):
        gradient_stats(g, e.clone(), None, interpret)
        return gradient_stats(g, e.clone(), m, interpret)

    check_specs(replace(stats(), function=with_and_without), monkeypatch)


def test_the_cost_by_hand():
    """1025 numbers: 2 + 4 + 4 bytes each and 2 sums, then 3 numbers; m is 4 more."""
    assert gradient_stats_cost(1025, BF16, False) == Cost(10250 + 8 + 12, 5 * 1025)
    assert gradient_stats_cost(1025, FP32) == Cost(16 * 1025 + 20, 7 * 1025)
