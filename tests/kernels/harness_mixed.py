"""The harness for operations whose inputs and outputs are not all of one kind.

`harness.py` knows one output, and inputs that all have its dtype. Here an input
may stay float32 while the others are halves (coefficients beside streams), each
has its own shape, and the function may return several tensors. The tests are the
same: values, gradients, bad input, SPECS; what each is for stands in `harness.py`.

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

from kernels.operation import KERNEL_DTYPES, TRITON_TYPES, KernelInputError
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import GuardedMemory
from tests.kernels.harness import (
    ARITHMETIC,
    DEVICE,
    INTERPRET,
    BadCall,
    Recorder,
    assert_close,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.stream_cases import GRADIENT_CASES, SMALL, VALUE_CASES

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class MixedOperation:
    """What the tests need to know of an operation.

    Attributes:
        module: where its kernels, SPECS and BENCHMARK_SHAPES are.
        function: (*inputs, interpret=...) -> a tensor or several.
        reference: (*inputs) -> the same in plain PyTorch. Making its inputs
            positive must make every term positive: sums of products do.
        inputs: (case.shape, generator) -> float64 tensors on the CPU; the first is
            the one that a case scales.
        coefficients: which inputs stay float32 whatever the case's dtype.
        bad_calls: what it refuses.
        product_error: dtype -> what a product may be off by, relative to itself.
    """

    module: ModuleType
    function: Callable[..., Tensor | tuple[Tensor, ...]]
    reference: Callable[..., Tensor | tuple[Tensor, ...]]
    inputs: Callable[[tuple[int, ...], torch.Generator], Tensors]
    coefficients: Sequence[int] = ()
    bad_calls: Sequence[BadCall] = ()
    product_error: Callable[[torch.dtype], float] = lambda dtype: ARITHMETIC


def outputs(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def make_inputs(
    operation: MixedOperation, case: Case, memory: GuardedMemory
) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs in guarded memory, and the same numbers in float64."""
    values = list(operation.inputs(case.shape, torch.Generator().manual_seed(0)))
    values[0] = values[0] * case.scale
    placed = []
    for i, value in enumerate(values):
        if case.layout == "repeated" and value.numel():
            value = value[:1].expand(value.shape)
        dtype = torch.float32 if i in operation.coefficients else case.dtype
        rounded = value.to(dtype).to(DEVICE)
        placed.append(memory.place(f"input {i}", rounded, case.layout))
    return placed, [x.double() for x in placed]


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


def check_values(operation: MixedOperation, case: Case) -> None:
    """The function gives the reference's values and touches nothing else."""
    memory = GuardedMemory()
    inputs, exact_inputs = make_inputs(operation, case, memory)
    with memory:
        found = run(operation, inputs)
    memory.check()
    for i, (x, exact) in enumerate(zip(inputs, exact_inputs, strict=True)):
        assert torch.equal(x.double(), exact), f"input {i} was changed"
    dtypes = [y.dtype for y in outputs(operation.reference(*inputs))]
    wanted = outputs(operation.reference(*exact_inputs))
    terms = outputs(operation.reference(*(x.abs() for x in exact_inputs)))
    for i, (y, exact) in enumerate(zip(found, wanted, strict=True)):
        slack = operation.product_error(case.dtype) * terms[i]
        assert_close(f"output {i}", y, exact, replace(case, dtype=dtypes[i]), slack)


def check_gradients(operation: MixedOperation, case: Case) -> None:
    """The kernels' gradients are the reference's, for random cotangents."""
    memory = GuardedMemory()
    inputs, exact_inputs = make_inputs(operation, case, memory)
    for x in inputs + exact_inputs:
        x.requires_grad_()
    with memory:
        found = run(operation, inputs)
    dys = make_cotangents(found, case.dy_layout, memory)
    kept = [dy.clone() for dy in dys]
    with memory:
        grads = torch.autograd.grad(found, inputs, dys)
    memory.check()
    for i, (dy, before) in enumerate(zip(dys, kept, strict=True)):
        assert torch.equal(dy, before), f"dy {i} was changed"
    exact_dys = [dy.double() for dy in dys]
    wanted = gradients(operation.reference, exact_inputs, exact_dys)
    terms = gradients(
        operation.reference,
        [x.detach().abs().requires_grad_() for x in exact_inputs],
        [dy.abs() for dy in exact_dys],
    )
    for i, (grad, exact) in enumerate(zip(grads, wanted, strict=True)):
        slack = operation.product_error(case.dtype) * terms[i]
        judged_as = replace(case, dtype=inputs[i].dtype)
        assert_close(f"the gradient of input {i}", grad, exact, judged_as, slack)


