"""The harness for operations whose inputs and outputs are not all of one kind.

`harness.py` knows one output, and inputs that all have its dtype. Here an input
may stay float32 while the others are halves (coefficients beside streams), or be
indices, which keep their dtype and have no gradient; each has its own shape, and the
function may return several tensors, indices too. The tests are the same: values,
gradients, bad input, SPECS; what each is for stands in `harness.py`.

Sums of products cancel, so what float32 arithmetic leaves is judged by the size of
the terms: the reference's own answer when every input is made positive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from kernels.operation import KERNEL_DTYPES, KernelInputError
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import GuardedMemory, unwritten
from tests.kernels.harness import (
    ARITHMETIC,
    DEVICE,
    INTERPRET,
    ROUNDING,
    BadCall,
    Recorder,
    assert_close,
    check_bad_calls,
    declared,
    first,
    give_cases,
    needs_a_kernel,
)

Tensors = Sequence[Tensor]
Shape = tuple[int, ...]


def _two_tokens(shape: Shape) -> Shape:
    """No configuration depends on the first axis."""
    return 2, *shape[1:]


@dataclass(frozen=True, kw_only=True)
class MixedOperation:
    """What the tests need to know of an operation.

    Attributes:
        module: where its kernels, SPECS and BENCHMARK_SHAPES are.
        function: (*inputs, interpret=...) -> a tensor or several.
        reference: (*inputs) -> the same in plain PyTorch. Making its inputs
            positive must make every term positive: sums of products do.
        inputs: (case.shape, generator) -> float64 tensors on the CPU, or int32 ones;
            the first is the one that a case scales.
        value_cases, gradient_cases: the inputs on which it is tested.
        small: a case's shape, for what needs no more than a few numbers.
        coefficients: which inputs stay float32 whatever the case's dtype.
        fixed: which inputs have no gradient although they are no indices.
        bad_calls: what it refuses.
        product_error: dtype -> what a product may be off by, relative to itself.
        cancelled: what may be left of terms of size 1 that cancel, where the
            reference is no sum of products.
        rounded: how many numbers of size 1 are rounded to a half on the way to one
            number of a gradient, where the reference is no sum of products.
        dtypes: of the inputs that are neither coefficients nor indices.
        benchmark_shape: an entry of BENCHMARK_SHAPES -> a case's shape for which the
            same is launched.
    """

    module: ModuleType
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    reference: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: Callable[[Shape, torch.Generator], Tensors]
    value_cases: Sequence[Case]
    gradient_cases: Sequence[Case]
    small: Shape
    coefficients: Sequence[int] = ()
    fixed: Sequence[int] = ()
    bad_calls: Sequence[BadCall] = ()
    product_error: Callable[[torch.dtype], float] = lambda dtype: ARITHMETIC
    cancelled: float = 0.0
    rounded: float = 0.0
    dtypes: Sequence[torch.dtype] = KERNEL_DTYPES
    benchmark_shape: Callable[[Shape], Shape] = _two_tokens

    def differentiable(self, inputs: Tensors) -> list[int]:
        """Which of the inputs have a gradient."""
        return [
            i
            for i, x in enumerate(inputs)
            if x.is_floating_point() and i not in self.fixed
        ]


def outputs(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def exact_of(x: Tensor) -> Tensor:
    """The same numbers in float64; indices as they are."""
    return x.double() if x.is_floating_point() else x.clone()


def make_inputs(
    operation: MixedOperation, case: Case, memory: GuardedMemory
) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs in guarded memory, and the same numbers in float64."""
    values = list(operation.inputs(case.shape, torch.Generator().manual_seed(0)))
    if values[0].is_floating_point():
        values[0] = values[0] * case.scale
    placed = []
    for i, value in enumerate(values):
        layout, dtype = case.layout, case.dtype
        if not value.is_floating_point():
            # The same index everywhere would be another problem.
            layout = "contiguous" if layout == "repeated" else layout
            dtype = value.dtype
        elif i in operation.coefficients:
            dtype = torch.float32
        if layout == "repeated" and value.numel():
            value = value[:1].expand(value.shape)
        rounded = value.to(dtype).to(DEVICE)
        placed.append(memory.place(f"input {i}", rounded, layout))
    return placed, [exact_of(x) for x in placed]


