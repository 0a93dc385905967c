"""Practice ranks whose collectives are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from labsupport.exercise.practice import on_ranks


class Call(NamedTuple):
    """A collective that a rank took part in.

    Attributes:
        name: of the function of `dist`.
        numbers: how many the rank handed in.
    """

    name: str
    numbers: int

    def __str__(self) -> str:
        return f"{self.name} of {self.numbers} numbers"


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
    """Call a function on practice ranks.

    Args:
        function: takes one entry of each argument, then `dist`.
        arguments: each has one entry for every rank.

    Returns:
        Each rank's result, and the calls of rank 0: all ranks make the same ones.

    Raises:
        CheckFailed: what `on_ranks` refuses.
    """
    counted: dict[int, CountedDist] = {}

    def work(*own: Any) -> Any:
        *entries, dist = own
        counted[dist.get_rank()] = CountedDist(dist)
        return function(*entries, counted[dist.get_rank()])

    results = on_ranks(work, *arguments)
    return results, counted[0].calls


def in_words(calls: Sequence[Call]) -> str:
    """ "2 messages: all_reduce of 6 numbers, all_reduce of 6 numbers"."""
    if not calls:
        return "no message"
    plural = "s" * (len(calls) != 1)
    return f"{len(calls)} message{plural}: {', '.join(map(str, calls))}"
