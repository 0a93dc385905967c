"""What all operations share: which way a call goes, its errors, its cost.

Read `kernels/softmax.py` first; this module holds the parts that would be the
same in every operation.

Shape suffixes: R rows, N elements of a row. x_RN has shape (R, N).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import kernels
from kernels.language import next_power_of_2

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What kernels read and write. They compute in float32 in between."""

TRITON_TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
}
"""Triton's names for these dtypes, for indices' and for codes', as they stand in a
`KernelSpec`."""


class KernelInputError(ValueError):
    """A call that an operation refuses: what was wrong and what is allowed."""


@dataclass(frozen=True)
class Cost:
    """What an operation cannot do without, whoever implements it.

    Attributes:
        bytes: the fewest that must move between memory and the chip: every
            input read once, every output written once.
        flops: floating-point operations; an exp or a square root counts as one.
    """

    bytes: int
    flops: int


@dataclass(frozen=True)
class KernelSpec:
    """One configuration in which a public function launches one kernel.

    The ahead-of-time check compiles every spec for every GPU generation, and a
    test holds the specs against what the public function really launches.

    Attributes:
        name: the kernel's name.
        kernel: what `@jit` made.
        signature: Triton type of every argument that is not a constexpr, in
            order: "*bf16" a pointer, "i32" an integer, "fp32" a number.
        constexprs: the values that are compiled in.
        num_warps: warps (groups of 32 threads) that run one program.
        num_stages: loads in flight in a pipelined loop; 1 is no pipelining.
        label: what a report calls it.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    label: str


def route(x: Tensor, interpret: bool | None) -> Literal["reference", "kernel"]:
    """Which implementation serves a call.

    On a GPU the compiled kernel. On a CPU the reference, which is fast there;
    with interpret=True the kernel itself, program by program, in Triton's
    interpreter: slow, and the way to see what a kernel does without a GPU.

    Args:
        x: the operation's first input; its device decides.
        interpret: True asks for the kernel on a CPU.

    Raises:
        ValueError: interpret=True in a process that does not interpret.
    """
    if interpret and not kernels.HAS_TRITON:
        raise ValueError(
            "interpret=True needs Triton, which is not installed here "
            "(it has wheels for Linux only): leave interpret out."
        )
    if interpret and not kernels.INTERPRETED:
        raise ValueError(
            "interpret=True works only in a process that interprets kernels: "
            "start it with TRITON_INTERPRET=1, or leave interpret out."
        )
    return "kernel" if x.is_cuda or interpret else "reference"


def refuse_second_derivative(operation: str) -> None:
    """Called by every backward, as no backward kernel has a derivative.

    Autograd computes with gradients enabled only for create_graph=True. Torch's
    `once_differentiable` looks at dy alone and would let a Hessian through in
    silence that lacks all that goes through the saved tensors.

    Raises:
        KernelInputError: this backward is to be differentiated.
    """
    if torch.is_grad_enabled():
        raise KernelInputError(
            f"{operation}: its kernel has no second derivative, so create_graph=True "
            f"is refused; {operation}_reference has all derivatives."
        )


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def as_rows(x: Tensor) -> Tensor:
    """x as (R, N), each row's elements side by side, copied only if it must be.

    The distance between rows stays whatever it is: kernels take it as an
    argument, so that a slice of a wider tensor needs no copy.
    """
    x_RN = x.reshape(-1, x.shape[-1])
    return x_RN if x_RN.stride(-1) == 1 else x_RN.contiguous()


def side_by_side(x: Tensor) -> Tensor:
    """x with the elements of its last axis side by side, copied only if they lie
    apart. The distances between rows are arguments of the kernels."""
    return x if x.stride(-1) == 1 else x.contiguous()


def row_launch(N: int) -> dict[str, Any]:
    """How a kernel is launched whose programs hold a whole row of N each.

    One block covers the row. A warp for every 512 of its elements, so that
    each of the warp's 32 threads holds 16; at most 16 warps, which leaves each
    thread enough registers. These kernels gain nothing from pipelined loads.
    """
    BLOCK = next_power_of_2(N)
    num_warps = min(max(BLOCK // 512, 1), 16)
    return {"BLOCK": BLOCK, "num_warps": num_warps, "num_stages": 1}


def launch_spec(
    kernel: Any, dtype: torch.dtype, launch: dict[str, Any], size: str, /, **types: str
) -> KernelSpec:
    """The spec of a kernel that is launched with `**launch`.

    Args:
        kernel: what `@jit` made.
        dtype: of the tensors.
        launch: the constexprs, num_warps and num_stages.
        size: what tells its label from those of its other configurations, "N=1024".
        types: the arguments' Triton types in the kernel's order; "*" stands for
            a pointer to `dtype`.
    """
    constexprs = dict(launch)
    num_warps, num_stages = constexprs.pop("num_warps"), constexprs.pop("num_stages")
    element = TRITON_TYPES[dtype]
    return KernelSpec(
        name=kernel.__name__,
        kernel=kernel,
        signature={k: f"*{element}" if v == "*" else v for k, v in types.items()},
        constexprs=constexprs,
        num_warps=num_warps,
        num_stages=num_stages,
        label=f"{kernel.__name__} {element} {size}",
    )


def row_spec(kernel: Any, N: int, dtype: torch.dtype, /, **types: str) -> KernelSpec:
    """The spec of a kernel that `row_launch` launches on rows of N."""
    return launch_spec(kernel, dtype, row_launch(N), f"N={N}", **types)


def check_kernel_tensor(operation: str, x: Tensor, name: str = "x") -> None:
    """Refuse an x that is no tensor of a dtype that the kernels know.

    Args:
        operation: the public function's name.
        x: the input.
        name: what the function calls it.

    Raises:
        KernelInputError: it is not.
    """
    check_is_tensor(operation, x, name)
    if x.dtype not in KERNEL_DTYPES:
        raise KernelInputError(
            f"{operation}: {name} must be float32, float16 or bfloat16; got "
            f"{dtype_name(x)} ({operation}_reference takes float64 too)."
        )


def check_is_tensor(operation: str, x: object, name: str) -> None:
    """Refuse an x that is no tensor.

    Raises:
        KernelInputError: it is not.
    """
    if not isinstance(x, Tensor):
        raise KernelInputError(
            f"{operation}: {name} must be a torch.Tensor; got {type(x).__name__}."
        )


def check_beside(
    operation: str,
    x: Tensor,
    name: str,
    value: Tensor,
    shape: tuple[int, ...],
    axes: str,
    dtype: torch.dtype = torch.float32,
    x_name: str = "x",
) -> None:
    """Refuse an input that does not fit the operation's first.

    Args:
        operation: the public function's name.
        x: the first input, checked already.
        name: what the function calls the other input.
        value: the other input.
        shape: what x asks of it.
        axes: the same in letters, such as "(n, M)".
        dtype: what it must be: float32 for coefficients, int32 for indices, x's for
            what is of x's kind.
        x_name: what the function calls x.

    Raises:
        KernelInputError: value is no tensor, or its shape, dtype or device is
            another.
    """
    check_is_tensor(operation, value, name)
    if value.shape != shape:
        raise KernelInputError(
            f"{operation}: {name} must have shape {axes} = {shape} for {x_name} of "
            f"shape {tuple(x.shape)}; got {tuple(value.shape)}."
        )
    if value.dtype != dtype:
        needed = str(dtype).removeprefix("torch.")
        raise KernelInputError(
            f"{operation}: {name} must be {needed}; got {dtype_name(value)}."
        )
    if value.device != x.device:
        owner = f"{x_name}'" if x_name.endswith("s") else f"{x_name}'s"
        raise KernelInputError(
            f"{operation}: {name} must be on {owner} device, {x.device}; got "
            f"{value.device}."
        )


def check_rows(operation: str, x: Tensor, max_n: int) -> None:
    """Refuse an x that is not rows of 1 to max_n numbers the kernels know.

    Raises:
        KernelInputError: x is no tensor, has no axis, or its last axis or its
            dtype is out of bounds.
    """
    check_kernel_tensor(operation, x)
    if x.ndim == 0:
        raise KernelInputError(
            f"{operation}: x must have at least one axis; got a single number."
        )
    if not 1 <= x.shape[-1] <= max_n:
        raise KernelInputError(
            f"{operation}: the last axis of x must have 1 to {max_n} elements, as "
            f"one program holds a whole row; got shape {tuple(x.shape)}."
        )


def dtype_name(x: Tensor) -> str:
    """ "float32" rather than "torch.float32"."""
    return str(x.dtype).removeprefix("torch.")
