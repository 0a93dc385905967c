"""How many directions each matrix gets, when all together may send so many bytes.

A direction of a matrix costs M + N numbers. The budget is what r directions for every
matrix would cost. Whatever is given to one matrix is taken from others, and none gets
less than half of its even share or more than twice as much: without these bounds
directions pile up on one or two matrices that then carry ever more signal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labsupport.errors import LabError


@dataclass(frozen=True)
class Demand:
    """What one parameter asks for.

    Attributes:
        name: of the parameter.
        cost: numbers to send for one direction.
        even: its directions if all are treated alike.
        most: directions beyond which it would be cheaper to send it whole.
        signal: what each of its directions carries now, the strongest first.
    """

    name: str
    cost: int
    even: int
    most: int
    signal: Sequence[float] = ()

    @property
    def least_allowed(self) -> int:
        return max(1, self.even // 2)

    @property
    def most_allowed(self) -> int:
        return min(2 * self.even, self.most)

    def worth(self, r: int) -> float:
        """Signal that direction number r, from 0, carries for each number sent.

        A direction that is not there yet counts as much as the last one that is.
        """
        if not self.signal:
            return 0.0
        return self.signal[min(r, len(self.signal) - 1)] / self.cost


def allocate_by_signal(demands: Sequence[Demand]) -> dict[str, int]:
    """Directions by parameter: the next one goes where a byte carries the most."""
    return _fill(demands, lambda demand, r: -demand.worth(r))


def allocate_at_random(demands: Sequence[Demand], seed: int) -> dict[str, int]:
    """The control: the same bounds and bytes, but the next one goes anywhere."""
    dice = random.Random(seed)
    return _fill(demands, lambda demand, r: dice.random())


def _fill(
    demands: Sequence[Demand], order: Callable[[Demand, int], float]
) -> dict[str, int]:
    """Give each the least it may have, then single directions by `order`, the lowest
    first, for as long as the budget allows."""
    budget = sum(demand.even * demand.cost for demand in demands)
    given = {demand.name: demand.least_allowed for demand in demands}
    left = budget - sum(demand.cost * demand.least_allowed for demand in demands)
    while True:
        open_ones = [
            demand
            for demand in demands
            if given[demand.name] < demand.most_allowed and demand.cost <= left
        ]
        if not open_ones:
            return given
        best = min(open_ones, key=lambda d: (order(d, given[d.name]), d.name))
        given[best.name] += 1
        left -= best.cost


class BudgetController:
    """Turns measured bytes into a number of directions: an integral controller.

        x <- x + gain * (target - measured) / target * x       r = round(x)

    It needs no model of what a direction costs. What it sees is the counter, with
    vectors, headers and all.

    Attributes:
        x: the directions it would like, not rounded.

    Args:
        target: bytes a step.
        r: where it begins.
        gain: how fast it moves; 1 corrects in one step what is proportional to r.
        most: the most directions it may ask for.

    Raises:
        LabError: a target, a gain or a start that is not above 0.
    """

    def __init__(
        self, target: float, r: int = 4, gain: float = 0.5, most: int = 64
    ) -> None:
        if not target > 0:
            raise LabError(
                f"a budget of {target:g} bytes a step lets nothing through: use one "
                "above 0."
            )
        if not gain > 0 or r < 1:
            raise LabError(f"gain={gain:g}, r={r}: use a gain above 0 and r >= 1.")
        self.target, self.gain, self.most, self.x = target, gain, most, float(r)

    def update(self, measured: float) -> int:
        """The number of directions for the next steps, after so many bytes a step."""
        self.x *= 1 + self.gain * (self.target - measured) / self.target
        self.x = min(max(self.x, 1.0), float(self.most))
        return round(self.x)
