"""Practice ranks whose collectives are counted, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from labsupport.exercise.check import CheckFailed
from labsupport.exercise.practice.group import on_ranks


class Call(NamedTuple):
    """A collective that a rank took part in.

    Attributes:
        name: of the function of `dist`.
        numbers: how many the rank handed in.
    """

    name: str
    numbers: int


INPUT = {
    "all_reduce": 0,
    "all_gather_into_tensor": 1,
    "all_gather_single": 1,
    "reduce_scatter_tensor": 1,
    "reduce_scatter_single": 1,
    "all_to_all_single": 1,
}
"""Which argument of a collective is handed in."""


class CountedDist:
    """A practice rank's `dist` that notes every collective.

    Attributes:
        calls: of this rank, in order.
    """

    def __init__(self, dist: Any) -> None:
        self._dist = dist
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._dist, name)
        if name not in INPUT:
            return value

        def counted(*arguments: Tensor, **named: Tensor) -> None:
            given = [*arguments, *named.values()]
            self.calls.append(Call(name, given[INPUT[name]].numel()))
            value(*arguments, **named)

        return counted


def on_counted_ranks(
    function: Callable[..., Any], *arguments: Sequence[Any] | Tensor
) -> tuple[list[Any], list[Call]]:
    """Call a function on practice ranks, and count its messages.

    Args:
        function: takes one entry of each argument, then `dist`.
        arguments: each has one entry for every rank.

    Returns:
        Each rank's result, and the calls of rank 0: all ranks make the same ones.

    Raises:
        CheckFailed: ranks do not send the same messages in the same order, or what
            `on_ranks` refuses.
    """
    counted: dict[int, CountedDist] = {}

    def work(*own: Any) -> Any:
        *entries, dist = own
        counted[dist.get_rank()] = CountedDist(dist)
        return function(*entries, counted[dist.get_rank()])

    try:
        results = on_ranks(work, *arguments)
    except Exception as error:
        # Ranks whose messages differ end in some error. What differs says more.
        stuck = isinstance(error, CheckFailed)
        _expect_same_calls([d.calls for d in counted.values()], stuck)
        raise
    return results, counted[0].calls


def _expect_same_calls(calls: list[list[Call]], count_too: bool) -> None:
    """Fail if ranks sent different messages.

    Args:
        calls: of each rank.
        count_too: whether their number matters, too. Ranks that an error stopped
            early have sent fewer.

    Raises:
        CheckFailed: they did.
    """
    for rank, others in enumerate(calls):
        pairs = zip(calls[0], others, strict=False)
        counts_differ = count_too and len(others) != len(calls[0])
        if counts_differ or any(a != b for a, b in pairs):
            raise CheckFailed(
                "the same messages in the same order on all ranks",
                f"{calls_in_words(calls[0])} on rank 0, "
                f"{calls_in_words(others)} on rank {rank}",
            )


def calls_in_words(calls: Sequence[Call]) -> str:
    """ "messages of size 3 and 4"; with their names where not all are all_reduces."""
    if not calls:
        return "no message"
    if {call.name for call in calls} == {"all_reduce"}:
        return f"messages of size {listed([call.numbers for call in calls])}"
    return listed([f"{call.name} of {call.numbers} numbers" for call in calls])


def listed(things: Sequence[Any]) -> str:
    """3, 4 and 5."""
    *first, last = map(str, things)
    return f"{', '.join(first)} and {last}" if first else last
