"""Pipeline schedules: who computes what, when, and who waits.

A model is cut into stages that live on S devices, and a batch into M microbatches. A
microbatch goes forward through all stages, then backward through all. What a device
does is a list of steps in a fixed order; a step begins when the device is free and
what it needs has come from its neighbours. Sending takes no time here.

Actions, with the time that one takes for a device's share of the layers:

    F   forward
    B   backward, B = I + W
    I   the gradient of the stage's input, which the stage before waits for
    W   the gradient of the stage's weights, which nobody waits for
    FB  a forward of one microbatch and a backward of another, side by side

What a device waits in a step of the optimizer, its bubble; how many microbatches'
activations it holds at most, where one device's share of the layers is the unit; and
how many copies of the weights there are:

    schedule       bubble              held            copies   source
    GPipe          (S-1)(F+B)          M               1        1811.06965
    1F1B           (S-1)(F+B)          S               1        2104.04473, 2.2.1
    interleaved    (S-1)(F+B)/v        S + (S-1)/v     1        2104.04473, 2.2.2
    zero bubble    (S-1)(F+I-W)        S               1        2401.10241, ZB-H1
    DualPipe       (S/2-1)(FB+B-3W)    S+1             2        2412.19437, table 2
    DualPipeV      (S-1)(FB+B-3W)/2    S + 1/2         1        deepseek-ai/DualPipe

In "interleaved" a device has v stages, each 1/v of its layers. In DualPipe microbatches
enter at both ends, so each device holds two stages, and the weights exist twice. In
DualPipeV each device has two stages of half the layers, and the way through them is a
V: down all devices, and up again. The table of the DualPipe paper counts stages, `PP`:
that is S here, and 2 S for DualPipeV, where a stage takes half as long.

`simulate` plays a schedule with any times; `closed_bubble` has the formulas. The first
three hold for all times. The zero bubble's holds for W <= I, and those of DualPipe for
F = I >= W, on the devices that wait longest; elsewhere only the simulation is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from labsupport.errors import LabError


class Action(NamedTuple):
    """One thing that a device computes.

    Attributes:
        kind: "F", "B", "I" or "W".
        stage: of the microbatch's own way, from 0.
        microbatch: from 0.
    """

    kind: str
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch} of stage {self.stage}"


Step = tuple[Action, ...]
"""One action, or two side by side."""


@dataclass(frozen=True)
class Durations:
    """How long each action takes for all the layers of one device.

    Attributes:
        F, I, W: see the module.
        FB: a forward and a backward side by side; None for F + B, as one after
            the other.

    Raises:
        LabError: a time below 0, or F or B of 0.
    """

    F: float = 1.0
    I: float = 1.0  # noqa: E741 (the literature calls it so, or B)
    W: float = 1.0
    FB: float | None = None

    def __post_init__(self) -> None:
        times = (self.F, self.I, self.W, self.pair)
        if min(times) < 0 or self.F <= 0 or self.B <= 0:
            raise LabError(
                f"Durations F={self.F}, I={self.I}, W={self.W}, FB={self.FB}: use "
                "times of at least 0, and F and I + W above 0."
            )

    @property
    def B(self) -> float:
        """The whole backward."""
        return self.I + self.W

    @property
    def pair(self) -> float:
        """FB, with the default worked out."""
        return self.F + self.B if self.FB is None else self.FB

    def of(self, step: Step, share: Fraction) -> float:
        """How long a step takes in a stage with this share of a device's layers."""
        whole = (
            self.pair if len(step) == 2 else float(getattr(self, step[0].kind))
        )
        return float(share) * whole


@dataclass(frozen=True)
class Schedule:
    """What every device does, in order.

    Attributes:
        name: as in SCHEDULES.
        orders: the steps of each device.
        stages: how many a microbatch passes.
        microbatches: M.
        share: of a device's layers in one stage, 1 or less.
        copies: of the weights, over all devices.
    """

    name: str
    orders: tuple[tuple[Step, ...], ...]
    stages: int
    microbatches: int
    share: Fraction = Fraction(1)
    copies: int = 1

    @property
    def devices(self) -> int:
        """S."""
        return len(self.orders)


