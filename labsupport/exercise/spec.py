"""What an exercise is, apart from the reader's attempt at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class WrongAnswer:
    """A mistake that readers make, so that a check can name it.

    Attributes:
        name: a short handle, used by the tests of the checks.
        function: computes what that mistake computes.
        cause: one sentence: what the mistake is.
        hint: the number of the hint that puts it right (from 1).
    """

    name: str
    function: Callable[..., Any]
    cause: str
    hint: int


@dataclass(frozen=True)
class Exercise:
    """One exercise: our solution, the checks in order, hints, known mistakes.

    Attributes:
        id: "0.1", as in the notebook's header.
        title: what is to be written.
        minutes: how long it takes someone who sees it for the first time.
        difficulty: 1 to 3.
        ours: the solution that later cells use until the reader's passes. It
            has to be importable, since `%%torchrun` cells import it on ranks.
        checks: pairs of a name and a function of the candidate that raises
            `CheckFailed`; run in order, the first failure ends the check.
        probes: argument tuples on which a candidate is compared with the
            wrong answers, to find the likely cause of a failure.
        wrong: the mistakes known so far.
        hints: from a nudge to nearly the answer.
        otherwise: check -> likely cause and number of a hint, where that check fails
            and no known mistake explains it. Without an entry that is hint 1.
        launch: for an exercise that is a Triton kernel: `launch(kernel,
            *arguments)` runs it and returns the output. Checks and wrong answers
            then see the launched kernel as an ordinary function.
        group: for a function that every rank of a group calls: `group(function,
            *arguments)` runs it on practice ranks and returns what came of it,
            for checks and wrong answers. The notebook calls the function itself.
        reference: for a kernel: what it computes, in plain PyTorch. It stands
            in where Triton is not installed.
    """

    id: str
    title: str
    minutes: int
    difficulty: int
    ours: Callable[..., Any]
    checks: Sequence[tuple[str, Callable[[Callable[..., Any]], None]]]
    probes: Callable[[], Sequence[Arguments]]
    wrong: Sequence[WrongAnswer]
    hints: Sequence[str]
    otherwise: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    launch: Callable[..., Any] | None = None
    group: Callable[..., Any] | None = None
    reference: Callable[..., Any] | None = None

    def as_function(self, candidate: Callable[..., Any]) -> Callable[..., Any]:
        """The candidate as a function of the probes' arguments."""
        run = self.launch or self.group
        return candidate if run is None else partial(run, candidate)
