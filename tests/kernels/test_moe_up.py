"""The way up into the experts passes every kernel's tests, and those only it has."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from kernels import grouped_gemm as grouped_gemm_module
from kernels import moe_up as module
from kernels.moe_up import (
    moe_up,
    moe_up_backward_cost,
    moe_up_cost,
    moe_up_reference,
)
from kernels.operation import KERNEL_DTYPES, Cost
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.expert_cases import normal, routing
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import (
    ARITHMETIC,
    DEVICE,
    INTERPRET,
    ROUNDING,
    BadCall,
    Recorder,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation, check_specs

SHAPES = [
    (40, 2, 2, 64, 64, 2),  # whole blocks of each width
    (7, 2, 3, 9, 5, 3),
    (1, 1, 1, 1, 1, 1),
    (1, 1, 4, 3, 2, 1),  # fewer rows than experts
    (13, 3, 6, 7, 11, 2),  # experts without rows
    (70, 2, 3, 5, 6, 1),  # one takes all: two blocks of rows, or three
    (21, 3, 4, 130, 70, 3),  # two blocks of each width
    (0, 2, 3, 5, 4, 1),
]
"""(T, K, E, D, H, busy): tokens, experts a token, experts, widths, experts in use."""

SHAPE_CASES = [Case(shape, dtype) for shape in SHAPES for dtype in KERNEL_DTYPES]
SCALE_CASES = [Case((7, 2, 3, 33, 5, 3), d, scale=30) for d in KERNEL_DTYPES]
"""The sigmoid is 0 or 1, and its exponential passes float16."""

STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [
    Case((7, 2, 3, 9, 5, 2), dtype, layout=name)
    for name in STRIDED
    for dtype in (torch.float32, torch.bfloat16)
]
DY_CASES = [
    replace(case, layout="contiguous", dy_layout=case.layout) for case in X_CASES
]


def inputs(shape, generator):
    """x, gate_up, slot, row and first; gate and up of x's size."""
    T, K, E, D, H, busy = shape
    gate_up = normal(E, D, 2 * H, generator=generator) / D**0.5
    x = normal(T, D, generator=generator)
    return [x, gate_up, *routing(T, K, E, busy, generator)]


def product_error(dtype):
    """Of each term, relative to the term when all inputs are positive.

    A gradient's terms pass up to three roundings in half precision. gate and up are
    kept rounded: dup = da silu(gate) moves by |gate silu'(gate)| <= 1.1 |gate|, and
    silu(|gate|) >= |gate| / 2, so by 2.2 roundings; dgate by less. Then dgate or dup
    itself is rounded, then a row's share of dx. The result's own rounding is the
    harness's. In float32 none of them rounds anything off.
    """
    return ARITHMETIC + (2.2 + 1 + 1) * ROUNDING[dtype]


X, GATE_UP = torch.zeros(3, 4), torch.zeros(2, 4, 6)
SLOT = torch.tensor([1, 2, 5, 0, 3, 4], dtype=torch.int32)
ROW = torch.tensor([[3, 0], [1, 4], [5, 2]], dtype=torch.int32)
FIRST = torch.tensor([0, 3, 6], dtype=torch.int32)


def refused(sentence, **changed):
    given = {"x": X, "gate_up": GATE_UP, "slot": SLOT, "row": ROW, "first": FIRST}
    return BadCall(lambda: moe_up(**{**given, **changed}), f"moe_up: {sentence}")


PLACES = (
    "slot must hold each of 0 to 5 once and row its inverse, as moe_permute returns "
    "them; got slot "
)