class Span(NamedTuple):
    """A step with its device and its time."""

    step: Step
    device: int
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """How a schedule went.

    Attributes:
        schedule: which.
        spans: all steps, by device and time.
    """

    schedule: Schedule
    spans: tuple[Span, ...]

    @property
    def makespan(self) -> float:
        """When the last device is done; the first one begins at 0."""
        return max(span.end for span in self.spans)

    def busy(self, device: int) -> float:
        """How long a device computes."""
        return sum(s.end - s.begin for s in self.spans if s.device == device)

    def bubble(self, device: int) -> float:
        """How long a device waits."""
        return self.makespan - self.busy(device)

    @property
    def longest_bubble(self) -> float:
        """How long the device waits that waits longest."""
        return max(map(self.bubble, range(self.schedule.devices)))

    @property
    def bubble_share(self) -> float:
        """The mean share of the time in which a device waits."""
        S = self.schedule.devices
        return sum(map(self.bubble, range(S))) / (S * self.makespan)

    def peak(self, device: int) -> Fraction:
        """Activations that a device holds at most; one microbatch in all of its
        layers is 1. They stay from the begin of F to the end of B or W.
        """
        held = most = Fraction(0)
        for span in self.spans:
            if span.device == device:
                held += sum(a.kind == "F" for a in span.step)
                most = max(most, held)
                held -= sum(a.kind in ("B", "W") for a in span.step)
        return most * self.schedule.share

    @property
    def peaks(self) -> list[Fraction]:
        """Of every device."""
        return [self.peak(device) for device in range(self.schedule.devices)]


GIVES = {"F": ("y",), "B": ("dx", "dw"), "I": ("dx",), "W": ("dw",)}
"""What an action makes: an output, an input's gradient, the weights' gradients."""

Made = tuple[str, int, int]
"""What was made, of which stage and microbatch."""


def needs(action: Action, stages: int) -> list[Made]:
    """What has to be there before an action can begin."""
    kind, stage, microbatch = action
    if kind == "F":
        return [("y", stage - 1, microbatch)] if stage else []
    if kind == "W":
        return [("dx", stage, microbatch)]
    found = [("y", stage, microbatch)]
    if stage < stages - 1:
        found.append(("dx", stage + 1, microbatch))
    return found


def simulate(
    schedule: Schedule, durations: Durations | None = None
) -> Timeline:
    """Play a schedule.

    Args:
        schedule: any orders, right or wrong.
        durations: 1 for each of F, I and W if absent.

    Raises:
        LabError: a deadlock; the message says who waits for what.
    """
    durations = durations or Durations()
    when: dict[Made, float] = {}
    free = [0.0] * schedule.devices
    next_step = [0] * schedule.devices
    spans: list[Span] = []
    moved = True
    while moved:
        moved = False
        for device, order in enumerate(schedule.orders):
            while next_step[device] < len(order):
                step = order[next_step[device]]
                wanted = [n for a in step for n in needs(a, schedule.stages)]
                if not all(made in when for made in wanted):
                    break
                begin = max([free[device], *(when[made] for made in wanted)])
                end = begin + durations.of(step, schedule.share)
                for kind, stage, microbatch in step:
                    for made in GIVES[kind]:
                        when[made, stage, microbatch] = end
                spans.append(Span(step, device, begin, end))
                free[device] = end
                next_step[device] += 1
                moved = True
    waiting = [
        f"device {device} waits to begin {' and '.join(map(str, order[at]))}"
        for device, (order, at) in enumerate(
            zip(schedule.orders, next_step, strict=True)
        )
        if at < len(order)
    ]
    if waiting:
        raise LabError(f"A deadlock: {', '.join(waiting)}.")
    spans.sort(key=lambda span: (span.device, span.begin, span.end))
    return Timeline(schedule, tuple(spans))


# --- the schedules ------------------------------------------------------------


def require_enough(S: int, M: int, least: int, name: str) -> None:
    """Raises a LabError unless there are devices, and at least `least` microbatches."""
    if S < 1:
        raise LabError(f"{S} devices: use at least 1.")
    if least > M:
        raise LabError(
            f"{M} microbatches on {S} devices: {name} needs at least {least}. With "
            "fewer, a device has nothing to do while others wait for it."
        )


