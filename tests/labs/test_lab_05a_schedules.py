"""Lab 05a's pipeline schedules: closed forms, memory, torch's own orders."""

from fractions import Fraction
from itertools import pairwise

import pytest

from labs.lab_05a.schedules import (
    SCHEDULES,
    Action,
    Durations,
    Schedule,
    alone,
    closed_bubble,
    dual_pipe,
    dual_pipe_v,
    gpipe,
    interleaved,
    one_f_one_b,
    simulate,
    zero_bubble,
)
from labsupport.errors import LabError

UNEVEN = (Durations(1.0, 1.0, 1.0), Durations(1.0, 1.5, 0.5), Durations(2.0, 2.5, 1.5))
SIZES = ((1, 4), (2, 4), (4, 8), (8, 16))


@pytest.mark.parametrize("t", UNEVEN)
@pytest.mark.parametrize(("S", "M"), SIZES)
@pytest.mark.parametrize("make", [gpipe, one_f_one_b, interleaved, zero_bubble])
def test_every_device_waits_as_the_formula_says(make, S, M, t):
    timeline = simulate(make(S, M), t)
    wanted = closed_bubble(timeline.schedule.name, S, t)
    for device in range(S):
        assert timeline.bubble(device) == pytest.approx(wanted)
        assert timeline.busy(device) == pytest.approx(M * (t.F + t.B))
    share = wanted / (M * (t.F + t.B) + wanted)
    assert timeline.bubble_share == pytest.approx(share)


@pytest.mark.parametrize(
    "t", [Durations(), Durations(FB=2.5), Durations(3, 3, 2, 7), Durations(3, 3, 1)]
)
@pytest.mark.parametrize("make", [dual_pipe, dual_pipe_v])
@pytest.mark.parametrize(("S", "M"), [(2, 8), (4, 16), (8, 20)])
def test_the_longest_wait_of_dual_pipe_is_the_formula_s(make, S, M, t):
    timeline = simulate(make(S, M), t)
    wanted = closed_bubble(timeline.schedule.name, S, t)
    assert timeline.longest_bubble == pytest.approx(wanted)


def test_where_the_formulas_end():
    """W > I: the zero bubble's promises less waiting than there is."""
    t = Durations(1.0, 0.8, 1.2)
    assert closed_bubble("zero bubble", 4, t) == pytest.approx(1.8)
    assert simulate(zero_bubble(4, 8), t).longest_bubble == pytest.approx(3.0)


@pytest.mark.parametrize("v", [1, 2, 4])
def test_interleaving_divides_the_bubble(v):
    t = Durations(1.0, 1.5, 0.5)
    timeline = simulate(interleaved(4, 8, v), t)
    assert timeline.longest_bubble == pytest.approx(3 * 3.0 / v)
    assert timeline.peak(0) == 4 + Fraction(3, v)


@pytest.mark.parametrize(("S", "M"), [(2, 8), (4, 16), (8, 16)])
def test_microbatches_held(S, M):
    wanted = {
        "GPipe": [M] * S,
        "1F1B": [S - s for s in range(S)],
        "zero bubble": [S] * S,
        "DualPipe": [S + 1] * S,
        "DualPipeV": [S + Fraction(1, 2)] * S,
    }
    for name, peaks in wanted.items():
        assert simulate(SCHEDULES[name](S, M)).peaks == peaks, name
    assert simulate(interleaved(S, M)).peak(0) == S + Fraction(S - 1, 2)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_stage_does_everything_once_and_nothing_overlaps(name):
    S, M = 4, 16
    schedule = SCHEDULES[name](S, M)
    timeline = simulate(schedule, Durations(1.0, 1.3, 0.7, 2.5))
    done: dict[Action, int] = {}
    for span in timeline.spans:
        for kind, stage, microbatch in span.step:
            for half in "IW" if kind == "B" else kind:
                action = Action(half, stage, microbatch)
                done[action] = done.get(action, 0) + 1
    assert set(done.values()) == {1}
    assert len(done) == 3 * schedule.stages * M
    for device in range(S):
        spans = [s for s in timeline.spans if s.device == device]
        assert all(a.end <= b.begin + 1e-9 for a, b in pairwise(spans))


