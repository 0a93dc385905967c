"""How large the gradients are that arrive at a model's linear layers.

Shape suffixes: M tokens, N output channels.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from kernels.float8 import E4M3, E5M2, cast
from labsupport.explore import View
from labsupport.explore.style import BLUE, VERMILION


def arriving_gradients(model: nn.Module, *batch: Tensor) -> Tensor:
    """All numbers of all g_MN, gradients of the loss by a linear layer's output.

    Args:
        model: a GPT.
        batch: tokens and targets.
    """
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, given: Any) -> None:
        found.append(given[0].detach().flatten().clone())

    blocks: Any = model.blocks
    hooks = [
        layer.register_full_backward_hook(keep)
        for layer in blocks.modules()
        if isinstance(layer, nn.Linear)
    ]
    model.loss(*batch).backward()  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return torch.cat(found)


def lost(gradients: Tensor) -> float:
    """The share of those that are not 0 which an unscaled cast to E4M3 makes 0."""
    not_zero = gradients[gradients != 0]
    return (cast(not_zero).float() == 0).float().mean().item()


def gradient_view(gradients: Tensor) -> View:
    """A histogram of their sizes in powers of two, and where each format ends."""
    sizes = gradients.abs()
    powers = torch.log2(sizes[sizes > 0]).floor()
    low, high = int(powers.min()), 0
    count = torch.histc(powers, bins=high - low + 1, min=low, max=high)
    share = (100 * count / len(gradients)).tolist()
    figure = go.Figure()
    figure.add_bar(
        x=list(range(low, high + 1)),
        y=share,
        marker={"color": BLUE},
        showlegend=False,
    )
    sides = (E4M3, VERMILION, "top right"), (E5M2, "#6b7280", "top left")
    for fmt, colour, side in sides:
        edge = torch.tensor(fmt.smallest).log2().item() - 1
        figure.add_vline(
            x=edge,
            line={"color": colour, "dash": "dash"},
            annotation_text=f"{fmt.name}: zero below",
            annotation_position=side,
            annotation_font_color=colour,
        )
    figure.update_xaxes(title="size of a gradient, as a power of two")
    figure.update_yaxes(title="percent of all")
    figure.update_layout(
        title="Gradients that arrive at the linear layers", margin={"t": 96}
    )
    middle = sizes.median().item()
    sentence = (
        f"Half of all gradients are smaller than {middle:.1e}; an unscaled cast to "
        f"E4M3 turns {100 * lost(gradients):.1f} % of them into 0: all that are at "
        f"most 2^-10 = {2**-10:.1e}."
    )
    table: dict[str, list[object]] = {
        "power of two": list(range(low, high + 1)),
        "percent": [round(value, 3) for value in share],
    }
    return View(figure, sentence, table)