def alone(actions: Sequence[Action]) -> tuple[Step, ...]:
    """One action a step."""
    return tuple((action,) for action in actions)


def gpipe(S: int, M: int) -> Schedule:
    """All forwards, then all backwards.

    Raises:
        LabError: fewer microbatches than devices.
    """
    require_enough(S, M, S, "a pipeline")
    orders = [
        alone([Action(kind, s, i) for kind in "FB" for i in range(M)])
        for s in range(S)
    ]
    return Schedule("GPipe", tuple(orders), S, M)


def one_f_one_b(S: int, M: int) -> Schedule:
    """S - 1 - s forwards, then one forward and one backward in turn.

    Raises:
        LabError: fewer microbatches than devices.
    """
    require_enough(S, M, S, "a pipeline")
    orders = []
    for s in range(S):
        ahead = S - 1 - s
        actions = [Action("F", s, i) for i in range(ahead)]
        for i in range(M):
            if ahead + i < M:
                actions.append(Action("F", s, ahead + i))
            actions.append(Action("B", s, i))
        orders.append(alone(actions))
    return Schedule("1F1B", tuple(orders), S, M)


def interleaved(S: int, M: int, v: int = 2) -> Schedule:
    """1F1B over v stages a device; device s has the stages s, s + S, s + 2 S, ...

    Microbatches go in groups of S: a group passes all of a device's stages before
    the next one enters.

    Raises:
        LabError: M is no multiple of S, or v is below 1.
    """
    require_enough(S, M, S, "a pipeline")
    if v < 1 or M % S:
        raise LabError(
            f"{M} microbatches on {S} devices with {v} stages each: interleaving needs "
            f"at least 1 stage, and a multiple of {S} microbatches."
        )

    def action(kind: str, s: int, number: int) -> Action:
        """The device's forward or backward of that number."""
        group, within = divmod(number, S * v)
        chunk, i = divmod(within, S)
        if kind == "B":
            chunk = v - 1 - chunk
        return Action(kind, s + S * chunk, S * group + i)

    orders = []
    for s in range(S):
        ahead = min(M * v, 2 * (S - 1 - s) + (v - 1) * S)
        actions = [action("F", s, n) for n in range(ahead)]
        for n in range(M * v):
            if ahead + n < M * v:
                actions.append(action("F", s, ahead + n))
            actions.append(action("B", s, n))
        orders.append(alone(actions))
    return Schedule("interleaved", tuple(orders), S * v, M, Fraction(1, v))


def zero_bubble(S: int, M: int) -> Schedule:
    """ZB-H1: 1F1B whose backward is cut in two, with W put off where others wait.

    Stage s puts its W off by s microbatches, so all stages hold as much as the first
    one of 1F1B does, and what was put off fills the wait at the end.

    Raises:
        LabError: fewer microbatches than devices.
    """
    require_enough(S, M, S, "a pipeline")
    orders = []
    for s in range(S):
        ahead = S - 1 - s
        actions = [Action("F", s, i) for i in range(ahead)]
        for i in range(M):
            if ahead + i < M:
                actions.append(Action("F", s, ahead + i))
            actions.append(Action("I", s, i))
            if i >= s:
                actions.append(Action("W", s, i - s))
        actions += [Action("W", s, i) for i in range(M - s, M)]
        orders.append(alone(actions))
    return Schedule("zero bubble", tuple(orders), S, M)


def both_ends(far: int, near: int, n: int) -> Iterator[tuple[str, ...]]:
    """The order of DualPipe for a device between one end and the middle.

    Two streams of microbatches pass the device: "0" comes from the end that is nearer,
    "1" from the other one. Their order is the eight parts of
    github.com/deepseek-ai/DualPipe.

    Args:
        far: devices between this one and the middle.
        near: devices up to this one, itself included.
        n: microbatches of each stream.
    """
    middle = far == 0
    yield from [("F0",)] * (2 * far)
    yield from [("F0",), ("F1",)] * near
    yield from [("I1",), ("W",), ("F1",)] * far
    for turn in range(n - 2 * far - near):
        if middle and turn == 0:  # nothing to gain here by doing both at once
            yield from [("F0",), ("B1",)]
        else:
            yield ("F0", "B1")
        yield ("F1", "B0")
    yield from [("B1",), ("F1", "B0")] * far
    # The first half as whole backwards, of the second half inputs only.
    last = [stream for _ in range(near) for stream in "10"]
    yield from [("B" + stream,) for stream in last[:near]]
    yield from [("I" + stream,) for stream in last[near:]]
    yield from [("W",), ("I0",)] * far
    yield from [("W",)] * near