def test_dual_pipe_fills_from_both_ends():
    schedule = dual_pipe(4, 8)
    assert schedule.orders[0][0] == (Action("F", 0, 0),)
    assert schedule.orders[3][0] == (Action("F", 0, 4),)
    held = {
        device: {a.stage for step in order for a in step}
        for device, order in enumerate(schedule.orders)
    }
    assert held == {0: {0, 3}, 1: {1, 2}, 2: {1, 2}, 3: {0, 3}}
    assert schedule.copies == 2


KINDS = {
    "FORWARD": "F",
    "FULL_BACKWARD": "B",
    "BACKWARD_INPUT": "I",
    "BACKWARD_WEIGHT": "W",
}


@pytest.mark.parametrize("S", [2, 4])
def test_orders_are_torch_s(S):
    from torch.distributed.pipelining._schedule_visualizer import get_schedule_ops

    def ours(order):
        """Without pauses, and without what torch adds after the last backward."""
        for action in order:
            if action is None or action.computation_type.name == "REDUCE_GRAD":
                continue
            yield tuple(
                Action(
                    KINDS[a.computation_type.name], a.stage_index, a.microbatch_index
                )
                for a in action.sub_actions or (action,)
            )

    M = 4 * S
    for name, schedule in (
        ("GPipe", gpipe(S, M)),
        ("1F1B", one_f_one_b(S, M)),
        ("Interleaved1F1B", interleaved(S, M)),
        ("DualPipeV", dual_pipe_v(S, M)),
    ):
        orders = get_schedule_ops(name, S, M)
        if name == "1F1B":
            # torch 2.13's list of the last stage numbers its forwards from 1, up to
            # an M that does not exist. (What it runs does not follow the list.)
            orders = orders[:-1]
        for device, order in enumerate(orders):
            assert tuple(ours(order)) == schedule.orders[device], (name, device)


def test_a_deadlock_says_who_waits():
    stuck = Schedule(
        "stuck",
        (
            alone([Action("F", 0, 0), Action("B", 0, 1)]),
            alone([Action("B", 1, 0), Action("F", 1, 0)]),
        ),
        2,
        2,
    )
    with pytest.raises(
        LabError, match=r"device 0 waits to begin B1 of stage 0, device"
    ):
        simulate(stuck)


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda: one_f_one_b(4, 3), "3 microbatches on 4 devices"),
        (lambda: gpipe(0, 3), "0 devices: use at least 1"),
        (lambda: interleaved(4, 6), "a multiple of 4 microbatches"),
        (lambda: interleaved(4, 8, 0), "at least 1 stage"),
        (lambda: dual_pipe(3, 12), "an even number of both"),
        (lambda: dual_pipe(4, 6), "DualPipe needs at least 8"),
        (lambda: dual_pipe_v(4, 7), "DualPipeV needs at least 8"),
        (lambda: Durations(F=0), "use times of at least 0"),
        (lambda: Durations(FB=-1), "use times of at least 0"),
        (lambda: closed_bubble("2F2B", 2, Durations()), "use one of GPipe, 1F1B"),
    ],
)
def test_what_is_refused(attempt, sentence):
    with pytest.raises(LabError, match=sentence):
        attempt()


def test_a_published_step_of_dual_pipe():
    """DeepSeek-V3's 16 stages (2505.09343, table 4): 1F 1.13 s, 1B 1.99 s, 1W 0.48 s,
    1F1B 13.95 s in all, and a bubble of 2.06 s. With 120 microbatches, our assumption,
    the first device does 23, 23, 15 and 97 of them; so a wait of 1.2 s is simulated.
    The order of magnitude is right; the rest is waiting that no schedule knows of.
    """
    schedule = dual_pipe(16, 120)
    kinds = ["FB" if len(step) == 2 else step[0].kind for step in schedule.orders[0]]
    count = {kind: kinds.count(kind) for kind in ("F", "B", "I", "W", "FB")}
    assert count == {"F": 23, "B": 8, "I": 15, "W": 15, "FB": 97}
    W = 0.48 / 15
    # In 1.99 s are 8 whole backwards and 15 of inputs.
    inputs = (1.99 - 8 * W) / 23
    t = Durations(1.13 / 23, inputs, W, 13.95 / 97)
    timeline = simulate(schedule, t)
    assert timeline.busy(0) == pytest.approx(1.13 + 1.99 + 0.48 + 13.95, rel=1e-6)
    assert 0.8 < timeline.longest_bubble < 2.06
    assert timeline.makespan == pytest.approx(19.926 - 0.29, rel=0.06)