def make_cotangents(like: Tensors, layout: str, memory: GuardedMemory) -> list[Tensor]:
    """A random gradient for every output, in its dtype, laid out as asked."""
    generator = torch.Generator().manual_seed(1)
    placed = []
    for i, y in enumerate(like):
        dy = 1 + torch.randn(y.shape, generator=generator)
        if layout == "repeated" and dy.numel():
            dy = dy[:1].expand(y.shape)
        placed.append(memory.place(f"dy {i}", dy.to(y.dtype).to(DEVICE), layout))
    return placed


def run(operation: MixedOperation, inputs: Tensors) -> tuple[Tensor, ...]:
    return outputs(operation.function(*inputs, interpret=INTERPRET))


def numbers(ys: Tensors) -> list[Tensor]:
    """The outputs that have a gradient: those that are no indices."""
    return [y for y in ys if y.is_floating_point()]


def assert_same_indices(name: str, got: Tensor, wanted: Tensor) -> None:
    """Indices are right or wrong: nothing is rounded."""
    assert got.dtype == wanted.dtype, f"{name} has dtype {got.dtype}"
    assert got.shape == wanted.shape, f"{name} has shape {tuple(got.shape)}"
    missing = unwritten(got)
    assert not missing.any(), f"{name} was never written at {first(missing)}"
    wrong = got != wanted
    if wrong.any():
        at = first(wrong)
        raise AssertionError(
            f"{name} is wrong in {int(wrong.sum())} of {wrong.numel()} elements, "
            f"first at {at}: {got[at].item()} instead of {wanted[at].item()}"
        )


def check_values(operation: MixedOperation, case: Case) -> None:
    """The function gives the reference's values and touches nothing else."""
    memory = GuardedMemory()
    inputs, exact_inputs = make_inputs(operation, case, memory)
    with memory:
        found = run(operation, inputs)
    memory.check()
    for i, (x, exact) in enumerate(zip(inputs, exact_inputs, strict=True)):
        assert torch.equal(exact_of(x), exact), f"input {i} was changed"
    dtypes = [y.dtype for y in outputs(operation.reference(*inputs))]
    wanted = outputs(operation.reference(*exact_inputs))
    terms = outputs(operation.reference(*(x.abs() for x in exact_inputs)))
    for i, (y, exact) in enumerate(zip(found, wanted, strict=True)):
        if not exact.is_floating_point():
            assert_same_indices(f"output {i}", y, exact)
            continue
        slack = operation.product_error(case.dtype) * terms[i].abs()
        slack = slack + operation.cancelled
        assert_close(f"output {i}", y, exact, replace(case, dtype=dtypes[i]), slack)


def check_gradients(operation: MixedOperation, case: Case) -> None:
    """The kernels' gradients are the reference's, for random cotangents."""
    memory = GuardedMemory()
    inputs, exact_inputs = make_inputs(operation, case, memory)
    wanted_for = operation.differentiable(inputs)
    for i in wanted_for:
        inputs[i].requires_grad_()
    with memory:
        found = numbers(run(operation, inputs))
    dys = make_cotangents(found, case.dy_layout, memory)
    kept = [dy.clone() for dy in dys]
    with memory:
        grads = torch.autograd.grad(found, [inputs[i] for i in wanted_for], dys)
    memory.check()
    for i, (dy, before) in enumerate(zip(dys, kept, strict=True)):
        assert torch.equal(dy, before), f"dy {i} was changed"
    exact_dys = [dy.double() for dy in dys]
    wanted = gradients(operation, exact_inputs, exact_dys)
    terms = gradients(
        operation, [x.abs() for x in exact_inputs], [dy.abs() for dy in exact_dys]
    )
    for i, grad, exact, sum_of_terms in zip(
        wanted_for, grads, wanted, terms, strict=True
    ):
        slack = operation.product_error(case.dtype) * sum_of_terms.abs()
        slack = slack + operation.cancelled + operation.rounded * ROUNDING[case.dtype]
        judged_as = replace(case, dtype=inputs[i].dtype)
        assert_close(f"the gradient of input {i}", grad, exact, judged_as, slack)


def gradients(operation: MixedOperation, inputs: Tensors, dys: Tensors) -> Tensors:
    """The reference's, for those inputs that have one."""
    wanted_for = operation.differentiable(inputs)
    leaves = [x.detach().requires_grad_(i in wanted_for) for i, x in enumerate(inputs)]
    ys = numbers(outputs(operation.reference(*leaves)))
    return torch.autograd.grad(ys, [leaves[i] for i in wanted_for], dys)


