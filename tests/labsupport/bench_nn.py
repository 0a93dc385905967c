"""Is `labsupport.nn.GPT` as fast as the same model written plainly?

    python -m tests.labsupport.bench_nn [PAIRS]

One training step (forward, backward, AdamW) of each, alternating, so that both
suffer from the same neighbours on the machine. A ratio below 1 means that
`labsupport.nn` is faster. Time is wall-clock on 2 threads.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labsupport.nn import GPT, GPTConfig
from tests.labsupport.plain_gpt import HalfTurnAttention, PlainGPT, PlainGPT2

CONFIG = GPTConfig(d_model=128, n_layers=4, n_heads=4, max_len=128)
B, T = 16, 128


def training_step(model: nn.Module) -> Callable[[], None]:
    """One step of `model` on fixed random tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens: Tensor = torch.randint(0, CONFIG.vocab_size, (B, T + 1))

    def step() -> None:
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, other: nn.Module, pairs: int) -> None:
    """Print the quartiles of time(ours) / time(other) over `pairs` pairs."""
    ours, theirs = training_step(GPT(CONFIG)), training_step(other)
    for _ in range(3):
        ours(), theirs()
    rows = []
    for i in range(pairs):
        # Every second pair in the other order: neither always comes first.
        if i % 2:
            b, a = seconds(theirs), seconds(ours)
        else:
            a, b = seconds(ours), seconds(theirs)
        rows.append((a, b))
    low, middle, high = statistics.quantiles((a / b for a, b in rows), n=4)
    ms = [1e3 * statistics.median(column) for column in zip(*rows, strict=True)]
    print(
        f"{name:34} {ms[0]:6.1f} ms against {ms[1]:6.1f} ms"
        f"   ratio {middle:.3f}  [{low:.3f}, {high:.3f}]"
    )


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    torch.set_num_threads(2)
    torch.manual_seed(0)
    print(f"d=128 L=4 T={T} B={B}, {pairs} pairs, median [quartiles]")
    compare("same architecture, pairs", PlainGPT(CONFIG), pairs)
    compare("same architecture, halves", PlainGPT(CONFIG, HalfTurnAttention), pairs)
    compare("LayerNorm, GELU, positions", PlainGPT2(CONFIG), pairs)
    compare("itself (the measurement's spread)", GPT(CONFIG), pairs)


if __name__ == "__main__":
    main()
