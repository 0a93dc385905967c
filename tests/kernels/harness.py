"""The tests that every kernel has to pass.

An operation's test module describes it and inherits the tests:

    class TestSoftmax(KernelTests):
        operation = Operation(softmax_module, softmax, softmax_reference, ...)

They hold the kernel, interpreted on a CPU and compiled on a GPU, against the
float64 reference applied to the same rounded inputs:

- values: odd sizes, one row, no rows, rows too long for a sum in half
  precision, large and tiny numbers, strided inputs, every dtype, in guarded
  and poisoned memory (`guarded_memory`);
- gradients, with random cotangents: y.sum() of a softmax is R whatever x is;
- the reference's own gradients, by finite differences in float64;
- bad input: each call gets exactly the sentence that the table promises;
- SPECS, which the ahead-of-time check compiles, are what is launched.

`test_harness_catches.py` shows that wrong kernels fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import kernels
from kernels.operation import (
    KERNEL_DTYPES,
    TRITON_TYPES,
    KernelInputError,
    KernelSpec,
)
from tests.kernels.cases import GRADIENT_CASES, VALUE_CASES, Case
from tests.kernels.guarded_memory import GuardedMemory, unwritten

COMPILED = torch.cuda.is_available() and not kernels.INTERPRETED
DEVICE = "cuda" if COMPILED else "cpu"
INTERPRET = None if COMPILED else True

ROUNDING = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}
"""u: the relative error of rounding a float32 result to the dtype, once."""

ARITHMETIC = 1e-5
"""Relative error of the float32 arithmetic before that: a GPU's exp(x) errs by
|x| 2^-24, with |x| < 90 before the result vanishes, and a sum of 1000 terms in
any order by less than 1000 * 2^-24 of its largest partial sum, mostly far less."""

CANCELLED = 1e-6
"""Absolute, for gradients: what float32 leaves where terms of size 1 cancel. The
inputs and cotangents here are of that size."""

VANISHING = {torch.float32: 1e-37, torch.float16: 2**-24, torch.bfloat16: 1e-37}
"""Absolute: below a dtype's normal range numbers are rounded coarsely or flushed
to 0. For float16 that is one subnormal step."""


@dataclass(frozen=True)
class BadCall:
    """A call that must be refused, and the sentence that says why."""

    call: Callable[[], object]
    sentence: str
    error: type[ValueError] = KernelInputError


def _two_rows(shape: tuple[int, int]) -> tuple[int, int]:
    """Kernels that work on rows of N are launched alike for any number of rows."""
    return 2, shape[1]


@dataclass(frozen=True)
class Operation:
    """What the tests need to know of an operation.

    Attributes:
        module: where its kernels, SPECS and BENCHMARK_SHAPES are.
        function: (*inputs, interpret=...) -> y, the public function.
        reference: (*inputs) -> y in plain PyTorch.
        inputs: (x's shape, generator) -> float64 tensors on the CPU, x first.
        bad_calls: what it refuses.
        saved: (inputs, dy) -> for each gradient a bound on how far it moves, to
            first order, when each element of what the forward saved is off by
            up to its own size. Saving rounds, so the tests allow u times this.
            None where only inputs are saved: they are what the reference gets.
        dtypes: what the kernels read.
        value_cases, gradient_cases: the inputs on which they are tested.
        small: a shape of x for the tests that need one only.
        benchmark_shape: an entry of BENCHMARK_SHAPES -> a shape of x for which
            the same is launched.
    """

    module: ModuleType
    function: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    inputs: Callable[[tuple[int, ...], torch.Generator], Sequence[Tensor]]
    bad_calls: Sequence[BadCall] = ()
    saved: Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]] | None = None
    dtypes: Sequence[torch.dtype] = KERNEL_DTYPES
    value_cases: Sequence[Case] = tuple(VALUE_CASES)
    gradient_cases: Sequence[Case] = tuple(GRADIENT_CASES)
    small: tuple[int, ...] = (9, 5)
    benchmark_shape: Callable[[tuple[int, int]], tuple[int, ...]] = _two_rows


def make_inputs(
    operation: Operation, case: Case, memory: GuardedMemory
) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs in guarded memory, and the same numbers in float64."""
    generator = torch.Generator().manual_seed(0)
    values = list(operation.inputs(case.shape, generator))
    values[0] = values[0] * case.scale
    if case.layout == "repeated" and values[0].numel():
        values[0] = values[0][:1].expand(case.shape)
    rounded = [v.to(case.dtype).to(DEVICE) for v in values]
    placed = []
    for i, v in enumerate(rounded):
        # A weight has one axis, so one way not to be contiguous.
        strided = case.layout != "contiguous" and v.ndim == 1
        layout = "every second" if strided else case.layout
        placed.append(memory.place(f"input {i}", v, layout))
    return placed, [v.double() for v in rounded]


def check_values(operation: Operation, case: Case) -> None:
    """The function gives the reference's values and touches nothing else."""
    memory = GuardedMemory()
    inputs, exact_inputs = make_inputs(operation, case, memory)
    with memory:
        y = operation.function(*inputs, interpret=INTERPRET)
    memory.check()
    for i, (x, exact) in enumerate(zip(inputs, exact_inputs, strict=True)):
        assert torch.equal(x.double(), exact), f"input {i} was changed"
    wanted = operation.reference(*exact_inputs)
    assert_close("y", y, wanted, case, slack=0.0)


def check_gradients(operation: Operation, case: Case) -> None:
    """The kernels' gradients are the reference's, for a random cotangent."""
    memory = GuardedMemory()
    inputs, exact_inputs = make_inputs(operation, case, memory)
    dy = 1 + torch.randn(case.shape, generator=torch.Generator().manual_seed(1))
    if case.dy_layout == "repeated":
        dy = dy[:1].expand(case.shape)
    dy = dy.to(case.dtype).to(DEVICE)
    placed_dy = memory.place("dy", dy, case.dy_layout)
    for x in inputs + exact_inputs:
        x.requires_grad_()
    with memory:
        y = operation.function(*inputs, interpret=INTERPRET)
        grads = torch.autograd.grad(y, inputs, placed_dy)
    memory.check()
    assert torch.equal(placed_dy, dy), "dy was changed"
    exact_y = operation.reference(*exact_inputs)
    wanted = torch.autograd.grad(exact_y, exact_inputs, dy.double())
    saved = operation.saved and operation.saved(exact_inputs, dy.double())
    for i, (grad, exact) in enumerate(zip(grads, wanted, strict=True)):
        slack = CANCELLED + ARITHMETIC * exact.abs().max() if exact.numel() else exact
        if saved:
            slack = slack + ROUNDING[case.dtype] * saved[i].detach()
        assert_close(f"the gradient of input {i}", grad, exact, case, slack)


def assert_close(
    name: str, got: Tensor, wanted: Tensor, case: Case, slack: Tensor | float
) -> None:
    """got has case's dtype, wanted's shape, and wanted's values, rounded once."""
    assert got.dtype == case.dtype, f"{name} has dtype {got.dtype}"
    assert got.shape == wanted.shape, f"{name} has shape {tuple(got.shape)}"
    if not wanted.numel():
        return
    missing = unwritten(got)
    assert not missing.any(), f"{name} was never written at {first(missing)}"
    bound = (ROUNDING[case.dtype] + ARITHMETIC) * wanted.abs()
    bound += VANISHING[case.dtype] + slack
    wrong = ~((got.double() - wanted).abs() <= bound)  # so that NaN is wrong
    if wrong.any():
        at = first(wrong)
        raise AssertionError(
            f"{name} is wrong in {int(wrong.sum())} of {wrong.numel()} elements, "
            f"first at {at}: {got[at].item():.8g} instead of {wanted[at].item():.8g}"
        )


def first(where: Tensor) -> tuple[int, ...]:
    """The index of the first True."""
    return tuple(where.nonzero()[0].tolist())


def check_frozen_inputs(operation: Operation, case: Case) -> None:
    """Each input's gradient is the same bits when it is the only one wanted."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    dy = torch.randn(case.shape, generator=torch.Generator().manual_seed(1))
    dy = dy.to(case.dtype).to(DEVICE)

    def gradients(wanted: Sequence[int]) -> Sequence[Tensor]:
        leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        y = operation.function(*leaves, interpret=INTERPRET)
        return torch.autograd.grad(y, [leaves[i] for i in wanted], dy)

    together = gradients(range(len(inputs)))
    for i, grad in enumerate(together):
        (alone,) = gradients([i])
        assert torch.equal(alone, grad), f"the gradient of input {i} differs alone"


def check_output_changed_in_place(operation: Operation, case: Case) -> None:
    """y.mul_(2) afterwards is either right or refused, never silently wrong."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    dy = torch.randn(case.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    for x in inputs:
        x.requires_grad_()
    y = operation.function(*inputs, interpret=INTERPRET)
    wanted = torch.autograd.grad(2 * y, inputs, dy, retain_graph=True)
    y.mul_(2)
    try:
        grads = torch.autograd.grad(y, inputs, dy)
    except RuntimeError as refused:
        assert "modified by an inplace operation" in str(refused), refused
        return
    for grad, exact in zip(grads, wanted, strict=True):
        assert torch.equal(grad, exact), "y was changed in place, and the gradient too"


def check_reference_gradients(operation: Operation) -> None:
    """The oracle itself, against finite differences in float64."""
    inputs = operation.inputs(operation.small, torch.Generator().manual_seed(0))
    for x in inputs:
        x.requires_grad_()
    torch.autograd.gradcheck(operation.reference, tuple(inputs))


def check_bad_calls(operation: Any) -> None:
    """Every bad call is refused with its sentence, whatever the route."""
    for bad in operation.bad_calls:
        with pytest.raises(bad.error) as refused:
            bad.call()
        assert str(refused.value) == bad.sentence


def check_second_derivative_is_refused(operation: Operation) -> None:
    """Without the check a Hessian would silently lack the kernel's part."""
    case = Case(operation.small, torch.float32)
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    x = inputs[0].requires_grad_()
    y = operation.function(*inputs, interpret=INTERPRET)
    with pytest.raises(KernelInputError, match="has no second derivative"):
        torch.autograd.grad(y.flatten()[0], x, create_graph=True)


class Recorder:
    """Stands in for a kernel and notes how it is launched."""

    def __init__(self, name: str, launches: set[tuple[Any, ...]]) -> None:
        self.name, self.launches = name, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, num_stages: int, **constexprs: Any):
            types = tuple(triton_type(argument) for argument in arguments)
            options = tuple(sorted(constexprs.items()))
            self.launches.add((self.name, types, options, num_warps, num_stages))

        return launch


