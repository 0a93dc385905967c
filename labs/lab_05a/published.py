"""The planner beside figures that were published. One number is fitted; see each check.

Sources: DeepSeek-V3's technical report (arXiv 2412.19437) and "Insights into
DeepSeek-V3" (arXiv 2505.09343, table 4, MPFT); "The Llama 3 Herd of Models" (arXiv
2407.21783, table 4).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from labs.lab_05a.planner import Layout, Plan, plan
from labs.lab_05a.planner_inputs import MIXED, Cluster, Model, Precision
from labs.lab_05a.planner_presets import (
    DEEPSEEK_V3,
    H100,
    H800,
    LLAMA_405B,
    V3_PRECISION,
)
from labs.lab_05a.planner_search import search

# --- DeepSeek-V3 ------------------------------------------------------------------

V3_BATCH = 15_360
"""Samples of a step, from 469 billion tokens on (report, section 4.2)."""
V3_TOKENS, V3_GPU_HOURS = 14.8e12, 2.664e6
"""Of the pre-training (report, table 1)."""
V3_STEP, V3_BUBBLE, V3_OPTIMIZER = 19.926, 2.06, 0.29
"""Seconds of a step, of its bubble and of its optimizer."""
V3_CAUSAL, V3_NON_CAUSAL = 0.3894, 0.4373
"""Utilisation of the bfloat16 peak, with half of the attention counted, and all."""
V3_LAYOUT = Layout(
    data=128, pipeline=16, expert=64, zero=1, samples=1, schedule="DualPipe"
)
"""16-way pipeline, 64-way experts, ZeRO-1 (section 3.2); no tensor axis. The size of a
microbatch is not published: one sample is our assumption."""


@dataclass(frozen=True)
class Implied:
    """What follows from the report's totals, without the planner.

    Attributes:
        days: of 2,048 GPUs.
        tokens: a second and GPU.
        step: seconds for a batch.
        utilisation: by our count of operations, causal.
    """

    days: float
    tokens: float
    step: float
    utilisation: float


def v3_implied() -> Implied:
    """Arithmetic on tokens and GPU hours."""
    seconds = V3_GPU_HOURS * 3600
    tokens = V3_TOKENS / seconds
    batch = V3_BATCH * DEEPSEEK_V3.sequence
    return Implied(
        seconds / H800.gpus / 86_400,
        tokens,
        batch / (tokens * H800.gpus),
        tokens * DEEPSEEK_V3.flops() / H800.peak,
    )


def fitted(
    model: Model,
    cluster: Cluster,
    layout: Layout,
    batch: int,
    seconds: float,
    precision: Precision = MIXED,
) -> Cluster:
    """The cluster with `reached` such that a step takes so many seconds.

    Every other number of the planner stays. A step gets shorter the more of its peak a
    GPU reaches, so halving finds it.
    """
    low, high = 0.01, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        found = replace(cluster, reached=middle)
        if plan(model, found, layout, batch, precision).step > seconds:
            low = middle
        else:
            high = middle
    return found


def v3_plan() -> tuple[Cluster, Plan]:
    """V3's layout, with `reached` fitted to its step without the optimizer."""
    cluster = fitted(
        DEEPSEEK_V3,
        H800,
        V3_LAYOUT,
        V3_BATCH,
        V3_STEP - V3_OPTIMIZER,
        V3_PRECISION,
    )
    found = plan(DEEPSEEK_V3, cluster, V3_LAYOUT, V3_BATCH, V3_PRECISION)
    return cluster, found


def v3_rank(cluster: Cluster) -> tuple[int, int, float]:
    """Where V3's layout stands among all that fit, with DualPipe.

    Returns:
        Its place from 1, how many fit, and its time over the fastest's, minus 1.
    """
    every = search(DEEPSEEK_V3, cluster, V3_BATCH, "DualPipe", V3_PRECISION)
    own = plan(DEEPSEEK_V3, cluster, V3_LAYOUT, V3_BATCH, V3_PRECISION)
    steps = every.plan.step[every.order]
    place = int((steps < float(own.step) * (1 - 1e-9)).sum()) + 1
    return place, len(steps), float(own.step / steps[0] - 1)


def gb(size: float) -> str:
    """Bytes in 10^9."""
    return f"{float(size) / 1e9:.1f} GB"


