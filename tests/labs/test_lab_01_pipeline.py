"""Two ranks do what one process does, and the boundary carries n lanes."""

from __future__ import annotations

import pytest
import torch

from labs.lab_01.arms import residual_of
from labs.lab_01.pipeline import pipeline_step, run_blocks
from labsupport.exercise.practice import on_ranks
from labsupport.nn import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=20, d_model=8, n_layers=4, n_heads=1, max_len=6)
TOKENS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("recompute", [False, True])
def test_two_ranks_are_one_process(recompute: bool) -> None:
    for arm, lanes in (("residual", 1), ("mhc", 4)):
        both = on_ranks(
            lambda rank_tokens, dist, arm=arm: pipeline_step(
                arm, CONFIG, rank_tokens, TOKENS + 1, dist, recompute
            ),
            [TOKENS, TOKENS],
        )
        torch.manual_seed(0)
        model = GPT(CONFIG, residual=residual_of(arm))
        loss = model.loss(TOKENS, TOKENS + 1)
        loss.backward()
        assert both[1].loss == pytest.approx(loss.item(), abs=1e-6)
        for rank, block in ((0, model.blocks[0]), (1, model.blocks[2])):
            grads = [p.grad.flatten() for p in block.parameters() if p.grad is not None]
            torch.testing.assert_close(both[rank].gradient, torch.cat(grads))
        assert both[0].boundary_bytes == 2 * 6 * lanes * 8 * 4


def test_recomputing_keeps_the_first_stream_only() -> None:
    model = GPT(CONFIG, residual=residual_of("mhc"))
    stream = model.blocks[0].attention_residual.expand(model.embedding(TOKENS))
    _, kept = run_blocks(model.blocks, stream, recompute=False)
    _, first = run_blocks(model.blocks, stream, recompute=True)
    assert first == stream.numel() * 4
    assert kept > 10 * first
