"""From a record to a verdict, by a rule written before the measurement.

The effect is computed once per seed, from the method's and the baseline's rows
with that seed (their mean, where there are several: a grid of settings). Its mean
and 95 % confidence interval (Student's t over seeds) are then held against the
rule's two bounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

VerdictName = Literal[
    "reproduced at this scale",
    "direction reproduced, size not",
    "not reproduced",
    "inconclusive",
]

# Two-sided 95 % quantiles of Student's t for 2 to 30 degrees of freedom.
_T95 = (
    *(4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201),
    *(2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080),
    *(2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Rule:
    """How a record decides about a claim.

    Attributes:
        experiment: "01/gain": the lab and the experiment's name.
        metric: the column that is compared.
        method: the arm that the claim is about.
        baseline: the arm it is held against.
        effect: "difference" (method - baseline), "ratio" (method / baseline) or
            "saving" (1 - method / baseline).
        claimed: the size of the effect that was claimed.
        null: the effect that would mean "nothing happened".
        reason: why these bounds, in one sentence.
    """

    experiment: str
    metric: str
    method: str
    baseline: str
    effect: Literal["difference", "ratio", "saving"]
    claimed: float
    null: float
    reason: str = ""

    def __post_init__(self) -> None:
        if self.effect not in ("difference", "ratio", "saving"):
            raise ValueError(f"unknown effect {self.effect!r}")
        if self.claimed == self.null:
            raise ValueError("claimed and null must differ")


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers it rests on.

    Attributes:
        verdict: one of the fixed names.
        mean, low, high: the effect and its 95 % confidence interval.
        seeds: how many seeds it rests on.
        detectable: the smallest distance from `null` that these seeds could
            have told apart from nothing (half the width of the interval).
    """

    verdict: VerdictName
    mean: float
    low: float
    high: float
    seeds: int
    detectable: float


def effects(rule: Rule, rows: Sequence[dict[str, Any]]) -> list[float]:
    """The effect for every seed that both arms were run with.

    A row whose metric is None (a training that failed before it could be
    measured) is left out.
    """
    by_arm: dict[str, dict[int, list[float]]] = {rule.method: {}, rule.baseline: {}}
    for row in rows:
        if row["arm"] in by_arm and row[rule.metric] is not None:
            of_seed = by_arm[row["arm"]].setdefault(row["seed"], [])
            of_seed.append(float(row[rule.metric]))
    method, baseline = by_arm[rule.method], by_arm[rule.baseline]
    found = []
    for seed in sorted(method.keys() & baseline.keys()):
        m, b = statistics.fmean(method[seed]), statistics.fmean(baseline[seed])
        if rule.effect == "difference":
            found.append(m - b)
        else:
            found.append(m / b if rule.effect == "ratio" else 1 - m / b)
    return found


def confidence(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, lower and upper end of the 95 % interval, for 3 to 31 values."""
    mean = statistics.fmean(values)
    half = _T95[len(values) - 3] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def judge(rule: Rule, rows: Sequence[dict[str, Any]]) -> Judgement:
    """Hold a record against a rule.

    "Reproduced" needs the whole interval beyond `null` on the claimed side and
    its far end at or beyond `claimed`; "direction" only the first; "not
    reproduced" means the claimed size lies outside the interval and the
    direction is not shown; all else is inconclusive.

    Raises:
        ValueError: fewer than 3 or more than 31 seeds common to both arms.
    """
    sizes = effects(rule, rows)
    if not 3 <= len(sizes) <= 31:
        raise ValueError(f"{len(sizes)} common seeds: a verdict needs 3 to 31")
    mean, low, high = confidence(sizes)
    # Turn the claim so that "more" always means "as claimed".
    sign = 1.0 if rule.claimed > rule.null else -1.0
    near, far = sorted((sign * low, sign * high))
    shown = near > sign * rule.null
    reaches = far >= sign * rule.claimed
    verdict: VerdictName
    if shown and reaches:
        verdict = "reproduced at this scale"
    elif shown:
        verdict = "direction reproduced, size not"
    elif not reaches:
        verdict = "not reproduced"
    else:
        verdict = "inconclusive"
    return Judgement(verdict, mean, low, high, len(sizes), (high - low) / 2)
