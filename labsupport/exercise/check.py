"""Check an attempt: stop at the first failure and explain it.

A check's message has four parts: what was asked, what came, the likely cause
(found by comparing the attempt with the known wrong answers), and which hint
to open next.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

import kernels
from labsupport.errors import LabError
from labsupport.exercise.raised import is_stub, raised_words
from labsupport.exercise.spec import Arguments, Exercise

Check = Callable[[Callable[..., Any]], None]
State = Literal["unsolved", "failed", "passed"]


class CheckFailed(LabError):
    """Raised inside a check: `asked` and `came` complete two sentences.

    A LabError, because a forced kernel raises it in the reader's own cell.
    """

    def __init__(self, asked: str, came: str) -> None:
        super().__init__(f"asked for {asked}, got {came}")
        self.asked = asked
        self.came = came


class ChangedInPlace(CheckFailed):
    """An argument was changed. It has no likely cause: the values may be right."""

    def __init__(self, name: str, cure: str = "Write `x = x / y` for `x /= y`") -> None:
        super().__init__(f"{name} left as it is", f"it was changed in place. {cure}")


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check, ready to be shown."""

    state: State
    message: str
    step: str = ""
    wrong: str = ""

    @property
    def passed(self) -> bool:
        return self.state == "passed"


def show_values(value: Any) -> str:
    """A tensor in one line, short enough for a message."""
    if isinstance(value, tuple) and all(isinstance(x, torch.Tensor) for x in value):
        several = "; ".join(map(show_values, value))
        return several if len(value) > 1 else f"a tuple with {several}"
    if not isinstance(value, torch.Tensor):
        text = repr(value)
        return text if len(text) <= 80 else text[:77] + "..."
    flat = value.detach().flatten().tolist()
    numbers = ", ".join(f"{number:.4g}" for number in flat[:6])
    dots = ", ..." if len(flat) > 6 else ""
    return f"[{numbers}{dots}] of shape {tuple(value.shape)}"


