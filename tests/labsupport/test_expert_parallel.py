"""Experts on several ranks do what they do in one process."""

from __future__ import annotations

import pytest
import torch

from labsupport.distributed.expert_parallel import (
    ExpertParallel,
    compare_with_one_process,
    share_of,
)
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks
from labsupport.nn import GPTConfig, MixtureOfExperts

CONFIG = GPTConfig(d_model=4, n_layers=1, n_heads=1)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_are_one_process(world: int) -> None:
    everyone = on_ranks(
        lambda _, dist: compare_with_one_process(dist, tokens=13), [0] * world
    )
    for rank in everyone:
        assert rank.output < 1e-6
        assert rank.expert_gradient < 1e-5
        assert rank.router_gradient < 1e-5
        assert rank.same_bias
    assert sum(rank.rows for rank in everyone) == world * 13 * 2


def test_a_rank_whose_experts_nobody_wants() -> None:
    """All tokens to experts 0 and 1, which both live on rank 0."""

    def step(_: int, dist: object) -> tuple[torch.Tensor, int]:
        torch.manual_seed(0)
        whole = MixtureOfExperts(CONFIG, experts=4, shared=0)
        whole.bias_E.copy_(torch.tensor([9.0, 8.0, 0.0, 0.0]))
        layer = share_of(whole, dist)
        x_BTD = torch.randn(1, 5, 4)
        gap = (layer(x_BTD) - whole(x_BTD)).abs().max()
        return gap, layer.dispatch.rows  # type: ignore[union-attr]

    (gap_0, rows_0), (gap_1, rows_1) = on_ranks(step, [0, 0])
    assert max(gap_0, gap_1) < 1e-6
    assert (rows_0, rows_1) == (20, 0)


def test_experts_that_do_not_spread_evenly() -> None:
    message = "6 experts cannot be spread evenly over 4 ranks: use a multiple of 4"
    with pytest.raises(LabError, match=message):

        class Four:
            def get_world_size(self) -> int:
                return 4

        ExpertParallel(6, Four())