def gradients(function: Callable[..., Any], inputs: Tensors, dys: Tensors) -> Tensors:
    return torch.autograd.grad(outputs(function(*inputs)), inputs, dys)


def check_frozen_inputs(operation: MixedOperation, case: Case) -> None:
    """Each input's gradient is the same bits when it is the only one wanted."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())

    def wanted_alone(wanted: Sequence[int]) -> Tensors:
        leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
        found = run(operation, leaves)
        dys = make_cotangents(found, "contiguous", GuardedMemory())
        return torch.autograd.grad(found, [leaves[i] for i in wanted], dys)

    together = wanted_alone(range(len(inputs)))
    for i, grad in enumerate(together):
        (alone,) = wanted_alone([i])
        assert torch.equal(alone, grad), f"the gradient of input {i} differs alone"


def check_outputs_changed_in_place(operation: MixedOperation, case: Case) -> None:
    """y.mul_(2) afterwards is either right or refused, never silently wrong."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    for x in inputs:
        x.requires_grad_()
    found = run(operation, inputs)
    dys = make_cotangents(found, "contiguous", GuardedMemory())
    doubled = [2 * y for y in found]
    wanted = torch.autograd.grad(doubled, inputs, dys, retain_graph=True)
    for y in found:
        y.mul_(2)
    try:
        grads = torch.autograd.grad(found, inputs, dys)
    except RuntimeError as refused:
        assert "modified by an inplace operation" in str(refused), refused
        return
    for grad, exact in zip(grads, wanted, strict=True):
        assert torch.equal(grad, exact), "y was changed in place, and the gradient too"


def check_reference_gradients(operation: MixedOperation) -> None:
    """The oracle itself, against finite differences in float64."""
    inputs = operation.inputs(SMALL, torch.Generator().manual_seed(0))
    for x in inputs:
        x.requires_grad_()
    torch.autograd.gradcheck(operation.reference, tuple(inputs))


def check_second_derivative_is_refused(operation: MixedOperation, case: Case) -> None:
    """Without the check a Hessian would silently lack the kernel's part."""
    inputs, _ = make_inputs(operation, case, GuardedMemory())
    x = inputs[0].requires_grad_()
    y = run(operation, inputs)[0]
    with pytest.raises(KernelInputError, match="has no second derivative"):
        torch.autograd.grad(y.flatten()[0], x, create_graph=True)


def check_specs(operation: MixedOperation, monkeypatch: pytest.MonkeyPatch) -> None:
    """SPECS is what the function launches at the benchmark's shapes, no more.

    Of the benchmark's first axis two are enough: no configuration depends on it.
    """
    module, launches = operation.module, set[tuple[Any, ...]]()
    for spec in module.SPECS:
        monkeypatch.setattr(module, spec.name, Recorder(spec.name, launches))
    for _, *rest in module.BENCHMARK_SHAPES:
        for dtype in KERNEL_DTYPES:
            case = Case((2, *rest), dtype)
            inputs, _ = make_inputs(operation, case, GuardedMemory())
            found = run(operation, [x.requires_grad_() for x in inputs])
            torch.autograd.grad(found, inputs, [torch.ones_like(y) for y in found])
    declared = {
        (
            spec.name,
            tuple(spec.signature.values()),
            tuple(sorted(spec.constexprs.items())),
            spec.num_warps,
            spec.num_stages,
        )
        for spec in module.SPECS
    }
    assert launches == declared


@needs_a_kernel
class StreamKernelTests:
    """Inherit and set `operation`."""

    operation: ClassVar[MixedOperation]

    @pytest.mark.parametrize("case", VALUE_CASES, ids=str)
    def test_values(self, case: Case) -> None:
        check_values(self.operation, case)

    @pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
    def test_gradients(self, case: Case) -> None:
        check_gradients(self.operation, case)

    @pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=TRITON_TYPES.get)
    def test_gradients_of_frozen_inputs(self, dtype: torch.dtype) -> None:
        check_frozen_inputs(self.operation, Case(SMALL, dtype))

    def test_outputs_changed_in_place(self) -> None:
        check_outputs_changed_in_place(self.operation, Case(SMALL, torch.float32))

    def test_reference_gradients(self) -> None:
        check_reference_gradients(self.operation)

    def test_a_second_derivative_is_refused(self) -> None:
        case = Case(SMALL, torch.float32)
        check_second_derivative_is_refused(self.operation, case)

    def test_bad_input(self) -> None:
        check_bad_calls(self.operation)  # type: ignore[arg-type]

    def test_specs_are_what_is_launched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_specs(self.operation, monkeypatch)
