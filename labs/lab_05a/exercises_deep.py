"""The deep exercises of lab 05a, 5.4 to 5.6, and the mistakes they expect.

Letters: S stages, M microbatches, s a stage; P weights, N ranks.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from labs.lab_05a.schedules import (
    Action,
    Durations,
    Schedule,
    Timeline,
    alone,
    closed_bubble,
    simulate,
)
from labsupport.errors import LabError
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import show_values

Arguments = tuple[Any, ...]
Candidate = Callable[..., Any]
Actions = list[tuple[str, int]]

# --- 5.4 a backward in two halves -------------------------------------------------


def zero_bubble(s: int, S: int, M: int) -> Actions:
    """What stage s of S does when W is put off by s microbatches (ZB-H1)."""
    ahead = S - 1 - s
    actions = [("F", i) for i in range(ahead)]
    for i in range(M):
        if ahead + i < M:
            actions.append(("F", ahead + i))
        actions.append(("I", i))
        if i >= s:
            actions.append(("W", i - s))
    return actions + [("W", i) for i in range(M - s, M)]


def halves_probes() -> Sequence[Arguments]:
    return [(0, 4, 8), (2, 4, 8), (3, 4, 5), (1, 2, 4)]


SIZES = ((2, 3), (4, 8), (5, 7))
TIMES = (Durations(1.0, 1.0, 1.0), Durations(2.0, 3.0, 1.0))


def as_actions(value: Any) -> Actions:
    """The candidate's list.

    Raises:
        CheckFailed: it is something else.
    """
    asked = 'a list of pairs such as ("F", 0), ("I", 0) or ("W", 0)'
    if not isinstance(value, list):
        raise CheckFailed(asked, show_values(value))
    found = []
    for action in value:
        pair = isinstance(action, tuple | list) and len(action) == 2
        if not pair or action[0] not in ("F", "I", "W"):
            raise CheckFailed(asked, f"an entry {show_values(action)}")
        found.append((action[0], int(action[1])))
    return found


def short(actions: Actions) -> str:
    """F0 F1 I0 ..."""
    return " ".join(f"{kind}{i}" for kind, i in actions)


def halves_by_hand(candidate: Candidate) -> None:
    for s, wanted in (
        (0, "F0 F1 I0 W0 F2 I1 W1 I2 W2"),
        (1, "F0 I0 F1 I1 W0 F2 I2 W1 W2"),
    ):
        actions = as_actions(candidate(s, 2, 3))
        if short(actions) != wanted:
            asked = f"{wanted} on stage {s} of 2 with 3 microbatches"
            raise CheckFailed(asked, short(actions) or "an empty list")


def halves_complete(candidate: Candidate) -> None:
    for S, M in SIZES:
        for s in range(S):
            actions = as_actions(candidate(s, S, M))
            for kind in "FIW":
                mine = [i for k, i in actions if k == kind]
                if sorted(mine) != list(range(M)):
                    raise CheckFailed(
                        f"each {kind} from {kind}0 to {kind}{M - 1} once, on stage "
                        f"{s} of {S}",
                        short([(kind, i) for i in mine]) or "none",
                    )


def played(candidate: Candidate, S: int, M: int, times: Durations) -> Timeline:
    """The candidate's lists of all stages, played.

    Raises:
        CheckFailed: a deadlock.
    """
    orders = [
        alone([Action(k, s, i) for k, i in as_actions(candidate(s, S, M))])
        for s in range(S)
    ]
    try:
        return simulate(Schedule("yours", tuple(orders), S, M), times)
    except LabError as error:
        raise CheckFailed(
            f"{S} stages that all reach their end with {M} microbatches",
            str(error).replace("device", "stage").rstrip("."),
        ) from None


def halves_memory(candidate: Candidate) -> None:
    for S, M in SIZES:
        timeline = played(candidate, S, M, TIMES[0])
        most = max(timeline.peaks)
        if most > S:
            raise CheckFailed(
                f"at most {S} microbatches between F and W on any of {S} stages",
                f"{most} with {M} microbatches",
            )


def halves_time(candidate: Candidate) -> None:
    for S, M in SIZES:
        for t in TIMES:
            timeline = played(candidate, S, M, t)
            wanted = M * (t.F + t.B) + closed_bubble("zero bubble", S, t)
            if timeline.makespan > wanted + 1e-9:
                raise CheckFailed(
                    f"{S} stages done after {wanted:g} with {M} microbatches, F = "
                    f"{t.F:g}, I = {t.I:g}, W = {t.W:g}",
                    f"{timeline.makespan:g}",
                )


def _halves(  # type: ignore[no-untyped-def]
    late=lambda s, S, M: s, ahead=lambda s, S: S - 1 - s, swap=False, end=True
):
    def run(s, S, M):  # type: ignore[no-untyped-def]
        first, put_off = ahead(s, S), late(s, S, M)
        actions = [("F", i) for i in range(first)]
        for i in range(M):
            if first + i < M:
                actions.append(("F", first + i))
            pair = [("I", i)]
            if i >= put_off:
                pair.append(("W", i - put_off))
            actions += pair[::-1] if swap else pair
        left = range(max(0, M - put_off), M)
        return actions + [("W", i) for i in left] if end else actions

    return run


HALVES = Exercise(
    id="5.4",
    title="a backward in two halves",
    minutes=12,
    difficulty=2,
    ours=zero_bubble,
    checks=(
        ("by hand", halves_by_hand),
        ("every microbatch once", halves_complete),
        ("memory", halves_memory),
        ("time", halves_time),
    ),
    probes=halves_probes,
    wrong=(
        WrongAnswer(
            "nothing put off",
            _halves(late=lambda s, S, M: 0),
            "every W follows its I at once: the last stage then has nothing left for "
            "the time in which it waits.",
            1,
        ),
        WrongAnswer(
            "all put off",
            _halves(late=lambda s, S, M: M),
            "all W come at the end: nobody waits for them, but until then the "
            "activations of all microbatches are held.",
            1,
        ),
        WrongAnswer(
            "mirrored",
            _halves(late=lambda s, S, M: S - 1 - s),
            "the first stages put off the most. They hold the most microbatches "
            "already; the last stage has room, and it waits at the end.",
            2,
        ),
        WrongAnswer(
            "same for all",
            _halves(late=lambda s, S, M: S - 1),
            "all stages put off S - 1. The first one already holds S microbatches.",
            2,
        ),
        WrongAnswer(
            "W before I",
            _halves(swap=True),
            "within a turn W comes before I, so the stage before waits for longer than "
            "it has to.",
            1,
        ),
        WrongAnswer(
            "end forgotten",
            _halves(end=False),
            "what was put off is never done: the last s W's are missing.",
            3,
        ),
        WrongAnswer(
            "one ahead too many",
            _halves(ahead=lambda s, S: S - s),
            "one forward too many goes ahead, and with it one microbatch too many is "
            "held.",
            3,
        ),
    ),
    hints=(
        "Nobody waits for W, so it can be moved to where its stage would wait. But "
        "until W is done the activations stay.",
        "Stage s of 1F1B holds S - s microbatches, so it can put off s of its W's and "
        "hold no more than the first stage.",
        "As in 5.3, with I for B, and W's between. Stage 1 of 2 begins F0 I0 F1 I1 W0 "
        "F2 I2 W1. Behind all that stand the W's that are left.",
    ),
)

# --- 5.5 what ZeRO holds, what it sends -------------------------------------------


def zero_costs(P: int, N: int, stage: int) -> tuple[float, float]:
    """Bytes that each of N ranks holds, and numbers that it sends in a step.

    Mixed precision: 2 bytes a weight, 2 its gradient, 12 for Adam (a copy in float32,
    and two means). Source: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), figure 1
    and section 7.
    """
    ring = P * (N - 1) / N
    held = {
        0: 16 * P,
        1: 4 * P + 12 * P / N,
        2: 2 * P + 14 * P / N,
        3: 16 * P / N,
    }
    return float(held[stage]), (3 if stage == 3 else 2) * ring


def costs_probes() -> Sequence[Arguments]:
    return [(1000, 4, stage) for stage in range(4)] + [
        (6400, 16, stage) for stage in range(4)
    ]


def as_costs(value: Any) -> tuple[float, float]:
    """The candidate's two numbers.

    Raises:
        CheckFailed: it is something else.
    """
    pair = isinstance(value, tuple) and len(value) == 2
    if not pair or not all(isinstance(x, int | float) for x in value):
        asked = "two numbers, bytes and numbers sent"
        raise CheckFailed(asked, show_values(value))
    return float(value[0]), float(value[1])


def expect_costs(candidate: Candidate, which: int, what: str) -> None:
    for P, N, stage in costs_probes():
        came = as_costs(candidate(P, N, stage))[which]
        wanted = zero_costs(P, N, stage)[which]
        if not math.isclose(came, wanted, rel_tol=1e-6):
            raise CheckFailed(
                f"{wanted:,.0f} {what} with {P} weights, {N} ranks, stage {stage}",
                f"{came:,.0f}",
            )


def costs_by_hand(candidate: Candidate) -> None:
    """7.5 billion weights on 64 ranks, the paper's own example: figure 1."""
    P, N = 7_500_000_000, 64
    for stage, wanted in ((0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)):
        came = as_costs(candidate(P, N, stage))[0] / 1e9
        if abs(came - wanted) > 0.06:
            asked = f"{wanted} GB in stage {stage} for 7.5 billion weights on 64 ranks"
            raise CheckFailed(asked, f"{came:.1f} GB")


