"""What `@lab.exercise("0.1")` leaves under the name of the reader's function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import kernels
from labsupport.exercise.check import Verdict, run_checks
from labsupport.exercise.spec import Exercise


class ExerciseFunction:
    """Calls the reader's function if it passed its check, and ours if not.

    Attributes:
        spec: the exercise.
        yours: the reader's attempt.
        verdict: what the check said of it.
        forced: use the reader's whatever the verdict (`lab.mine(id)`).
    """

    def __init__(self, spec: Exercise, yours: Callable[..., Any]) -> None:
        functools.update_wrapper(self, yours)
        self.spec = spec
        self.yours = yours
        self.verdict: Verdict = run_checks(spec, yours)
        self.forced = False

    @property
    def __labs_active__(self) -> Callable[..., Any]:
        """The function in use; `%%torchrun --push` sends this one."""
        if self.forced or self.verdict.passed:
            return self.yours
        return self.spec.ours

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function in use; a kernel is launched, as its check does."""
        if self.spec.reference is not None and not kernels.HAS_TRITON:
            return self.spec.reference(*arguments, **named)
        function = self.__labs_active__
        if self.spec.launch is not None:
            return self.spec.launch(function, *arguments, **named)
        return function(*arguments, **named)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """Launch the kernel in use over a grid, as in `kernel[grid](...)`."""
        launcher: Callable[..., Any] = self.__labs_active__[grid]  # type: ignore[index]
        return launcher

    @property
    def badge(self) -> tuple[str, str]:
        """Which function is in use: a colour and a few words."""
        number = self.spec.id
        if self.forced and not self.verdict.passed:
            return "red", f"{number}: yours, although it failed its check"
        if self.verdict.passed:
            return "green", f"{number}: using yours"
        if self.verdict.state == "failed":
            return "orange", f"{number}: yours failed its check, using ours"
        return "grey", f"{number}: not attempted yet, using ours"
