"""Lab 05a's explorers: every setting, and what the lab's text says of them."""

import pytest

from labs.lab_05a import planner_explorer as planner
from labs.lab_05a import schedule_explorer as timeline
from labs.lab_05a.exercises_core import one_f_one_b
from labs.lab_05a.schedules import SCHEDULES
from tests.labs.every_view import every_view


def test_every_timeline():
    for setting, view in every_view(timeline.schedule_explorer()):
        S, M = setting["stages"], setting["microbatches"]
        table = view.table
        assert table["schedule"] == list(SCHEDULES)
        at = table["schedule"].index(setting["schedule"])
        if not view.figure.data:
            assert table["done after"][at] == "not allowed"
            assert "needs" in view.sentence, setting
            continue
        # Every device computes M (F + B), which is 3 M with these times.
        bars = sum(sum(trace.x) for trace in view.figure.data)
        assert bars == pytest.approx(S * 3 * M, abs=0.01 * S * M), setting
        assert f"done after {table['done after'][at]:g}" in view.sentence
        ends = max(
            base + length
            for trace in view.figure.data
            for base, length in zip(trace.base or (), trace.x or (), strict=True)
        )
        assert ends == pytest.approx(table["done after"][at], abs=0.01), setting


def test_what_the_text_says_of_schedules():
    four = {M: timeline.comparison(4, M) for M in (4, 8, 16, 32)}
    row = {name: i for i, name in enumerate(SCHEDULES)}
    waits = [four[M]["waiting"][row["1F1B"]] for M in four]
    assert waits == ["42.9%", "27.3%", "15.8%", "8.6%"]
    held = four[32]["microbatches held"]
    assert held[row["GPipe"]] == 32
    assert held[row["1F1B"]] == held[row["zero bubble"]] == 4
    assert four[4]["done after"][row["DualPipe"]] == "not allowed"
    assert four[8]["copies of the weights"][row["DualPipe"]] == 2
    least = [float(str(w).rstrip("%")) for w in four[8]["waiting"]]
    assert min(least) == least[row["DualPipe"]] == 7.7


def test_the_timeline_of_a_reader_s_lists():
    view = timeline.own_view(one_f_one_b, 4, 8)
    assert view.sentence == (
        "4 stages are done with 8 microbatches after 33; each waits 27.3% of the time, "
        "and they hold 4, 3, 2, 1 microbatches at most."
    )
    assert sum(len(trace.x) for trace in view.figure.data) == 4 * 2 * 8


def test_comparison_in_lines():
    lines = timeline.comparison_lines(4, 8)
    assert lines[0].split() == ["done", "after", "waiting", "held", "copies"]
    assert lines[2].split() == ["1F1B", "33.0", "27.3%", "4.0", "1"]
    assert len(lines) == 1 + len(SCHEDULES)


def test_every_plan():
    """Also at most 400 kB a picture: it is stored in the notebook."""
    for setting, view in every_view(planner.planner_explorer()):
        room = setting["memory"] * planner.GIB * 0.9 / 1e9
        *fits, no_room = view.figure.data
        memory = [x for trace in fits for x in trace.x]
        assert all(x <= room + 0.01 for x in memory), setting
        assert all(x > room - 0.01 for x in no_room.x), setting
        steps = view.table["s a step"]
        assert steps == sorted(steps)
        if memory:
            assert "The fastest, " + view.table["layout"][0] in view.sentence
            assert len(steps) == min(planner.SHOWN, len(memory))
            fastest = min(y for trace in fits for y in trace.y)
            assert steps[0] == pytest.approx(fastest, abs=0.002)
        else:
            assert "none of" in view.sentence
        assert sum(len(trace.x) for trace in view.figure.data) < 1500


def test_what_the_text_says_of_plans():
    def fastest(model, gpus, memory):
        cluster = planner.cluster_of(gpus, memory)
        bests, *_ = planner.of_each_axes(planner.NAMES[model], cluster)
        good = [best for best in bests if best.fits]
        return good[0].layout if good else None

    small, _, large, experts = planner.NAMES
    # 8 billion weights: 16 bytes a weight are 128 GB, too much for one GPU.
    assert fastest(small, 8, 80).data == 8
    # 405 billion: not on 64 GPUs of 80 GiB, on 512.
    assert fastest(large, 64, 80) is None
    assert fastest(large, 512, 80) is not None
    # The published layout of Llama 3.
    best = fastest(large, 16_384, 80)
    assert (best.data, best.tensor, best.pipeline) == (128, 8, 16)
    assert best.schedule == "interleaved"
    # Experts want an expert axis, and little of the tensor axis.
    best = fastest(experts, 2048, 80)
    assert best.expert >= 64
    assert best.tensor <= 2
