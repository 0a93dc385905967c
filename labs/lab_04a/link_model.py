"""A model of a step's time: what compression can save, and where.

    t     = compute + encode + max(0, comm - hidden)
    comm  = steps x alpha + sent / beta

    compute   forward, backward and optimizer of one step
    encode    what a method computes to send less, there and back
    hidden    the part of comm for which the backward leaves time: h x backward
    alpha     latency: seconds from the start of a message to its arrival
    beta      bandwidth: bytes that a worker's link sends in a second
    steps     messages that follow one another; sent: bytes, both for one worker

With f the exposed share of a dense step, its max(0, comm - hidden) / t, and a method
that sends a c-th of the bytes,

    saved share of the time = f (1 - 1/c) - encode / t

where nothing hides and alpha is 0. Where something hides it is more than that, as what
is left of comm hides first. It is never more than f: whoever sends nothing saves f.

Both counts are those of ring algorithms (labsupport/distributed/collectives.py). With
many workers real libraries send small messages along trees, whose steps grow with
log W: there the model is too gloomy about alpha. It says nothing of other jobs on the
same network, of slow workers, or of how many steps a method needs for the same loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from labsupport.distributed.collectives import RULES
from labsupport.errors import LabError

KINDS = ("all_reduce", "all_gather")


@dataclass(frozen=True)
class MethodCost:
    """What a method of fusing gradients needs in one step, the mean over steps.

    Attributes:
        name: as pictures call it.
        kind: the collective that carries the bytes.
        payload: bytes that one worker hands to collectives.
        messages: collectives.
        encode_s: seconds of work that a dense step does not have: compressing and
            decompressing, measured. 0 for dense itself.
        every: H of a method whose workers meet every H steps, else 1.

    Raises:
        LabError: an unknown kind, or a number that cannot be.
    """

    name: str
    kind: Literal["all_reduce", "all_gather"]
    payload: float
    messages: float
    encode_s: float
    every: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LabError(
                f"kind={self.kind!r}: choose all_reduce or all_gather."
            )
        for name in ("payload", "messages", "encode_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise LabError(
                    f"{name}={value:g}: use a finite number, 0 or more."
                )
        if self.every < 1:
            raise LabError(f"every={self.every}: use 1 step or more.")


@dataclass(frozen=True)
class Machine:
    """Workers and the link between them.

    Attributes:
        compute_s: seconds of forward, backward and optimizer of one step.
        backward_s: of these the backward.
        hidden_share: h, how much of the backward has communication beside it: 0 if
            it begins after the backward, 1 if all of it can hide.
        bandwidth: beta, bytes per second; math.inf for no limit.
        latency: alpha, seconds.
        W: workers.

    Raises:
        LabError: a number that cannot be.
    """

    compute_s: float
    backward_s: float
    hidden_share: float
    bandwidth: float
    latency: float
    W: int

    def __post_init__(self) -> None:
        if not 0 < self.compute_s < math.inf:
            raise LabError(
                f"compute_s={self.compute_s:g}: use a finite number above 0."
            )
        if not 0 <= self.backward_s <= self.compute_s:
            raise LabError(
                f"backward_s={self.backward_s:g}: it is a part of compute_s, "
                f"so use 0 to {self.compute_s:g}."
            )
        if not 0 <= self.hidden_share <= 1:
            raise LabError(f"hidden_share={self.hidden_share:g}: use 0 to 1.")
        if not self.bandwidth > 0:
            raise LabError(
                f"bandwidth={self.bandwidth:g}: use a number above 0."
            )
        if not 0 <= self.latency < math.inf:
            raise LabError(
                f"latency={self.latency:g}: use a finite number, 0 or more."
            )
        if self.W < 1:
            raise LabError(f"W={self.W}: use 1 worker or more.")


# --- a step --------------------------------------------------


def sent(method: MethodCost, W: int) -> float:
    """Bytes that one worker sends in a step, the mean over steps.

    With n the payload: 2 (W-1)/W n in an all-reduce, (W-1) n in an all-gather.
    """
    return RULES[method.kind].sent(method.payload, W, False)


def latency_steps(method: MethodCost, W: int) -> float:
    """Messages of a step that must follow one another, the mean over steps.

    Each collective takes 2 (W-1) as an all-reduce, W-1 as an all-gather.
    """
    return method.messages * RULES[method.kind].steps(W)


def waiting(method: MethodCost, machine: Machine) -> float:
    """Seconds of a step that go to latency, however fast the link."""
    return latency_steps(method, machine.W) * machine.latency


def communication(method: MethodCost, machine: Machine) -> float:
    """Seconds of communication in a step, hidden or not."""
    return (
        waiting(method, machine) + sent(method, machine.W) / machine.bandwidth
    )


def hidden(method: MethodCost, machine: Machine) -> float:
    """The most seconds of communication that the backward can hide.

    Workers that meet every H steps send weights, after the optimizer: then there is no
    backward beside it.
    """
    if method.every > 1:
        return 0.0
    return machine.hidden_share * machine.backward_s


def exposed(method: MethodCost, machine: Machine) -> float:
    """Seconds of a step in which a worker does nothing but wait."""
    return max(0.0, communication(method, machine) - hidden(method, machine))


def step_time(method: MethodCost, machine: Machine) -> float:
    """Seconds of a step, the mean over steps."""
    return machine.compute_s + method.encode_s + exposed(method, machine)


# --- two methods --------------------------------------------------


def exposed_share(dense: MethodCost, machine: Machine) -> float:
    """f, the share of a step that is exposed communication."""
    return exposed(dense, machine) / step_time(dense, machine)


def speedup(method: MethodCost, dense: MethodCost, machine: Machine) -> float:
    """How many steps a method makes in the time of a dense one."""
    return step_time(dense, machine) / step_time(method, machine)


def saving(method: MethodCost, dense: MethodCost, machine: Machine) -> float:
    """The share of a dense step's time that a method saves; below 0 it costs more."""
    return 1 - step_time(method, machine) / step_time(dense, machine)


def break_even(
    method: MethodCost,
    dense: MethodCost,
    machine: Machine,
    saved: float = 0.0,
) -> float | None:
    """The bandwidth below which a method saves more than the share `saved`.

    Both times are straight lines of 1/beta with a bend where communication begins to
    show. Beyond dense's bend, t <= (1 - saved) t_dense is two inequalities, one for a
    method that hides and one for a method that shows; the later one decides.

    Args:
        machine: its bandwidth does not matter.

    Returns:
        Bytes per second. None if there is no such edge: the method always saves that
        much, or it does not even on the slowest link.

    Raises:
        LabError: a share that is not from 0 to below 1.
    """
    if not 0 <= saved < 1:
        raise LabError(f"saved={saved:g}: use a share from 0 to below 1.")
    goal = 1 - saved
    slope, dense_slope = sent(method, machine.W), sent(dense, machine.W)
    if slope >= goal * dense_slope:
        return None
    # What of a step stays on an endless link: the lines' other number.
    work = machine.compute_s + method.encode_s
    shows = waiting(method, machine) - hidden(method, machine)
    dense_work = machine.compute_s + dense.encode_s
    dense_shows = waiting(dense, machine) - hidden(dense, machine)

    bend = -dense_shows / dense_slope
    # The first goes through the bend if a method costs no work of its own.
    if_hidden = bend + (work / goal - dense_work) / dense_slope
    if_shown = (work + shows - goal * (dense_work + dense_shows)) / (
        goal * dense_slope - slope
    )
    inverse = max(if_hidden, if_shown)
    if inverse <= 0 or inverse < bend:
        return None
    return 1 / inverse
