"""Lab 05a's planner: counts that can be had otherwise, and published figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from labs.lab_05a import published
from labs.lab_05a.planner import PIPELINES, WHY_NOT, Layout, plan
from labs.lab_05a.planner_inputs import (
    FLOAT32,
    MIXED,
    Cluster,
    Experts,
    Model,
    gpt_model,
)
from labs.lab_05a.planner_presets import (
    DEEPSEEK_V3,
    H100,
    LLAMA_8B,
    LLAMA_70B,
    LLAMA_405B,
)
from labs.lab_05a.planner_search import divisors, every_layout, search
from labs.lab_05a.schedules import SCHEDULES, Durations, simulate
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig

SMALL = GPTConfig(d_model=32, n_layers=4, n_heads=4, d_ff=96, max_len=16)
TINY = Cluster("a core", 4, memory=1e9, peak=1e9, inside=1e9, between=1e9)


# --- counts -----------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, GPTConfig()])
def test_weights_are_those_of_the_course_s_gpt(config):
    assert gpt_model(config).total == GPT(config).parameter_count()


def test_published_sizes():
    assert LLAMA_8B.total == pytest.approx(8.03e9, rel=1e-3)
    assert LLAMA_70B.total == pytest.approx(70.55e9, rel=1e-3)
    assert LLAMA_405B.total == pytest.approx(405.9e9, rel=1e-3)
    assert DEEPSEEK_V3.total == pytest.approx(671e9, rel=1e-3)
    assert DEEPSEEK_V3.active == pytest.approx(37e9, rel=0.02)


def test_operations_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    model, T = GPT(SMALL), 16
    tokens_BT = torch.randint(256, (2, T))
    # Attention as plain matrix products; its CPU kernel is not counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(tokens_BT, tokens_BT).backward()
    # Norms are no matrix products; ours counts their few weights.
    norms = 6 * 2 * SMALL.n_layers * SMALL.d_model
    ours = (gpt_model(SMALL, T).flops(causal=False) - norms) * 2 * T
    assert counter.get_total_flops() == ours


def test_what_one_gpu_holds_is_16_bytes_a_weight():
    one = replace(TINY, gpus=1)
    shape = gpt_model(SMALL)
    own = plan(shape, one, Layout(1, zero=0), 8, FLOAT32)
    assert own.weights == own.gradients == 4 * shape.total
    assert own.optimizer == 8 * shape.total
    assert own.step > 0
    assert own.bubble == 0
    assert all(value == 0 for value in own.sent.values())


def held_by(config, layout, stage):
    """Weights of one rank, counted in a GPT whose blocks the tensor axis cuts."""
    model = GPT(config)
    size = config.n_layers // layout.pipeline
    own = model.blocks[stage * size : (stage + 1) * size]
    cut = sum(p.numel() for p in own.parameters() if p.dim() == 2)
    whole = sum(p.numel() for p in own.parameters() if p.dim() == 1)
    ends = 0
    if stage == 0:
        ends += model.embedding.weight.numel()
    if stage == layout.pipeline - 1:
        ends += model.head.weight.numel() + model.norm.weight.numel()
    return cut / layout.tensor + whole + ends


@pytest.mark.parametrize(
    "layout",
    [
        Layout(4, zero=0),
        Layout(2, tensor=2, zero=0),
        Layout(1, tensor=4, zero=0),
        Layout(2, pipeline=2, zero=0),
        Layout(1, tensor=2, pipeline=2, zero=0),
        Layout(1, pipeline=4, zero=0),
    ],
    ids=str,
)
def test_weights_of_the_fullest_of_four_ranks(layout):
    own = plan(gpt_model(SMALL), TINY, layout, 8, FLOAT32)
    counted = max(held_by(SMALL, layout, s) for s in range(layout.pipeline))
    assert own.weights == pytest.approx(4 * counted, rel=0.01)
    assert own.optimizer == pytest.approx(8 * counted, rel=0.01)
    assert int(own.why_not) == 0


def test_zero_s_stages():
    shape, P = gpt_model(SMALL), gpt_model(SMALL).total
    both = (MIXED.weight, MIXED.gradient, MIXED.optimizer)
    for zero in range(4):
        own = plan(shape, TINY, Layout(4, zero=zero), 8)
        cut = [4 if zero >= at else 1 for at in (3, 2, 1)]
        wanted = [b * P / c for b, c in zip(both, cut, strict=True)]
        assert [own.weights, own.gradients, own.optimizer] == pytest.approx(wanted)


def test_traffic_of_data_parallelism_is_a_ring_s():
    shape = gpt_model(SMALL)
    ring = 3 / 4 * shape.total
    # Two passes of the gradients; or gradients, then weights; or weights once more.
    for zero, wanted in ((0, 8 * ring), (1, 8 * ring), (3, 12 * ring)):
        own = plan(shape, TINY, Layout(4, zero=zero, samples=2), 8, FLOAT32)
        assert own.microbatches == 1
        assert own.sent["data"] == pytest.approx(wanted)


def test_traffic_of_the_tensor_axis():
    """Four all-reduces a layer, of tokens x width, by a ring."""
    own = plan(gpt_model(SMALL), TINY, Layout(1, tensor=4), 8, FLOAT32)
    tokens, width, layers = 8 * 16, 32, 4
    wanted = 4 * layers * 2 * 3 / 4 * tokens * width * 4
    assert own.sent["tensor"] == pytest.approx(wanted)


def test_a_token_travels_to_few_nodes():
    experts = Experts(count=64, visited=8, shared=0, width=8, nodes=4)
    shape = Model("m", 2, 32, 4, 0, 16, 16, experts=experts)
    sixty_four = replace(TINY, gpus=64)
    inside, between = (
        plan(shape, sixty_four, Layout(64, expert=e), 64).sent["expert"]
        for e in (8, 64)
    )
    both_ways = 2 * 2 * 16 * 32 * 2 * 2  # there and back, forward and backward
    assert inside == pytest.approx(both_ways * 8 * 7 / 8)
    assert between == pytest.approx(both_ways * 4 * 7 / 8)


# --- time -------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", PIPELINES)
def test_a_step_is_as_long_as_the_simulation_s(schedule):
    """Free links: only computing and the schedule are left."""
    fast = replace(TINY, inside=1e30, between=1e30, latency=1e-30)
    shape = gpt_model(SMALL)
    own = plan(shape, fast, Layout(1, pipeline=4, schedule=schedule), 8)
    F = shape.flops() / 3 * 16 / 4 / (fast.peak * fast.reached)
    timeline = simulate(SCHEDULES[schedule](4, 8), Durations(F, F, F))
    assert own.step == pytest.approx(timeline.makespan, rel=1e-6)
    # Some devices of DualPipe wait less than the formula's.
    assert own.bubble == pytest.approx(
        timeline.longest_bubble / timeline.makespan, rel=1e-6
    )


def test_one_process_needs_operations_over_speed():
    one = replace(TINY, gpus=1)
    shape = gpt_model(SMALL)
    own = plan(shape, one, Layout(1), 8)
    assert own.step == pytest.approx(shape.flops() * 8 * 16 / (1e9 * one.reached))
    assert own.utilisation == pytest.approx(one.reached)
    again = plan(shape, one, Layout(1, recompute=True), 8)
    assert again.step == pytest.approx(own.step * 4 / 3)
    assert again.activations < own.activations


def test_slower_links_and_further_ranks_never_help():
    slow = replace(TINY, inside=1e5, between=1e4)
    for layout in (Layout(4), Layout(1, tensor=4), Layout(2, tensor=2)):
        shape = gpt_model(SMALL)
        assert plan(shape, slow, layout, 8).step >= plan(shape, TINY, layout, 8).step


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (Layout(3), 1),
        (Layout(1, tensor=4, zero=0), 0),
        (Layout(2, tensor=2), 0),
        (Layout(1, pipeline=4), 0),
        (Layout(4, samples=4), 5),
        (Layout(1, pipeline=4, samples=4), 6),
        (Layout(2, pipeline=2, expert=2), 4),
        (Layout(1, pipeline=4, schedule="interleaved"), 3),
        (Layout(1, pipeline=4, schedule="DualPipe"), 0),
        (Layout(1, pipeline=4, schedule="DualPipe", samples=2), 6),
    ],
    ids=str,
)
def test_why_not(layout, why):
    found = int(plan(gpt_model(SMALL), TINY, layout, 8, FLOAT32).why_not)
    assert found == why, WHY_NOT.get(found)


def test_heads_and_nodes():
    eight = replace(TINY, gpus=8)
    assert int(plan(gpt_model(SMALL), eight, Layout(1, tensor=8), 8).why_not) == 2
    far = replace(TINY, per_node=2)
    assert int(plan(gpt_model(SMALL), far, Layout(1, tensor=4), 8).why_not) == 2


def test_too_little_memory():
    little = replace(TINY, memory=100_000)
    assert int(plan(gpt_model(SMALL), little, Layout(4), 8).why_not) == 7


def test_bad_input_is_a_sentence():
    with pytest.raises(LabError, match="use one of 1F1B"):
        plan(LLAMA_8B, H100, Layout(8, schedule="2F2B"), 8)
    with pytest.raises(LabError, match="memory=0: use a number above 0"):
        replace(H100, memory=0)
    with pytest.raises(LabError, match="reached=2: use a share up to 1"):
        replace(H100, reached=2)


# --- many layouts ---------------------------------------------------------------------


def test_arrays_say_what_numbers_say():
    cluster = replace(H100, gpus=2048)
    for model, schedule in ((LLAMA_70B, "1F1B"), (DEEPSEEK_V3, "DualPipe")):
        layouts = every_layout(model, cluster.gpus)
        layouts = replace(layouts, schedule=schedule)
        judged = plan(model, cluster, layouts, 2048)
        rows = np.random.default_rng(0).integers(0, len(layouts.data), 25)
        for i in rows.tolist():
            one = plan(model, cluster, layouts.at(i), 2048)
            for name in ("memory", "step", "bubble", "why_not"):
                many, single = getattr(judged, name)[i], getattr(one, name)
                assert many == pytest.approx(float(single), nan_ok=True), name


def test_every_layout_is_listed_once_and_is_legal():
    layouts = every_layout(LLAMA_8B, 24)
    rows = list(
        zip(
            *(
                getattr(layouts, n).tolist()
                for n in (
                    "data", "tensor", "pipeline", "expert", "zero", "samples",
                    "recompute",
                )
            ),
            strict=True,
        )
    )  # fmt: skip
    assert len(rows) == len(set(rows))
    assert {d * t * p for d, t, p, *_ in rows} == {24}
    assert {t for _, t, *_ in rows} == {1, 2, 4, 8}
    assert {p for _, _, p, *_ in rows} == {1, 2, 3, 4, 6, 8, 12, 24}
    assert divisors(24) == [1, 2, 3, 4, 6, 8, 12, 24]


def test_the_fastest_comes_first_and_all_that_fit_do():
    found = search(LLAMA_8B, replace(H100, gpus=64), 512)
    steps = found.plan.step[found.order]
    assert (np.diff(steps) >= 0).all()
    room = H100.memory * H100.usable
    assert (found.plan.memory[found.order] <= room).all()
    assert len(found.order) == int((found.plan.why_not == 0).sum()) > 100


# --- published figures ----------------------------------------------------------------


def test_what_the_report_s_totals_imply():
    implied = published.v3_implied()
    assert implied.days == pytest.approx(54.2, abs=0.1)
    assert implied.step == pytest.approx(published.V3_STEP, rel=0.005)
    assert implied.utilisation == pytest.approx(published.V3_CAUSAL, rel=0.01)


def test_our_count_of_operations_gives_both_published_utilisations():
    tokens = published.V3_BATCH * DEEPSEEK_V3.sequence / published.V3_STEP / 2048
    for causal, wanted in (
        (True, published.V3_CAUSAL),
        (False, published.V3_NON_CAUSAL),
    ):
        found = tokens * DEEPSEEK_V3.flops(causal) / 989e12
        assert found == pytest.approx(wanted, rel=0.005)


def test_v3_s_layout_fits_and_is_among_the_fastest():
    cluster, own = published.v3_plan()
    assert int(own.why_not) == 0
    assert own.step == pytest.approx(
        published.V3_STEP - published.V3_OPTIMIZER, rel=1e-6
    )
    place, fit, behind = published.v3_rank(cluster)
    assert place <= 10 < 1000 < fit
    assert behind < 0.05


def test_overlap_is_what_dual_pipe_is_for():
    cluster, own = published.v3_plan()
    plain = plan(
        DEEPSEEK_V3,
        cluster,
        replace(published.V3_LAYOUT, schedule="1F1B"),
        published.V3_BATCH,
        published.V3_PRECISION,
    )
    assert plain.step > 1.2 * own.step
    assert own.waited["expert"] == 0 < plain.waited["expert"]


def test_llama_s_second_row_is_foretold_within_three_points():
    for loops in published.LOOPS:
        _, (first, second) = published.llama_utilisations(loops)
        assert first == pytest.approx(430 / 989, abs=1e-4)
        assert second == pytest.approx(400 / 989, abs=0.03)
        assert second < first


def test_llama_s_axes_are_the_fastest_on_its_cluster():
    """Data 128, tensor 8, pipeline 16, of all with two stages a GPU."""
    cluster = replace(H100, gpus=16_384)
    found = search(LLAMA_405B, cluster, published.LLAMA_BATCH, "interleaved")
    best = found.layouts.at(int(found.order[0]))
    assert (best.data, best.tensor, best.pipeline) == (128, 8, 16)


def test_lines():
    lines = "\n".join(published.v3_lines())
    assert "seconds a step" in lines
    assert max(map(len, published.v3_lines())) < 110
    assert len(published.llama_lines()) == 4
