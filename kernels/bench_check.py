"""The gate before the timing: no figure for a result that is not right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.float8 import steps_apart
from kernels.fp8_operands import CODES

if TYPE_CHECKING:  # at run time it brings in Triton; refusals come first
    from kernels.bench_cases import Bench

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2**-8, torch.bfloat16: 2**-6}
"""Relative error that a correct result may have: a few roundings."""


class BenchError(RuntimeError):
    """Why nothing is timed, in one sentence."""


def check_all(benches: Sequence[Bench], device: str) -> None:
    """Check every kernel in every shape and dtype that is timed, and an odd shape.

    Raises:
        BenchError: one of them is wrong.
    """
    for bench in benches:
        for shape in [bench.odd, *bench.shapes]:
            for dtype in bench.dtypes:
                wrong = fault(bench, bench.kernel, shape, dtype, device)
                if wrong:
                    raise BenchError(
                        f"{bench.name} is wrong, so nothing is timed: {wrong}"
                    )


def fault(
    bench: Bench,
    function: Callable[..., Any],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
) -> str | None:
    """Hold a function and its gradients against the reference in float64.

    Returns:
        What is off and by how much, in one sentence; None if all is right.
    """
    generator = torch.Generator(device).manual_seed(0)
    inputs = bench.inputs(*shape, dtype, generator)
    exact = tuple(_exact(x) for x in inputs)
    dys = cotangents(bench, inputs, generator)
    found = _results(function, inputs, dys)
    exact_dys = tuple(dy.double() for dy in dys)
    for name, right in _results(bench.reference, exact, exact_dys).items():
        if not right.is_floating_point():
            wrong = int((found[name] != right).sum())
            if wrong:  # an index is right or wrong, however near
                return (
                    f"{name} of shape {shape} in {dtype_name(dtype)} is wrong in "
                    f"{wrong} of {right.numel()} places."
                )
            continue
        if right.dtype in CODES:
            steps = steps_apart(found[name], right)
            if steps.amax() > 1 or steps.sum() > 1e-3 * steps.numel():
                return (
                    f"{name} of shape {shape} in {dtype_name(dtype)} has "
                    f"{int((steps > 0).sum())} of {steps.numel()} codes off, by up to "
                    f"{int(steps.amax())} steps; 1 in 1000 may be, by 1."
                )
            continue
        # Near zero an element is judged by the size of its neighbours.
        scale = right.abs() + right.square().mean().sqrt()
        error = ((found[name].double() - right).abs() / scale).max().item()
        allowed = bench.tolerances * TOLERANCE[dtype]
        if not error <= allowed:  # true for NaN as well
            return (
                f"{name} of shape {shape} in {dtype_name(dtype)} is off by "
                f"{error:.2g} of its size; {allowed:.2g} is allowed."
            )
    return None


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" rather than "torch.float32"."""
    return str(dtype).removeprefix("torch.")


def _exact(x: Tensor) -> Tensor:
    """The same numbers in float64; indices as they are."""
    if not x.is_floating_point():
        return x
    return x.detach().double().requires_grad_(x.requires_grad)


def outputs(answer: Any) -> tuple[Tensor, ...]:
    """What a function returned, as a tuple."""
    return answer if isinstance(answer, tuple) else (answer,)


def numbers(ys: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The outputs that have a gradient: those that are no indices."""
    return tuple(y for y in ys if y.is_floating_point())


def leaves(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs that have a gradient."""
    return tuple(x for x in inputs if x.requires_grad)


def cotangents(
    bench: Bench, inputs: tuple[Tensor, ...], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """A random gradient for each output that has one, in the shape the reference gives.

    Where no input has a gradient, no output needs one.
    """
    if not leaves(inputs):
        return ()
    like = numbers(outputs(bench.reference(*(x.detach() for x in inputs))))
    device = generator.device
    return tuple(
        torch.randn(y.shape, generator=generator, device=device).to(y.dtype)
        for y in like
    )


def _results(
    function: Callable[..., Any], inputs: tuple[Tensor, ...], dys: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """Every output and the gradient of every input that has one, by name."""
    ys = outputs(function(*inputs))
    named = {"y" if len(ys) == 1 else f"output {i}": y for i, y in enumerate(ys)}
    if dys:
        places = [i for i, x in enumerate(inputs) if x.requires_grad]
        grads = torch.autograd.grad(numbers(ys), leaves(inputs), dys)
        for i, grad in zip(places, grads, strict=True):
            named[f"the gradient of input {i}"] = grad
    return {name: value.detach() for name, value in named.items()}