def costs_bytes(candidate: Candidate) -> None:
    expect_costs(candidate, 0, "bytes")


def costs_sent(candidate: Candidate) -> None:
    expect_costs(candidate, 1, "numbers sent")


def costs_one_rank(candidate: Candidate) -> None:
    for stage in range(4):
        held, sent = as_costs(candidate(1000, 1, stage))
        if not math.isclose(held, 16_000) or sent:
            asked = f"16,000 bytes and nothing sent with 1 rank, stage {stage}"
            raise CheckFailed(
                asked, f"{held:,.0f} bytes and {sent:,.0f} numbers"
            )


def _costs(
    weight=2, gradient=2, adam=12, cut=(1, 2, 3), sent=(2, 2, 2, 3), ring=True
):  # type: ignore[no-untyped-def]
    """cut: from which stage on Adam, gradients and weights are cut."""

    def run(P, N, stage):  # type: ignore[no-untyped-def]
        parts = zip((adam, gradient, weight), cut, strict=True)
        held = sum(b * P / (N if stage >= at else 1) for b, at in parts)
        return held, sent[stage] * P * ((N - 1) / N if ring else 1)

    return run


COSTS = Exercise(
    id="5.5",
    title="what ZeRO holds and sends",
    minutes=8,
    difficulty=1,
    ours=zero_costs,
    checks=(
        ("by hand", costs_by_hand),
        ("bytes", costs_bytes),
        ("numbers sent", costs_sent),
        ("one rank", costs_one_rank),
    ),
    probes=costs_probes,
    wrong=(
        WrongAnswer(
            "no copy in float32",
            _costs(adam=8),
            "Adam has 8 bytes a weight: the copy of the weight in float32, 4 more, is "
            "missing.",
            1,
        ),
        WrongAnswer(
            "all in float32",
            _costs(weight=4, gradient=4, adam=8),
            "weights and gradients have 4 bytes each. In mixed precision they have 2, "
            "and Adam has 12.",
            1,
        ),
        WrongAnswer(
            "gradients cut at stage 1",
            _costs(cut=(1, 1, 3)),
            "gradients are cut from stage 1 on. Stage 1 cuts Adam's part alone.",
            2,
        ),
        WrongAnswer(
            "weights cut at stage 2",
            _costs(cut=(1, 2, 2)),
            "weights are cut from stage 2 on. That is stage 3.",
            2,
        ),
        WrongAnswer(
            "stage 3 sends no more",
            _costs(sent=(2, 2, 2, 2)),
            "stage 3 sends more: it gathers the weights twice, forward and backward.",
            3,
        ),
        WrongAnswer(
            "stage 3 sends twice as much",
            _costs(sent=(2, 2, 2, 4)),
            "stage 3 gathers the weights twice and scatters the gradients once: three "
            "passes around the ring, not four.",
            3,
        ),
        WrongAnswer(
            "own part sent as well",
            _costs(ring=False),
            "a rank does not send its own part: of P numbers it sends P (N - 1) / N in "
            "each pass.",
            3,
        ),
        WrongAnswer(
            "stage 0 sends once",
            _costs(sent=(1, 2, 2, 3)),
            "an all-reduce is a reduce-scatter and an all-gather: two passes.",
            3,
        ),
    ),
    hints=(
        "Three things are held for each weight: itself, 2 bytes; its gradient, 2; and "
        "12 for Adam.",
        "Stage 1 cuts Adam's 12 bytes by N, stage 2 the gradients as well, stage 3 the "
        "weights, too.",
        "A pass around the ring, all-gather or reduce-scatter, sends P (N - 1) / N "
        "numbers. Stages 0 to 2 need two passes. Stage 3 needs three: weights for the "
        "forward, weights for the backward, gradients.",
    ),
    otherwise={
        "numbers sent": (
            "numbers are asked for, not bytes. A reduce-scatter is one pass of "
            "P (N - 1) / N, and so is an all-gather.",
            3,
        ),
    },
)