UP = MixedOperation(
    module=module,
    function=moe_up,
    reference=moe_up_reference,
    inputs=inputs,
    value_cases=[*SHAPE_CASES, *SCALE_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *X_CASES, *DY_CASES],
    small=(5, 2, 3, 4, 3, 2),
    # Blocks depend on the dtype and the number of experts only.
    benchmark_shape=lambda shape: (2, 2, shape[2], 2, 2, 2),
    product_error=product_error,
    bad_calls=[
        refused("x must be a torch.Tensor; got str.", x="x"),
        refused(
            "x must be float32, float16 or bfloat16; got float64 (moe_up_reference "
            "takes float64 too).",
            x=X.double(),
        ),
        refused("x must have shape (T, D): tokens, numbers; got (4,).", x=X[0]),
        refused(
            "gate_up must have shape (E, D, 2 H) with 1 to 1024 experts and no empty "
            "axis; got (4, 6).",
            gate_up=GATE_UP[0],
        ),
        refused(
            "gate_up must have shape (E, D, 2 H) = (2, 4, 4) for x of shape (3, 4); "
            "got (2, 6, 4).",
            gate_up=GATE_UP.transpose(1, 2),
        ),
        refused(
            "the last axis of gate_up must be even, H columns of the gate and H of "
            "up; got 5.",
            gate_up=GATE_UP[..., :5],
        ),
        refused("gate_up must be float32; got float16.", gate_up=GATE_UP.half()),
        refused("row must be a torch.Tensor; got list.", row=[[3, 0]]),
        refused(
            "row must have shape (T, K), tokens by experts a token, with K 1 to 32; "
            "got (6,).",
            row=ROW.flatten(),
        ),
        refused(
            "row must have shape (T, K), tokens by experts a token, with K 1 to 32; "
            "got (3, 0).",
            row=ROW[:, :0],
        ),
        refused(
            "row must have shape (T, K) = (3, 2) for x of shape (3, 4); got (2, 2).",
            row=ROW[:2],
        ),
        refused("row must be int32; got int64.", row=ROW.long()),
        refused(
            "slot must have shape (T K,) = (6,) for x of shape (3, 4); got (5,).",
            slot=SLOT[:5],
        ),
        refused(
            f"{PLACES}[1, 2, 5, 0, 3, 6] and row [3, 0, 1, 4, 5, 2].",
            slot=torch.tensor([1, 2, 5, 0, 3, 6], dtype=torch.int32),
        ),
        refused(
            f"{PLACES}[1, 2, 5, 0, 3, 4] and row [1, 2, 5, 0, 3, 4].",
            row=SLOT.view(3, 2),
        ),
        refused(
            "first must have shape (E + 1,) = (3,) for x of shape (3, 4); got (2,).",
            first=FIRST[:2],
        ),
        refused(
            "first must begin at 0, never fall and end at the number of rows, 6; got "
            "[0, 7, 6].",
            first=torch.tensor([0, 7, 6], dtype=torch.int32),
        ),
    ],
)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
class TestMoeUp(MixedKernelTests):
    operation = UP

    def test_specs_are_what_is_launched(self, monkeypatch):
        """With and without a gradient to come. The product for dx is grouped_gemm's,
        in the configurations that are compiled there."""

        def both_ways(*inputs, interpret):
            with torch.no_grad():
                moe_up(*inputs, interpret=interpret)
            return moe_up(*inputs, interpret=interpret)

        launches = set()
        recorder = Recorder("grouped_gemm_kernel", launches)
        monkeypatch.setattr(grouped_gemm_module, "grouped_gemm_kernel", recorder)
        check_specs(replace(UP, function=both_ways), monkeypatch)
        assert launches == {
            (
                spec.name,
                tuple(spec.signature.values()),
                tuple(sorted(spec.constexprs.items())),
                spec.num_warps,
                spec.num_stages,
            )
            for spec in grouped_gemm_module.SPECS
            if spec.constexprs.get("TRANSPOSED")
        }


def small_inputs(dtype=torch.float32, shape=(13, 3, 6, 7, 11, 3)):
    x, gate_up, *places = inputs(shape, torch.Generator().manual_seed(0))
    x, gate_up = (v.to(DEVICE, dtype).requires_grad_() for v in (x, gate_up))
    return x, gate_up, *(v.to(DEVICE) for v in places)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_each_visit_is_its_tokens_swiglu_with_its_experts_weights(interpret):
    """What the equation says, a visit at a time, whichever way the call goes."""
    x, gate_up, slot, row, first = small_inputs()
    a = moe_up(x, gate_up, slot, row, first, interpret=interpret)
    for t in range(13):
        for k in range(3):
            r = int(row[t, k])
            expert = int((first <= r).sum()) - 1
            gate, up = (x[t] @ gate_up[expert]).chunk(2)
            torch.testing.assert_close(a[r], gate / (1 + (-gate).exp()) * up)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_an_expert_without_rows_has_a_gradient_of_zeros(interpret):
    x, gate_up, slot, row, first = small_inputs()
    a = moe_up(x, gate_up, slot, row, first, interpret=interpret)
    (dgate_up,) = torch.autograd.grad(a.square().sum(), gate_up)
    has_rows = first.diff() > 0
    assert has_rows.sum() == 3
    assert not dgate_up[~has_rows].any()
    assert dgate_up[has_rows].flatten(1).any(1).all()


@needs_a_kernel
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_gate_and_up_are_kept_only_for_a_gradient_and_change_nothing(
    dtype, monkeypatch
):
    given = small_inputs(dtype)
    kept = []
    monkeypatch.setattr(
        module,
        "moe_up_kernel",
        Spy(module.moe_up_kernel, lambda *a: kept.append(a[5].shape)),
    )
    with_gradient = moe_up(*given, interpret=INTERPRET)
    with torch.no_grad():
        without = moe_up(*given, interpret=INTERPRET)
    assert torch.equal(without, with_gradient)
    assert kept == [(39, 22), (0, 22)]


class Spy:
    """A kernel whose launches are looked at and happen."""

    def __init__(self, kernel, look):
        self.kernel, self.look = kernel, look

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.look(*arguments)
            self.kernel[grid](*arguments, **options)

        return launch


