"""The gate before the timing: no figure for a result that is not right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # at run time it brings in Triton; refusals come first
    from kernels.bench_cases import Bench

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2**-8, torch.bfloat16: 2**-6}
"""Relative error that a correct result may have: a few roundings."""


class BenchError(RuntimeError):
    """Why nothing is timed, in one sentence."""


def check_all(benches: Sequence[Bench], device: str) -> None:
    """Check every kernel in every shape and dtype that is timed.

    Raises:
        BenchError: one of them is wrong.
    """
    for bench in benches:
        for R, N in [bench.odd, *bench.shapes]:
            for dtype in bench.dtypes:
                wrong = fault(bench, bench.kernel, R, N, dtype, device)
                if wrong:
                    raise BenchError(
                        f"{bench.name} is wrong, so nothing is timed: {wrong}"
                    )


def fault(
    bench: Bench,
    function: Callable[..., Tensor],
    R: int,
    N: int,
    dtype: torch.dtype,
    device: str,
) -> str | None:
    """Hold a function and its gradients against the reference in float64.

    Returns:
        What is off and by how much, in one sentence; None if all is right.
    """
    generator = torch.Generator(device).manual_seed(0)
    inputs = bench.inputs(R, N, dtype, generator)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    dy = cotangent(bench.reference(*exact), dtype, generator)
    found = _results(function, inputs, dy)
    for name, right in _results(bench.reference, exact, dy.double()).items():
        # Near zero an element is judged by the size of its neighbours.
        scale = right.abs() + right.square().mean().sqrt()
        error = ((found[name].double() - right).abs() / scale).max().item()
        if not error <= TOLERANCE[dtype]:  # true for NaN as well
            return (
                f"{name} of shape ({R}, {N}) in {dtype_name(dtype)} is off by "
                f"{error:.2g} of its size; {TOLERANCE[dtype]:.2g} is allowed."
            )
    return None


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" rather than "torch.float32"."""
    return str(dtype).removeprefix("torch.")


def cotangent(y: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A random gradient for y to receive."""
    dy = torch.randn(y.shape, generator=generator, device=generator.device)
    return dy.to(dtype)


def _results(function: Callable[..., Tensor], inputs: Any, dy: Tensor) -> Any:
    """y and the gradient of every input, by name."""
    y = function(*inputs)
    grads = torch.autograd.grad(y, inputs, dy)
    names = [f"the gradient of input {place}" for place in range(len(grads))]
    return {"y": y.detach(), **dict(zip(names, grads, strict=True))}
