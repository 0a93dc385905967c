"""What a mixture of DeepSeek-V3's shape would cost, by experts, visits and sharing."""

from __future__ import annotations

import plotly.graph_objects as go

from labs.lab_02.costs import mixture_weights, swiglu_weights
from labsupport.explore import Explorer, View, slide
from labsupport.explore.style import BLUE, GREEN, VERMILION

D, H = 7168, 2048
"""Widths of the model and of an expert (DeepSeek-V3, section 4.2)."""
LAYERS, DENSE_LAYERS, F = 61, 3, 18432
"""Of which the first three are dense, of width F."""
ATTENTION = (
    D * 1536 + 1536 * 128 * 192 + D * 576 + 512 * 128 * 256 + 128 * 128 * D
)
"""Weights of a layer's attention: queries down and up, keys and values down and up,
output (multi-head latent attention with 128 heads)."""
VOCABULARY = 129_280
GPU_GB = 80.0

EXPERTS = (8, 16, 32, 64, 128, 256, 512)
VISITS = (1, 2, 4, 8, 16)
SHARED = (0, 1, 2, 4)


def size_explorer() -> Explorer:
    """Total and active weights, FLOPs a token, memory."""
    return Explorer(
        draw,
        experts=slide("experts E", EXPERTS, 256),
        top_k=slide("visited K", VISITS, 8),
        shared=slide("shared S", SHARED, 1),
    )


def model_weights(experts: int, top_k: int, shared: int) -> tuple[int, int]:
    """All weights of the model, and those that one token is multiplied with.

    The embedding is looked up, not multiplied with, so it is not among a token's.
    """
    all_of_layer, of_token = mixture_weights(D, experts, top_k, shared, H)
    dense = DENSE_LAYERS * swiglu_weights(D, F)
    layers = LAYERS - DENSE_LAYERS
    common = LAYERS * ATTENTION + dense + VOCABULARY * D
    return (
        common + layers * all_of_layer + VOCABULARY * D,
        common + layers * of_token,
    )


def draw(experts: int, top_k: int, shared: int) -> View:
    """Bars for this choice, beside a dense model with the same active weights."""
    if top_k > experts:
        figure = go.Figure()
        figure.update_layout(
            title=f"A token cannot visit {top_k} of {experts} experts"
        )
        return View(
            figure, f"A token cannot visit {top_k} of {experts} experts."
        )
    total, active = model_weights(experts, top_k, shared)
    gigabytes = 2 * total / 1e9
    gpus = -(-gigabytes // GPU_GB)
    figure = go.Figure()
    bars = (
        ("all weights, in memory", total / 1e9, VERMILION),
        ("weights a token uses", active / 1e9, BLUE),
        ("of these, routed experts", _routed(top_k) / 1e9, GREEN),
    )
    for name, value, colour in bars:
        figure.add_bar(
            y=[name],
            x=[value],
            orientation="h",
            marker={"color": colour},
            text=[f"{value:,.1f} billion"],
            textposition="outside",
            cliponaxis=False,
            showlegend=False,
            hoverinfo="skip",
        )
    figure.update_xaxes(title="billion weights", range=[0, 1600])
    figure.update_yaxes(autorange="reversed")
    title = f"{experts} experts, {top_k} visited, {shared} shared"
    figure.update_layout(title=title, margin={"l": 190, "r": 96})
    sentence = (
        f"{title}: {total / 1e9:,.0f} billion weights, {active / 1e9:,.1f} billion for "
        f"one token ({active / total:.1%}), {2 * active / 1e9:,.0f} GFLOPs a token; "
        f"{gigabytes:,.0f} GB in bfloat16, {gpus:.0f} GPUs of {GPU_GB:g} GB for the "
        "weights alone."
    )
    table: dict[str, list[object]] = {
        "what": [
            "all weights",
            "weights a token uses",
            "GFLOPs a token",
            "GB",
        ],
        "value": [
            total,
            active,
            round(2 * active / 1e9, 1),
            round(gigabytes, 1),
        ],
    }
    return View(figure, sentence, table)


def _routed(top_k: int) -> int:
    return (LAYERS - DENSE_LAYERS) * top_k * swiglu_weights(D, H)
