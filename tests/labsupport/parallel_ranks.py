"""The ranks' side of test_parallel.py: steps of layouts against one process."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from labsupport.distributed.parallel.engine import apply
from labsupport.distributed.parallel.heads import separate_qkv
from labsupport.distributed.parallel.layout import Layout, layouts
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.nn import GPT, GPTConfig, MixtureOfExperts

CONFIG = GPTConfig(
    vocab_size=32, d_model=16, n_layers=4, n_heads=4, d_ff=32, max_len=16
)
EXPERTS = 4
B, T = 16, 8


def make_model(layout: Layout) -> GPT:
    """The smallest that the layout can cut, from the same seed everywhere."""
    torch.manual_seed(0)
    config = replace(CONFIG, n_layers=max(2, layout.stages))
    ffn = partial(MixtureOfExperts, experts=EXPERTS, top_k=2, d_expert=8)
    return separate_qkv(GPT(config, ffn=ffn) if layout.expert > 1 else GPT(config))


def make_batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    text = torch.randint(0, 32, (B, T + 1), generator=generator)
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


def layouts_to_try(world: int) -> list[Layout]:
    """Every legal one, and with two stages every schedule."""
    found = layouts(world, CONFIG, B, experts=0)
    found += [x for x in layouts(world, CONFIG, B, experts=EXPERTS) if x.expert > 1]
    if world == 2:
        for name in ("GPipe", "Interleaved1F1B", "InterleavedZeroBubble", "ZBV"):
            found.append(Layout(pipeline=2, schedule=name, microbatches=4))
    if world in (2, 4):
        found.append(
            Layout(
                replicate=world // 2, pipeline=2, schedule="DualPipeV", microbatches=4
            )
        )
    return found


def compare(layout: Layout) -> dict[str, Any]:
    """One step of a layout, held against the same step in one process."""
    whole = make_model(layout)
    batch = make_batch()
    loss = whole.loss(*batch)
    loss.backward()
    model = apply(make_model(layout), layout, build_mesh(layout))
    # The first step of DDP and of a pipeline is not like those that follow.
    first = model.forward_backward(*batch).item()
    second, grads = model.loss_and_gradients(*batch)
    wanted = dict(whole.named_parameters())
    assert grads.keys() == wanted.keys()
    return {
        "loss": [abs(each - loss.item()) for each in (first, second)],
        "gradient": max(apart(g, wanted[name].grad) for name, g in grads.items()),
    }


@torch.no_grad()
def apart(x: Tensor, wanted: Tensor | None) -> float:
    """The length of the difference, relative to what is wanted."""
    assert wanted is not None and x.shape == wanted.shape
    return ((x - wanted).norm() / wanted.norm()).item()


def compare_all() -> dict[str, Any]:
    """What a rank finds out about every layout of so many ranks."""
    return {str(x): compare(x) for x in layouts_to_try(dist.get_world_size())}
