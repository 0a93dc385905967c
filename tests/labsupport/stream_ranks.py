"""The ranks' side of test_stream_parallel.py.

python stream_ranks.py FOLDER RANKS    writes FOLDER/RANKS-RANK.pt: what came out
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from labsupport.distributed.stream_parallel import average_gradients, place_streams
from labsupport.distributed.traffic import count_traffic
from labsupport.nn import GPTConfig, ParScale
from tests.labsupport.forked_ranks import run_on_ranks

CONFIG = GPTConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=2, max_len=12)
B, T, P = 3, 10, 4


def model_and_batch(tied: bool = False) -> tuple[ParScale, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    config = GPTConfig(**{**vars(CONFIG), "tied": tied})
    model = ParScale(config, P)
    with torch.no_grad():  # so that streams differ, and the wrong one would show
        for layer in model.prefix_attentions():
            layer.prefix_2PHMK.mul_(30)
    return model, torch.randint(0, 50, (B, T)), torch.randint(0, 50, (B, T))


def step(dist: Any, tied: bool = False) -> dict[str, Any]:
    """Loss and gradients of one step, streams spread over ranks."""
    model, x, y = model_and_batch(tied)
    place_streams(model, dist)
    loss = model.loss(x, y)
    loss.backward()
    average_gradients(model, dist)
    return {
        "loss": loss.detach(),
        "grads": {name: p.grad for name, p in model.named_parameters()},
    }


def body() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with count_traffic() as moved:
        found = step(dist)
    found["sent"] = moved.ideal_sent
    found["tied"] = step(dist, tied=True)
    folder, ranks = Path(sys.argv[1]), dist.get_world_size()
    torch.save(found, folder / f"{ranks}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    for ranks in map(int, sys.argv[2:]):
        run_on_ranks(body, ranks)