def v3_lines() -> list[str]:
    """The worked example as a table: published, and what we get."""
    implied = v3_implied()
    cluster, own = v3_plan()
    place, fit, behind = v3_rank(cluster)
    no_overlap = plan(
        DEEPSEEK_V3,
        cluster,
        replace(V3_LAYOUT, schedule="1F1B"),
        V3_BATCH,
        V3_PRECISION,
    )
    all_pairs = DEEPSEEK_V3.flops(causal=False) / DEEPSEEK_V3.flops()
    measured = (
        V3_BATCH
        * DEEPSEEK_V3.sequence
        * DEEPSEEK_V3.flops()
        / (V3_STEP * H800.gpus * H800.peak)
    )
    rows = [
        ("", "published", "ours"),
        ("counted", "", ""),
        (
            "all weights",
            "671 billion",
            f"{DEEPSEEK_V3.total / 1e9:.0f} billion",
        ),
        (
            "weights a token uses",
            "37 billion",
            f"{DEEPSEEK_V3.active / 1e9:.1f} billion",
        ),
        ("implied by 14.8T tokens and 2.664M hours", "", ""),
        ("days on 2,048 GPUs", "under 2 months", f"{implied.days:.1f}"),
        ("seconds a step", f"{V3_STEP:.1f}", f"{implied.step:.1f}"),
        ("utilisation, step of 19.9 s", "", ""),
        ("half of attention counted", f"{V3_CAUSAL:.1%}", f"{measured:.1%}"),
        (
            "all of it",
            f"{V3_NON_CAUSAL:.1%}",
            f"{measured * all_pairs:.1%}",
        ),
        ("the planner, `reached` fitted to the step", "", ""),
        ("reached", "", f"{cluster.reached:.1%}"),
        (
            "bubble",
            f"{V3_BUBBLE / V3_STEP:.1%}",
            f"{float(own.bubble):.1%}",
        ),
        (
            "memory of 85.9 GB",
            "",
            f"{gb(own.memory)}, {gb(own.activations)} of it activations",
        ),
        (
            "the same with 1F1B",
            "",
            f"{float(no_overlap.step):.1f} s, "
            f"{float(no_overlap.waited['expert']):.1f} s of it all-to-all",
        ),
        (
            "place among layouts that fit",
            "",
            f"{place} of {fit:,}, {behind:.1%} behind the fastest",
        ),
    ]
    return [f"{a:42}{b:>16}  {c}".rstrip() for a, b, c in rows]


# --- Llama 3 405B -----------------------------------------------------------------

LLAMA_ROWS = ((8192, 64, 430e12), (16_384, 128, 400e12))
"""GPUs, data ranks, operations a second and GPU; both with tensor 8, pipeline 16."""
LLAMA_BATCH = 2048
"""Samples of 8,192 tokens: 16M tokens."""


LOOPS = (2, 4, 8)
"""Stages of a GPU in the interleaved pipeline. The paper does not say how many."""


def llama_layout(data: int, loops: int) -> Layout:
    """The published axes. Gradients are cut, too (section 3.3.2): ZeRO-2."""
    return Layout(
        data=data,
        tensor=8,
        pipeline=16,
        zero=2,
        schedule="interleaved",
        loops=loops,
    )


def llama_utilisations(loops: int) -> tuple[float, list[float]]:
    """`reached`, fitted to the first row; and the planned utilisation of each row."""
    work = LLAMA_405B.flops() * LLAMA_BATCH * LLAMA_405B.sequence
    gpus, data, rate = LLAMA_ROWS[0]
    cluster = fitted(
        LLAMA_405B,
        replace(H100, gpus=gpus),
        llama_layout(data, loops),
        LLAMA_BATCH,
        work / (gpus * rate),
    )
    found = [
        plan(
            LLAMA_405B,
            replace(cluster, gpus=gpus),
            llama_layout(data, loops),
            LLAMA_BATCH,
        )
        for gpus, data, _ in LLAMA_ROWS
    ]
    return cluster.reached, [float(own.utilisation) for own in found]


def llama_lines() -> list[str]:
    """Twice the GPUs for the same batch: what was published and what we get."""
    every = [llama_utilisations(loops) for loops in LOOPS]
    head = "".join(f"{f'{loops} stages a GPU':>16}" for loops in LOOPS)
    lines = [f"{'GPUs':>8}{'published':>12}{head}"]
    for number, (gpus, _, rate) in enumerate(LLAMA_ROWS):
        cells = "".join(f"{found[number]:>16.1%}" for _, found in every)
        lines.append(f"{gpus:>8,}{rate / H100.peak:>12.1%}{cells}")
    cells = "".join(f"{reached:>16.1%}" for reached, _ in every)
    return [*lines, f"{'reached':>8}{'':12}{cells}"]