@needs_a_kernel
def test_a_tokens_visits_are_added_in_float32():
    """32 visits to one expert have the same gradient, and 32 times that is exact. In
    bfloat16 3, 5, 6, ... times it would be rounded on the way."""
    K, one = 32, torch.zeros(1, 1, dtype=torch.int32)
    x, gate_up, slot, row, first = small_inputs(torch.bfloat16, (1, K, 1, 9, 5, 1))

    def dx(*places):
        a = moe_up(x, gate_up, *(p.to(DEVICE) for p in places), interpret=INTERPRET)
        return torch.autograd.grad(a, x, torch.ones_like(a))[0]

    dx_of_one = dx(one.flatten(), one, torch.tensor([0, 1], dtype=torch.int32))
    assert torch.equal(dx(slot, row, first), K * dx_of_one)


@needs_a_kernel
def test_gradients_have_the_same_bits_every_time():
    x, gate_up, *places = small_inputs(shape=(60, 2, 3, 5, 6, 2))

    def gradients():
        a = moe_up(x, gate_up, *places, interpret=INTERPRET)
        return torch.autograd.grad(a.square().sum(), (x, gate_up))

    once = gradients()
    assert all(map(torch.equal, gradients(), once))


@needs_a_kernel
def test_weights_kept_transposed_are_read_where_they_lie(monkeypatch):
    x, gate_up, *places = small_inputs()
    kept = gate_up.detach().transpose(1, 2).contiguous().requires_grad_()
    a = moe_up(x, gate_up, *places, interpret=INTERPRET)
    da = torch.ones_like(a)
    wanted = torch.autograd.grad(a, (x, gate_up), da)
    contiguous = torch.Tensor.contiguous

    def refuse(tensor):
        assert tensor.ndim < 3, f"copied a tensor of shape {tuple(tensor.shape)}"
        return contiguous(tensor)

    monkeypatch.setattr(torch.Tensor, "contiguous", refuse)
    found = moe_up(x, kept.transpose(1, 2), *places, interpret=INTERPRET)
    dx, dkept = torch.autograd.grad(found, (x, kept), da)
    torch.testing.assert_close(found, a)
    torch.testing.assert_close(dx, wanted[0])
    torch.testing.assert_close(dkept, wanted[1].transpose(1, 2))


class Shapes(TorchDispatchMode):
    """The shape of every tensor that an operation of PyTorch returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if isinstance(answer, torch.Tensor):
            self.seen.add(tuple(answer.shape))
        return answer


@needs_a_kernel
def test_x_is_never_copied_for_its_rows():
    T, K, D, H = 5, 4, 50, 3
    x, *others = small_inputs(shape=(T, K, 3, D, H, 2))
    given = (x.detach(), *others)  # dx alone is summed from rows of D
    with Shapes() as forward:
        a = moe_up(*given, interpret=INTERPRET)
    assert (T * K, H) in forward.seen
    assert (T * K, D) not in forward.seen
    with Shapes() as plain:
        moe_up_reference(*given)
    assert (T * K, D) in plain.seen
    with Shapes() as backward:
        torch.autograd.grad(a, given[1], torch.ones_like(a))
    assert (T * K, 2 * H) in backward.seen
    assert (T * K, D) not in backward.seen


@needs_a_kernel
def test_the_counts_are_never_read_by_the_cpu(monkeypatch):
    """A GPU would have to be waited for. Here they lie on a CPU, where the checks
    look at them; without those nothing does."""
    x, gate_up, *places = small_inputs()
    for name in ("check_first", "check_places"):
        monkeypatch.setattr(module, name, lambda *given: None)

    def refuse(*given):
        raise AssertionError("read a tensor's numbers")

    for name in ("item", "tolist", "__bool__", "__int__", "__index__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    a = moe_up(x, gate_up, *places, interpret=INTERPRET)
    torch.autograd.grad(a, (x, gate_up), torch.ones_like(a))


@pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="only the interpreter records what a kernel reads and writes",
)
@pytest.mark.parametrize("busy", [1, 2, 6])
def test_no_program_writes_what_is_anothers(busy):
    """Weights of experts without rows are not read."""
    case = Case((23, 3, 6, 7, 11, busy), torch.float32)
    check_accesses(UP, case, partly=["gate_up_ptr"])


def test_the_costs_by_hand():
    """x (3, 4), W (5, 4, 2 x 6), a (6, 6): 3 tokens twice; first has 6 numbers."""
    forward = Cost(2 * (12 + 240 + 36) + 4 * (6 + 6), flops=6 * (96 + 24))
    assert moe_up_cost(3, 2, 5, 4, 6, torch.bfloat16) == forward
    backward = Cost(
        4 * (36 + 12 + 12 + 240 + 240) + 4 * (6 + 6 + 6),
        flops=6 * (192 + 66) + 3 * 4,
    )
    assert moe_up_backward_cost(3, 2, 5, 4, 6, torch.float32) == backward