def expect_tensor(value: Any, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Fail unless `value` is a tensor of this shape and dtype."""
    asked = f"a tensor of shape {tuple(shape)} and dtype {dtype}"
    if not isinstance(value, torch.Tensor):
        raise CheckFailed(asked, f"{type(value).__name__}: {show_values(value)}")
    if tuple(value.shape) != tuple(shape) or value.dtype != dtype:
        raise CheckFailed(asked, f"shape {tuple(value.shape)}, dtype {value.dtype}")


def expect_close(
    value: Any,
    wanted: torch.Tensor | tuple[torch.Tensor, ...],
    asked: str,
    tolerance: float = 1e-5,
) -> None:
    """Fail unless `value` equals `wanted` to a relative and absolute tolerance.

    A tuple of tensors is compared part by part.
    """
    if isinstance(wanted, tuple):
        if not isinstance(value, tuple) or len(value) != len(wanted):
            raise CheckFailed(f"{asked}, {len(wanted)} tensors", show_values(value))
        for number, (mine, right) in enumerate(zip(value, wanted, strict=True), 1):
            expect_close(mine, right, f"{asked}, result {number}", tolerance)
        return
    if not isinstance(value, torch.Tensor):
        raise CheckFailed(f"{asked}, a tensor", show_values(value))
    same = value.shape == wanted.shape and torch.allclose(
        value.double(), wanted.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )
    if not same:
        where = "" if value.shape != wanted.shape else _largest(value, wanted)
        raise CheckFailed(
            f"{asked} = {show_values(wanted)}", show_values(value) + where
        )


def _largest(value: torch.Tensor, wanted: torch.Tensor) -> str:
    """Where two tensors differ most; values shown alone may look the same."""
    gap = (value.detach().double() - wanted.detach().double()).abs().flatten()
    if gap.isnan().any():
        return ""
    at = int(gap.argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), value.shape))
    mine, right = value.flatten()[at].item(), wanted.flatten()[at].item()
    return f"; largest difference at {list(place)}: {mine:.7g} instead of {right:.7g}"


def same_as(
    ours: Callable[..., Any], probes: Callable[[], Sequence[Arguments]]
) -> Check:
    """A check that compares with our solution on random inputs."""

    def check(candidate: Callable[..., Any]) -> None:
        for arguments in probes():
            given, theirs = _copies(arguments), _copies(arguments)
            wanted = ours(*theirs)
            asked = f"the reference{_at_numbers(ours, arguments)}"
            expect_close(candidate(*given), wanted, asked)
            for name, mine, left in zip(
                _names(ours, arguments), given, theirs, strict=True
            ):
                if isinstance(mine, torch.Tensor) and not _unchanged(mine, left):
                    raise ChangedInPlace(name)

    return check


def same_gradient(
    ours: Callable[..., Any], probes: Callable[[], Sequence[Arguments]]
) -> Check:
    """A check that compares the gradient of every floating-point argument.

    The cotangent is random: summing a normalised output would have a gradient
    of zero whatever the function does.
    """

    def check(candidate: Callable[..., Any]) -> None:
        for arguments in probes():
            mine = _gradients(candidate, arguments)
            wanted = _gradients(ours, arguments)
            names = [
                name
                for name, argument in zip(
                    _names(ours, arguments), arguments, strict=True
                )
                if _is_floating(argument)
            ]
            at = _at_numbers(ours, arguments)
            for name, got, right in zip(names, mine, wanted, strict=True):
                asked = f"the gradient of {name}{at}"
                expect_close(got, right, asked, tolerance=1e-4)

    return check


def run_checks(exercise: Exercise, candidate: Callable[..., Any]) -> Verdict:
    """Run an exercise's checks on a candidate; never raises."""
    step = ""
    if exercise.launch is not None:
        if not kernels.HAS_TRITON:
            return Verdict("unsolved", "Kernels cannot be checked without Triton.")
        # A compiler would stumble over the stub's `raise` before running it.
        source = inspect.getsource(getattr(candidate, "fn", candidate))
        if "raise NotImplementedError" in source:
            return Verdict("unsolved", "Not attempted yet.")
    candidate = exercise.as_function(candidate)
    try:
        for name, check in exercise.checks:
            step = name
            check(_refuse_none(candidate))
    except CheckFailed as failure:
        what = f"Asked: {failure.asked}.\nYours: {failure.came}."
        if isinstance(failure, ChangedInPlace):
            return Verdict("failed", f"Failed at: {step}.\n{what}", step)
    except Exception as error:
        if is_stub(error):
            return Verdict("unsolved", "Not attempted yet.")
        what = raised_words(error)
    else:
        return Verdict("passed", f"All {len(exercise.checks)} checks passed.")
    cause, hint, name = likely_cause(exercise, candidate)
    if not name:
        cause, hint = exercise.otherwise.get(step, (cause, hint))
    lines = [f"Failed at: {step}.", what]
    if cause:
        lines.append(f"Likely cause: {cause}")
    lines.append(f"Next: open hint {hint} of {len(exercise.hints)}.")
    return Verdict("failed", "\n".join(lines), step, name)


def likely_cause(
    exercise: Exercise, candidate: Callable[..., Any]
) -> tuple[str, int, str]:
    """The known wrong answer that computes what the candidate computes.

    Returns:
        its cause, the number of its hint and its name; ("", 1, "") if none.
    """
    outcomes = [_outcome(candidate, probe) for probe in exercise.probes()]
    for wrong in exercise.wrong:
        mistake = exercise.as_function(wrong.function)
        # One by one: most mistakes part from the candidate at the first probe.
        others = (_outcome(mistake, probe) for probe in exercise.probes())
        if all(map(_alike, outcomes, others)):
            return wrong.cause, wrong.hint, wrong.name
    return "", 1, ""


def _refuse_none(candidate: Callable[..., Any]) -> Callable[..., Any]:
    """Nothing returned is most often a forgotten `return`."""

    def called(*arguments: Any, **named: Any) -> Any:
        value = candidate(*arguments, **named)
        if value is None:
            raise CheckFailed("a result", "None: is a `return` missing?")
        return value

    return called


def _names(function: Callable[..., Any], arguments: Arguments) -> list[str]:
    """What the function calls its arguments."""
    try:
        return list(inspect.signature(function).parameters)[: len(arguments)]
    except ValueError:  # a builtin says nothing of its own
        return [f"argument {number}" for number, _ in enumerate(arguments, 1)]


def _at_numbers(function: Callable[..., Any], arguments: Arguments) -> str:
    """ " at T = 2": the arguments that are numbers."""
    numbers = [
        f"{name} = {value:g}"
        for name, value in zip(_names(function, arguments), arguments, strict=True)
        if isinstance(value, int | float)
    ]
    return f" at {', '.join(numbers)}" if numbers else ""


def _unchanged(x: torch.Tensor, left: torch.Tensor) -> bool:
    """Whether both are the same, not-a-numbers included."""
    nowhere = x.isnan() & left.isnan()
    return x.shape == left.shape and bool(((x == left) | nowhere).all())


def _is_floating(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and argument.is_floating_point()


def _copies(arguments: Arguments) -> Arguments:
    """Fresh tensors, so that an attempt that works in place spoils nothing."""
    return tuple(
        copy_as_is(a.detach()) if isinstance(a, torch.Tensor) else a for a in arguments
    )


def copy_as_is(x: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """A copy with the same strides: `clone` would close the gaps of a slice."""
    steps = zip(x.shape, x.stride(), strict=True)
    extent = 1 + sum((size - 1) * stride for size, stride in steps)
    room = x.new_zeros(max(extent, 1), device=device)
    return room.as_strided(x.shape, x.stride()).copy_(x)


def _gradients(
    function: Callable[..., Any], arguments: Arguments
) -> list[torch.Tensor]:
    leaves = tuple(
        a.requires_grad_() if _is_floating(a) else a for a in _copies(arguments)
    )
    try:
        output = function(*leaves)
    except RuntimeError as error:
        if "in-place" not in str(error):
            raise
        raise ChangedInPlace("an input") from None
    several = output if isinstance(output, tuple) else (output,)
    smooth = [part for part in several if part.requires_grad]
    if not smooth:
        raise CheckFailed("an output that depends on its inputs", "no gradient at all")
    generator = torch.Generator().manual_seed(7)
    cotangents = [
        torch.randn(part.shape, generator=generator, dtype=torch.float32).to(part)
        for part in smooth
    ]
    torch.autograd.backward(smooth, cotangents)
    return [
        torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for leaf in leaves
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad
    ]


def _outcome(function: Callable[..., Any], arguments: Arguments) -> Any:
    try:
        return function(*_copies(arguments))
    except CheckFailed as failure:
        # Without the quoted line: the same mistake can be written in many ways.
        return failure.came.partition("? [")[0]
    except Exception as error:
        return repr(error)


def _alike(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if mine.shape != theirs.shape:
            return False
        a, b = mine.detach().double(), theirs.detach().double()
        return torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return len(mine) == len(theirs) and all(map(_alike, mine, theirs))
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        # A bool counts as a number: 1, 1.0 and True are the same answer.
        both_nan = math.isnan(mine) and math.isnan(theirs)
        return both_nan or math.isclose(mine, theirs, rel_tol=1e-4)
    return type(mine) is type(theirs) and bool(mine == theirs)