def numbered(
    words: Iterator[tuple[str, ...]],
    stage_of: tuple[int, int],
    first: tuple[int, int],
) -> tuple[Step, ...]:
    """Give each action its stage and its microbatch.

    Args:
        words: such as ("F0", "B1"): kind and stream. A "W" belongs to the oldest "I"
            that has none yet.
        stage_of: the device's stage on the way of either stream.
        first: the first microbatch of either stream.
    """
    forward, backward = list(first), list(first)
    put_off: list[Action] = []
    steps = []
    for step in words:
        actions = []
        for word in step:
            if word == "W":
                actions.append(put_off.pop(0)._replace(kind="W"))
                continue
            kind, stream = word[0], int(word[1])
            count = forward if kind == "F" else backward
            action = Action(kind, stage_of[stream], count[stream])
            count[stream] += 1
            actions.append(action)
            if kind == "I":
                put_off.append(action)
        steps.append(tuple(actions))
    return tuple(steps)


def dual_pipe(S: int, M: int) -> Schedule:
    """Half of the microbatches enter at the first device, half at the last one.

    Raises:
        LabError: an odd number of devices or microbatches, or M below 2 S.
    """
    if S < 2 or S % 2 or M % 2:
        raise LabError(
            f"{M} microbatches on {S} devices: DualPipe needs an even number of both."
        )
    require_enough(S, M, 2 * S, "DualPipe")
    orders = []
    for device in range(S):
        near = min(device, S - 1 - device) + 1
        words = both_ends(S // 2 - near, near, M // 2)
        # Microbatches from M / 2 on go the other way, and their stages count from
        # the other end.
        ways = ((device, 0), (S - 1 - device, M // 2))
        mine, other = ways if device < S // 2 else ways[::-1]
        stages, first = (mine[0], other[0]), (mine[1], other[1])
        orders.append(numbered(words, stages, first))
    return Schedule("DualPipe", tuple(orders), S, M, copies=2)


def dual_pipe_v(S: int, M: int) -> Schedule:
    """Down all devices and up again: device s has the stages s and 2 S - 1 - s.

    Raises:
        LabError: M below 2 S.
    """
    require_enough(S, M, 2 * S, "DualPipeV")
    orders = []
    for device in range(S):
        words = both_ends(S - 1 - device, device + 1, M)
        orders.append(numbered(words, (device, 2 * S - 1 - device), (0, 0)))
    return Schedule("DualPipeV", tuple(orders), 2 * S, M, Fraction(1, 2))


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "GPipe": gpipe,
    "1F1B": one_f_one_b,
    "interleaved": interleaved,
    "zero bubble": zero_bubble,
    "DualPipe": dual_pipe,
    "DualPipeV": dual_pipe_v,
}
"""By name: (devices, microbatches) -> schedule. Interleaved has two stages a device."""


def closed_bubble(name: str, S: Any, t: Any, v: int = 2) -> Any:
    """How long a device waits, by the formula of the literature.

    Args:
        name: of SCHEDULES.
        S: devices; a number or an array.
        t: Durations, or anything with F, I, W, B and `pair`, as numbers or arrays.
        v: stages a device, for "interleaved".

    Raises:
        LabError: an unknown schedule.
    """
    formulas = {
        "GPipe": lambda: (S - 1) * (t.F + t.B),
        "1F1B": lambda: (S - 1) * (t.F + t.B),
        "interleaved": lambda: (S - 1) * (t.F + t.B) / v,
        "zero bubble": lambda: (S - 1) * (t.F + t.I - t.W),
        "DualPipe": lambda: (S / 2 - 1) * (t.pair + t.B - 3 * t.W),
        "DualPipeV": lambda: (S - 1) * (t.pair + t.B - 3 * t.W) / 2,
    }
    if name not in formulas:
        raise LabError(f"Schedule {name!r}: use one of {', '.join(formulas)}.")
    return formulas[name]()
