"""Rollouts and updates on several ranks are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from labsupport import rl
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks
from labsupport.generate import row_seeds
from labsupport.rl.ranks import (
    gather_groups,
    over_ranks,
    own_completions,
    own_seeds,
    token_share,
)
from tests.labsupport.rollout_ranks import LOSSES, G, P, train

ROOT = Path(__file__).parents[2]
W = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two gloo ranks found out."""
    folder = tmp_path_factory.mktemp("rollouts")
    script = ROOT / "tests" / "labsupport" / "rollout_ranks.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(W)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{W}-{rank}.pt") for rank in range(W)]


@pytest.mark.distributed
@pytest.mark.parametrize("name", LOSSES)
def test_two_ranks_do_what_one_process_does(found, name):
    alone, ranks = train(LOSSES[name]), [rank[name] for rank in found]
    for step in range(3):
        for what in ("tokens", "lengths"):
            together = torch.cat([rank[what][step] for rank in ranks], dim=1)
            assert torch.equal(together, alone[what][step])
        together = torch.cat([rank["advantages"][step] for rank in ranks], dim=1)
        torch.testing.assert_close(together, alone["advantages"][step])
    # Otherwise a mean over tokens could not be told from one over ranks.
    lengths = [rank["lengths"][0].sum().item() for rank in ranks]
    assert lengths[0] != lengths[1]
    for mine, theirs, other in zip(
        ranks[0]["weights"], alone["weights"], ranks[1]["weights"], strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        assert torch.equal(mine, other)


@pytest.mark.distributed
def test_only_rewards_travel(found):
    for rank in found:
        assert rank["sent"] == (W - 1) * P * (G // W) * 4  # float32


def test_groups_are_put_together_in_their_order():
    rewards_PG = torch.arange(15.0).view(3, 5).repeat(1, 2)[:, :8]
    expected = rl.group_advantages(rewards_PG)

    def body(rewards_Pg, dist):
        whole = gather_groups(rewards_Pg, dist)
        return whole, over_ranks(rl.group_advantages, dist)(rewards_Pg)

    results = on_ranks(body, rewards_PG.chunk(2, dim=1))
    assert all(torch.equal(whole, rewards_PG) for whole, _ in results)
    torch.testing.assert_close(torch.cat([a for _, a in results], dim=1), expected)


def test_every_row_has_one_rank():
    seeds_R = row_seeds(0, 0, 12)
    parts = on_ranks(own_seeds, [seeds_R, seeds_R], [4, 4])
    by_prompt = [part.reshape(3, 2) for part in parts]
    for prompt in range(3):
        both = [*by_prompt[0][prompt], *by_prompt[1][prompt]]
        assert both == list(seeds_R[4 * prompt : 4 * prompt + 4])


def test_token_shares_have_the_mean_one():
    masks = torch.ones(2, 3, 4, dtype=torch.bool)
    masks[1, 1:] = False
    assert on_ranks(token_share, list(masks)) == pytest.approx([1.5, 0.5])


def test_groups_that_ranks_cannot_share_are_named():
    class TwoRanks:
        get_world_size, get_rank = (lambda self: 2), (lambda self: 0)

    with pytest.raises(LabError, match="group=5: 2 ranks cannot share"):
        own_completions(5, TwoRanks())
