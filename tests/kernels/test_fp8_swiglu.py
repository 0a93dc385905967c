"""SwiGLU into FP8 in one kernel: the reference's codes, as near as exp is."""

import pytest
import torch
import torch.nn.functional as F

from kernels import fp8_swiglu as module
from kernels.float8 import E4M3, steps_apart
from kernels.fp8_swiglu import fp8_swiglu, fp8_swiglu_cost, fp8_swiglu_reference
from kernels.fp8_tiles import fp8_tiles_reference
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.cases import Case
from tests.kernels.fp8_cases import CASES, RECIPES, bits, numbers, recipes_of
from tests.kernels.guarded_memory import GuardedMemory
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, make_inputs

GATE = torch.ones(2, 3)
BAD_CALLS = [
    BadCall(
        lambda: fp8_swiglu(GATE[0], GATE[0]),
        "fp8_swiglu: gate must have two axes, rows and columns; got shape (3,).",
    ),
    BadCall(
        lambda: fp8_swiglu(GATE, GATE[:1]),
        "fp8_swiglu: up must have shape (M, H) = (2, 3) for gate of shape (2, 3); got "
        "(1, 3).",
    ),
    BadCall(
        lambda: fp8_swiglu(GATE, GATE.half()),
        "fp8_swiglu: up must be float32; got float16.",
    ),
]


def swiglu(fmt=E4M3, power_of_two=False, module=module):
    return MixedOperation(
        module=module,
        function=lambda gate, up, interpret: module.fp8_swiglu(
            gate, up, fmt, power_of_two, interpret
        ),
        reference=lambda gate, up: fp8_swiglu_reference(gate, up, fmt, power_of_two),
        inputs=lambda shape, generator: [
            numbers(shape, generator),
            numbers(shape, generator),
        ],
        value_cases=(),
        gradient_cases=(),
        small=(3, 5),
        fixed=[0, 1],
        bad_calls=BAD_CALLS,
    )


def check_nearly(operation, case):
    """Scales to a few units in the last place, codes but for a few to the bit."""
    memory = GuardedMemory()
    inputs, _ = make_inputs(operation, case, memory)
    with memory:
        q, scale = operation.function(*inputs, interpret=INTERPRET)
    memory.check()
    wanted_q, wanted_scale = operation.reference(*inputs)
    assert q.dtype == wanted_q.dtype and q.shape == wanted_q.shape
    torch.testing.assert_close(scale, wanted_scale, rtol=1e-6, atol=0)
    steps = steps_apart(q, wanted_q)
    assert not (steps > 1).any(), "output 0 is more than one code off"
    assert steps.sum() <= 1 + 1e-3 * steps.numel()


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case):
    check_nearly(swiglu(), case)


@needs_a_kernel
@pytest.mark.parametrize("fmt, power_of_two", RECIPES)
def test_every_recipe(fmt, power_of_two):
    check_nearly(swiglu(fmt, power_of_two), Case((34, 300), KERNEL_DTYPES[2]))


@needs_a_kernel
def test_halves_of_one_matrix_are_read_where_they_lie():
    """As one product gives them; and the answer is that of separate matrices."""
    gate_up = torch.randn(9, 400, generator=torch.Generator().manual_seed(0))
    gate, up = gate_up.to(DEVICE).chunk(2, -1)
    apart = fp8_swiglu(gate.clone(), up.clone(), interpret=INTERPRET)
    memory = GuardedMemory()
    with memory:
        found = fp8_swiglu(gate, up, interpret=INTERPRET)
    assert [a.name for a in memory.allocations] == ["a torch.empty"] * 2
    assert all(
        torch.equal(*pair) for pair in zip(bits(*found), bits(*apart), strict=True)
    )


def test_the_reference_is_swiglu_and_then_tiles():
    gate, up = torch.randn(2, 40, 256, generator=torch.Generator().manual_seed(0))
    q, scale = fp8_swiglu_reference(gate, up)
    wanted_q, wanted_scale = fp8_tiles_reference(F.silu(gate) * up)
    torch.testing.assert_close(scale, wanted_scale, rtol=1e-6, atol=0)
    assert steps_apart(q, wanted_q).sum() <= 10


@needs_a_kernel
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_a_product_that_is_no_number_makes_its_tile_none(wrong):
    gate, up = torch.ones(2, 2, 200, device=DEVICE)
    gate[1, 150] = wrong  # silu(-inf) is -inf / inf
    _, scale = fp8_swiglu(gate, up, interpret=INTERPRET)
    assert (scale == torch.inf).tolist() == [[False, False], [False, True]]


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_gate_far_below_0_is_closed():
    """exp(-gate) is infinite, and gate by it 0."""
    gate = torch.full((1, 4), -200.0, device=DEVICE)
    q, scale = fp8_swiglu(gate, gate, interpret=INTERPRET)
    assert (q.float() == 0).all() and scale.item() == 2.0**-126


def test_bad_input():
    check_bad_calls(swiglu())


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = MixedOperation(**{**vars(swiglu()), "function": every_compiled})
    check_specs(launches, monkeypatch)


def every_compiled(gate, up, interpret):
    for recipe in recipes_of(gate.dtype):
        found = fp8_swiglu(gate, up, *recipe, interpret)
    return bits(*found)


def test_the_cost_by_hand():
    """2 x 130 in bfloat16: twice 260 read, 260 codes and 4 scales written."""
    assert fp8_swiglu_cost(2, 130, torch.bfloat16) == Cost(260 * 5 + 16, 7 * 260)