def check_frozen_inputs(operation: MixedOperation, case: Case) -> None:
    """Each input's gradient is the same bits when it is the only one wanted."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())

    def wanted_alone(wanted: Sequence[int]) -> Tensors:
        leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        found = numbers(run(operation, leaves))
        dys = make_cotangents(found, "contiguous", GuardedMemory())
        return torch.autograd.grad(found, [leaves[i] for i in wanted], dys)

    differentiable = operation.differentiable(inputs)
    together = wanted_alone(differentiable)
    for i, grad in zip(differentiable, together, strict=True):
        (alone,) = wanted_alone([i])
        assert torch.equal(alone, grad), f"the gradient of input {i} differs alone"


def check_outputs_changed_in_place(operation: MixedOperation, case: Case) -> None:
    """y.mul_(2) afterwards is either right or refused, never silently wrong."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    leaves = [inputs[i].requires_grad_() for i in operation.differentiable(inputs)]
    ys = run(operation, inputs)
    found = numbers(ys)
    dys = make_cotangents(found, "contiguous", GuardedMemory())
    doubled = [2 * y for y in found]
    wanted = torch.autograd.grad(doubled, leaves, dys, retain_graph=True)
    for y in ys:
        y.mul_(2)
    try:
        grads = torch.autograd.grad(found, leaves, dys)
    except RuntimeError as refused:
        assert "modified by an inplace operation" in str(refused), refused
        return
    for grad, exact in zip(grads, wanted, strict=True):
        assert torch.equal(grad, exact), "y was changed in place, and the gradient too"


def check_reference_gradients(operation: MixedOperation) -> None:
    """The oracle itself, against finite differences in float64."""
    inputs = operation.inputs(operation.small, torch.Generator().manual_seed(0))
    for i in operation.differentiable(inputs):
        inputs[i].requires_grad_()
    torch.autograd.gradcheck(
        lambda *xs: tuple(numbers(outputs(operation.reference(*xs)))), tuple(inputs)
    )


def check_second_derivative_is_refused(operation: MixedOperation, case: Case) -> None:
    """Without the check a Hessian would silently lack the kernel's part."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    x = inputs[operation.differentiable(inputs)[0]].requires_grad_()
    y = numbers(run(operation, inputs))[0]
    with pytest.raises(KernelInputError, match="has no second derivative"):
        torch.autograd.grad(y.flatten()[0], x, create_graph=True)


def check_specs(operation: MixedOperation, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPECS is what the function launches at the benchmark's shapes, no more."""
    module, launches = operation.module, set[tuple[Any, ...]]()
    for spec in module.SPECS:
        monkeypatch.setattr(module, spec.name, Recorder(spec.name, launches))
    for shape in map(operation.benchmark_shape, module.BENCHMARK_SHAPES):
        for dtype in operation.dtypes:
            inputs, _ = make_inputs(operation, Case(shape, dtype), GuardedMemory())
            wanted_for = operation.differentiable(inputs)
            leaves = [inputs[i].requires_grad_() for i in wanted_for]
            found = numbers(run(operation, inputs))
            if leaves:
                torch.autograd.grad(found, leaves, [torch.ones_like(y) for y in found])
    assert launches == declared(module.SPECS)


@needs_a_kernel
class MixedKernelTests:
    """Inherit and set `operation`."""

    operation: ClassVar[MixedOperation]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each test the cases or dtypes of its operation."""
        give_cases(metafunc, self.operation)

    def test_values(self, case: Case) -> None:
        check_values(self.operation, case)

    def test_gradients(self, case: Case) -> None:
        check_gradients(self.operation, case)

    def test_gradients_of_frozen_inputs(self, dtype: torch.dtype) -> None:
        check_frozen_inputs(self.operation, Case(self.operation.small, dtype))

    def test_outputs_changed_in_place(self) -> None:
        check_outputs_changed_in_place(
            self.operation, Case(self.operation.small, torch.float32)
        )

    def test_reference_gradients(self) -> None:
        check_reference_gradients(self.operation)

    def test_a_second_derivative_is_refused(self) -> None:
        case = Case(self.operation.small, torch.float32)
        check_second_derivative_is_refused(self.operation, case)

    def test_bad_input(self) -> None:
        check_bad_calls(self.operation)

    def test_specs_are_what_is_launched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_specs(self.operation, monkeypatch)