# --- 5.6 which layouts fit ----------------------------------------------------------

Layout = tuple[int, int, int]
"""Ranks along data, tensor and pipeline."""


def fitting_layouts(
    N: int,
    heads: int,
    layers: int,
    memory: Callable[[int, int, int], float],
    limit: float,
) -> list[Layout]:
    """All (data, tensor, pipeline) with that product that are legal and fit, ascending.

    Args:
        N: ranks.
        heads: the tensor axis has to divide them.
        layers: the pipeline axis has to divide them.
        memory: (data, tensor, pipeline) -> bytes of a rank.
        limit: bytes that a rank has.
    """
    found = []
    for data in range(1, N + 1):
        for tensor in range(1, N // data + 1):
            pipeline = N // (data * tensor)
            legal = data * tensor * pipeline == N
            legal = legal and heads % tensor == 0 and layers % pipeline == 0
            if legal and memory(data, tensor, pipeline) <= limit:
                found.append((data, tensor, pipeline))
    return found


def sixteen_bytes(data: int, tensor: int, pipeline: int) -> float:
    """16 bytes for each of 1200 weights, in as many pieces as the model has."""
    return 16 * 1200 / (tensor * pipeline)


def uneven_memory(data: int, tensor: int, pipeline: int) -> float:
    """Tells the axes apart."""
    return 1000 / tensor + 300 / pipeline + 60 / data


def layouts_probes() -> Sequence[Arguments]:
    return [
        (8, 4, 4, sixteen_bytes, 5000.0),
        (12, 6, 6, sixteen_bytes, 7000.0),
        (12, 12, 4, uneven_memory, 700.0),
        (16, 8, 16, uneven_memory, 450.0),
        (6, 4, 9, sixteen_bytes, 1e9),
    ]


def as_layouts(value: Any) -> list[Layout]:
    """The candidate's list.

    Raises:
        CheckFailed: it is something else.
    """
    if not isinstance(value, list) or not all(
        isinstance(entry, tuple | list) and len(entry) == 3 for entry in value
    ):
        asked = "a list of triples (data, tensor, pipeline)"
        raise CheckFailed(asked, show_values(value))
    return [(int(a), int(b), int(c)) for a, b, c in value]


def expect_layouts(candidate: Candidate, probe: Arguments) -> None:
    came, wanted = as_layouts(candidate(*probe)), fitting_layouts(*probe)
    N, heads, layers, memory, limit = probe
    about = f"{N} ranks, {heads} heads, {layers} layers, {limit:g} bytes"
    for layout in came:
        if layout not in wanted:
            bytes_ = memory(*layout) if min(layout) > 0 else math.nan
            raise CheckFailed(
                f"only layouts that are legal and fit ({about})",
                f"{layout}, product {math.prod(layout)}, {bytes_:g} bytes",
            )
    missing = [layout for layout in wanted if layout not in came]
    if missing:
        raise CheckFailed(
            f"{missing[0]} among the layouts of {about}", str(came)
        )
    if came != wanted:
        raise CheckFailed("each layout once, in ascending order", str(came))


def layouts_by_hand(candidate: Candidate) -> None:
    """Four ranks, room for half a model: one of them at most copies."""
    expect_layouts(candidate, (4, 2, 2, sixteen_bytes, 9600.0))


def layouts_all(candidate: Candidate) -> None:
    for probe in layouts_probes():
        expect_layouts(candidate, probe)


def layouts_none(candidate: Candidate) -> None:
    came = as_layouts(candidate(4, 4, 4, sixteen_bytes, 10.0))
    if came:
        raise CheckFailed("an empty list where nothing fits", str(came))


def _layouts(  # type: ignore[no-untyped-def]
    exact=True, heads_too=True, layers_too=True, fits=lambda m, limit: m <= limit,
    powers=False, exchanged=False,
):  # fmt: skip
    def run(N, heads, layers, memory, limit):  # type: ignore[no-untyped-def]
        found = []
        axis = [n for n in range(1, N + 1) if not powers or n & (n - 1) == 0]
        for data in axis:
            for tensor in axis:
                for pipeline in axis:
                    product = data * tensor * pipeline
                    if product > N or (exact and product != N):
                        continue
                    if heads_too and heads % tensor:
                        continue
                    if layers_too and layers % pipeline:
                        continue
                    if fits(memory(data, tensor, pipeline), limit):
                        layout = (data, tensor, pipeline)
                        if exchanged:
                            layout = (data, pipeline, tensor)
                        found.append(layout)
        return sorted(found)

    return run


LAYOUTS = Exercise(
    id="5.6",
    title="which layouts fit",
    minutes=10,
    difficulty=1,
    ours=fitting_layouts,
    checks=(
        ("by hand", layouts_by_hand),
        ("all of them", layouts_all),
        ("none", layouts_none),
    ),
    probes=layouts_probes,
    wrong=(
        WrongAnswer(
            "ranks left over",
            _layouts(exact=False),
            "the product may be less than N, so that ranks have nothing to do. It has "
            "to be N.",
            1,
        ),
        WrongAnswer(
            "heads cut",
            _layouts(heads_too=False),
            "the tensor axis does not divide the number of heads: a head would be cut "
            "in two.",
            2,
        ),
        WrongAnswer(
            "uneven stages",
            _layouts(layers_too=False),
            "the pipeline axis does not divide the number of layers.",
            2,
        ),
        WrongAnswer(
            "too large",
            _layouts(fits=lambda m, limit: True),
            "layouts that need more than the limit are listed, too.",
            3,
        ),
        WrongAnswer(
            "just full is too full",
            _layouts(fits=lambda m, limit: m < limit),
            "a layout that needs exactly the limit fits.",
            3,
        ),
        WrongAnswer(
            "turned round",
            _layouts(fits=lambda m, limit: m >= limit),
            "the comparison is turned round: listed are those that do not fit.",
            3,
        ),
        WrongAnswer(
            "powers of two",
            _layouts(powers=True),
            "only powers of two are tried. Twelve ranks can be 3 x 2 x 2.",
            1,
        ),
        WrongAnswer(
            "axes exchanged",
            _layouts(exchanged=True),
            "tensor and pipeline are exchanged in the triples.",
            2,
        ),
    ),
    hints=(
        "Two loops are enough: with data and tensor given, pipeline is N over their "
        "product, if that is a whole number.",
        "A layout is legal if tensor divides the heads and pipeline the layers: no "
        "remainder may be left.",
        "Keep it if `memory(data, tensor, pipeline)` is at most the limit. Loops that "
        "count upwards give ascending triples.",
    ),
    otherwise=dict.fromkeys(
        ("by hand", "all of them"),
        (
            "tensor divides the heads, pipeline the layers; `memory` is of one rank.",
            2,
        ),
    ),
)