def triton_type(argument: Any) -> str:
    """How Triton types an argument of a launch."""
    if isinstance(argument, Tensor):
        return f"*{TRITON_TYPES[argument.dtype]}"
    return "fp32" if isinstance(argument, float) else "i32"


def check_specs(operation: Operation, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPECS is what the function launches at the benchmark's shapes, no more."""
    module, launches = operation.module, set[tuple[Any, ...]]()
    for spec in module.SPECS:
        monkeypatch.setattr(module, spec.name, Recorder(spec.name, launches))
    for shape in map(operation.benchmark_shape, module.BENCHMARK_SHAPES):
        for dtype in operation.dtypes:
            values = operation.inputs(shape, torch.Generator().manual_seed(0))
            inputs = [v.to(DEVICE, dtype).requires_grad_() for v in values]
            y = operation.function(*inputs, interpret=INTERPRET)
            y.backward(torch.ones_like(y))
    assert launches == declared(module.SPECS)


def declared(specs: Sequence[KernelSpec]) -> set[tuple[Any, ...]]:
    """What a `Recorder` notes when exactly these are launched."""
    return {
        (
            spec.name,
            tuple(spec.signature.values()),
            tuple(sorted(spec.constexprs.items())),
            spec.num_warps,
            spec.num_stages,
        )
        for spec in specs
    }


def needs_a_kernel(test: Any) -> Any:
    """Marks what launches kernels: `gpu` where they are compiled."""
    if COMPILED:
        return pytest.mark.gpu(test)
    return pytest.mark.skipif(not kernels.INTERPRETED, reason="needs Triton")(test)


def _with_mark(case: Case) -> Any:
    """Half precision in other layouts only in `make test-all`: a layout is a matter of
    addresses, and those are tested in float32."""
    plain = case.layout == case.dy_layout == "contiguous"
    marks = () if plain or case.dtype == torch.float32 else (pytest.mark.slow,)
    return pytest.param(case, id=str(case), marks=marks)


def give_cases(metafunc: pytest.Metafunc, operation: Any) -> None:
    """Parametrize one test of a harness by what its operation is tested on."""
    if metafunc.function.__name__ == "test_values":
        metafunc.parametrize("case", map(_with_mark, operation.value_cases))
    elif metafunc.function.__name__ == "test_gradients":
        metafunc.parametrize("case", map(_with_mark, operation.gradient_cases))
    elif "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", operation.dtypes, ids=TRITON_TYPES.get)


@needs_a_kernel
class KernelTests:
    """Inherit and set `operation`."""

    operation: ClassVar[Operation]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each test the cases or dtypes of its operation."""
        give_cases(metafunc, self.operation)

    def test_values(self, case: Case) -> None:
        check_values(self.operation, case)

    def test_gradients(self, case: Case) -> None:
        check_gradients(self.operation, case)

    def test_gradients_of_frozen_inputs(self, dtype: torch.dtype) -> None:
        check_frozen_inputs(self.operation, Case(self.operation.small, dtype))

    def test_an_output_changed_in_place(self) -> None:
        case = Case(self.operation.small, torch.float32)
        check_output_changed_in_place(self.operation, case)

    def test_reference_gradients(self) -> None:
        check_reference_gradients(self.operation)

    def test_a_second_derivative_is_refused(self) -> None:
        check_second_derivative_is_refused(self.operation)

    def test_bad_input(self) -> None:
        check_bad_calls(self.operation)

    def test_specs_are_what_is_launched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_specs(self.operation, monkeypatch)
