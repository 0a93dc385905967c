"""Triton's names, in the one order of imports that works.

Every kernel module says `from kernels.language import jit, tl`. Three things
then hold on any machine:

- `kernels` was imported before triton, so a kernel is compiled where a GPU is
  and interpreted where none is;
- interpreted, the arithmetic of bfloat16 and float8 is right
  (`kernels.interpreter` mends it);
- without Triton (macOS) the module imports all the same, and its reference and
  costs work. Only a launch fails, with one sentence.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import kernels

__all__ = ["MissingKernel", "cdiv", "jit", "next_power_of_2", "tl", "triton"]


class MissingKernel:
    """What `@jit` makes of a kernel where Triton is not installed."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__

    def __getitem__(self, grid: Any) -> NoReturn:
        raise RuntimeError(
            f"{self.__name__} cannot be launched: Triton is not installed here "
            "(it has wheels for Linux only); the reference works everywhere."
        )


def _missing(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """In place of `triton.jit`: `@jit`, or `@jit(...)` with options."""
    return MissingKernel(fn) if fn else MissingKernel


triton: Any = None
"""The package; None where it is not installed."""

tl: Any = SimpleNamespace(constexpr=None)
"""`triton.language`; without Triton only what annotations mention."""

jit: Callable[..., Any] = _missing
"""`triton.jit`; without Triton it makes a `MissingKernel`."""

if kernels.HAS_TRITON:
    # By name, as an import statement would define the names above twice.
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")
    jit = triton.jit
    if kernels.INTERPRETED:
        from kernels.interpreter import install

        install()


def cdiv(a: int, b: int) -> int:
    """a / b rounded up: how many programs of b elements cover a elements."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n (n >= 1).

    `tl.arange` takes only powers of two. Triton has the same function; this
    one also works where Triton is not installed, for launch configurations.
    """
    return 1 << (n - 1).bit_length()
