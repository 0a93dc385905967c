"""Streams on 1, 2 and 4 ranks do what they do in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from labsupport.distributed.stream_parallel import place_streams
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks
from tests.labsupport.stream_ranks import CONFIG, B, P, T, model_and_batch, step

ROOT = Path(__file__).parents[2]
WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What every gloo rank found out, by the number of ranks."""
    folder = tmp_path_factory.mktemp("streams")
    script = ROOT / "tests" / "labsupport" / "stream_ranks.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(folder), *map(str, WORLDS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return {
        W: [torch.load(folder / f"{W}-{rank}.pt") for rank in range(W)] for W in WORLDS
    }


def in_one_process(tied: bool = False) -> dict[str, Any]:
    model, x, y = model_and_batch(tied)
    loss = model.loss(x, y)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {"loss": loss.detach(), "grads": grads}


def assert_same(mine: dict[str, Any], alone: dict[str, Any]) -> None:
    torch.testing.assert_close(mine["loss"], alone["loss"])
    assert mine["grads"].keys() == alone["grads"].keys()
    for name, grad in mine["grads"].items():
        torch.testing.assert_close(
            grad, alone["grads"][name], rtol=1e-4, atol=1e-6, msg=name
        )


@pytest.mark.distributed
@pytest.mark.parametrize("W", WORLDS)
def test_gloo_ranks_are_one_process(found, W):
    alone = in_one_process()
    for rank in found[W]:
        assert_same(rank, alone)


@pytest.mark.distributed
@pytest.mark.parametrize("W", WORLDS)
def test_an_output_layer_shared_with_the_embedding(found, W):
    """One weight of which a part of the gradient is whole, and a part is a share."""
    alone = in_one_process(tied=True)
    for rank in found[W]:
        assert_same(rank["tied"], alone)


@pytest.mark.distributed
@pytest.mark.parametrize("W", WORLDS)
def test_what_a_rank_sends(found, W):
    """(W - 1) p B T D numbers for the streams, a ring's share for the gradients."""
    weights = sum(p.numel() for p in model_and_batch()[0].parameters())
    streams = (W - 1) * P // W * B * T * CONFIG.d_model
    gradients = 2 * (W - 1) / W * weights
    for rank in found[W]:
        assert rank["sent"] == pytest.approx(4 * (streams + gradients), rel=1e-4)


@pytest.mark.parametrize("W", WORLDS)
def test_practice_ranks_too(W):
    """The notebook's own stand-ins, on which a check would run."""
    alone = in_one_process()
    for rank in on_ranks(lambda _, dist: step(dist), [0] * W):
        assert_same(rank, alone)


def test_without_the_factor_gradients_would_be_too_small(monkeypatch):
    """The comparison above does fail when it should."""
    from labsupport.distributed import stream_parallel

    def unscaled(ctx, dx_PBTD):
        return dx_PBTD.chunk(ctx.dist.get_world_size())[ctx.dist.get_rank()], None

    monkeypatch.setattr(stream_parallel.GatherStreams, "backward", unscaled)
    (rank, _) = on_ranks(lambda _, dist: step(dist), [0, 0])
    with pytest.raises(AssertionError):
        assert_same(rank, in_one_process())


def test_streams_that_do_not_spread_evenly():
    class Three:
        def get_world_size(self):
            return 3

        def get_rank(self):
            return 0

    with pytest.raises(LabError, match="4 streams cannot be spread evenly over 3 rank"):
        place_streams(model_and_batch()[0], Three())
