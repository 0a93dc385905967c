"""FP8 on the wire: rows are rounded once, sums should be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.fp8_scaling import dequantise_reference, quantise_reference
from labs.lab_03.wire import ARMS, carry_of, dispatch_step, row_bytes, wire_row
from labs.lab_03.wire_sums import (
    WAYS,
    all_reduce,
    flushed,
    reduce_here,
    reduce_row,
)
from labsupport.distributed.expert_parallel import ExpertParallel
from labsupport.distributed.magic import torchrun
from labsupport.errors import LabError
from labsupport.exercise.practice import on_ranks

CARRIED = ("bf16", "fp8", "fp8_back")


def in_fp8(x: Tensor) -> Tensor:
    code, scale = quantise_reference(x, (1, 128), power_of_two=True)
    return dequantise_reference(code, scale, (1, 128))


# --- rows -------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_have_the_bits_of_one_process(world: int) -> None:
    for arm in CARRIED:
        steps = on_ranks(
            lambda _, dist, arm=arm: dispatch_step(arm, dist, tokens=13), [0] * world
        )
        assert all(step.same for step in steps), arm
        assert sum(s.away for s in steps) == sum(s.guests for s in steps)


def test_fp8_to_the_experts_bfloat16_from_them_in_both_passes() -> None:
    """Experts that double: what each way does to a row, written out."""

    def step(x_ND: Tensor, dy_ND: Tensor, dist: Any) -> tuple[Tensor, Tensor]:
        dispatch = ExpertParallel(2, dist, carry_of("fp8"))
        x_ND.requires_grad_()
        index_NK = torch.tensor([[0], [1], [0]])
        y_ND = dispatch(x_ND, index_NK, torch.ones(3, 1), lambda rows, _: 2 * rows)
        y_ND.backward(dy_ND)
        assert x_ND.grad is not None
        return y_ND.detach(), x_ND.grad

    torch.manual_seed(0)
    x_WND, dy_WND = torch.randn(2, 2, 3, 256)
    for rank, (y_ND, dx_ND) in enumerate(on_ranks(step, x_WND, dy_WND)):
        for found, sent in ((y_ND, x_WND[rank]), (dx_ND, dy_WND[rank])):
            assert torch.equal(found, (2 * in_fp8(sent)).bfloat16().float())
            assert not torch.equal(found, 2 * sent)


@pytest.mark.parametrize("arm", CARRIED)
def test_ranks_without_rows(arm: str) -> None:
    """Rank 0 has no tokens, and nobody visits the experts of rank 1."""

    def step(tokens: int, dist: Any) -> tuple[torch.Size, int]:
        dispatch = ExpertParallel(2, dist, carry_of(arm))
        x_ND = torch.ones(tokens, 256, requires_grad=True)
        index_NK = torch.zeros(tokens, 1, dtype=torch.int64)
        weight_NK = torch.ones(tokens, 1)
        y_ND = dispatch(x_ND, index_NK, weight_NK, lambda rows, _: rows)
        y_ND.backward(torch.ones_like(y_ND))
        assert torch.equal(y_ND, torch.ones_like(y_ND))
        assert x_ND.grad is not None
        return x_ND.grad.shape, dispatch.rows

    assert on_ranks(step, [0, 5]) == [((0, 256), 5), ((5, 256), 0)]


def test_a_row_is_as_many_bytes_as_the_formula_says() -> None:
    fp8 = carry_of("fp8", side=16)
    for width in (16, 40, 256):
        assert row_bytes(fp8.to_experts, width) == width + 4 * -(-width // 16)
        assert row_bytes(fp8.from_experts, width) == 2 * width


def test_a_training_in_fp8_is_not_that_in_bfloat16_but_close() -> None:
    losses = {arm: wire_row(arm, 0, "ci")["validation"] for arm in ARMS}
    for arm in ("fp8", "fp8_back"):
        assert losses[arm] != losses["bf16"]
        assert losses[arm] == pytest.approx(losses["bf16"], rel=0.01)
    assert losses["bf16"] < 4.5  # of log 256 = 5.5: it has learned


# --- sums -------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_add_as_in_one_process(world: int) -> None:
    torch.manual_seed(world)
    x_WRD = torch.randn(world, 8, 128) * torch.randn(world, 8, 1).exp()
    for name in WAYS:
        wanted_RD = reduce_here(name, x_WRD)
        sums = on_ranks(lambda x, dist, name=name: all_reduce(name, x, dist), x_WRD)
        assert all(torch.equal(total_RD, wanted_RD) for total_RD in sums), name


def test_a_ring_of_64_ranks_that_hold_1_stops_at_16() -> None:
    """17 lies between the neighbours 16 and 18, and goes to the even one."""
    ones_WRD = torch.ones(64, 64, 128)
    for name, way in WAYS.items():
        stops = way.ring and way.scale != "none"
        assert (reduce_here(name, ones_WRD) == (16 if stops else 64)).all(), name


def test_a_shared_scale_flushes_what_a_tile_of_its_own_keeps() -> None:
    """Largest 1, so codes are 256 / W as large; 2^-10 and less become 0."""
    for world, share in ((2, 0.0), (4, 0.5)):
        x_WRD = torch.ones(world, 4, 128)
        x_WRD[:, 2:] = 2.0**-16
        assert flushed("fp8_shared_ring", x_WRD) == share
        assert flushed("fp8_tile_ring", x_WRD) == 0


def test_gradients_of_more_ranks_are_worse_in_a_ring_only() -> None:
    def error(name: str, ranks: int) -> float:
        value: float = reduce_row(name, 0, "ci", ranks=ranks)["error"]
        return value

    assert error("fp8_tile_ring", 32) > 2.5 * error("fp8_tile_once", 32)
    assert error("fp8_tile_once", 32) < 1.5 * error("fp8_tile_once", 1)


def test_unknown_names() -> None:
    with pytest.raises(LabError, match="arm='fp9': choose one of float32, bf16, fp8"):
        wire_row("fp9", 0, "ci")
    with pytest.raises(LabError, match="way='star': choose one of bf16_ring, fp8_sh"):
        reduce_row("star", 0, "ci", ranks=1)


# --- real ranks: gloo refuses what practice ranks would carry -----------------

BODY = """
import torch.distributed as dist

from labs.lab_03.wire import dispatch_step
from labs.lab_03.wire_sums import WAYS, all_reduce, my_gradient

dist.init_process_group()
for arm in ("bf16", "fp8"):
    with count_traffic() as moved:
        step = dispatch_step(arm, dist)
    share(arm, vars(step) | {"sent": moved.ideal_sent})
g_RD = my_gradient(dist)
share("gradient", g_RD)
for name in WAYS:
    with count_traffic() as moved:
        total_RD = all_reduce(name, g_RD, dist)
    share(name, [total_RD, moved.ideal_sent])
"""


@pytest.mark.distributed
def test_real_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    names: dict[str, Any] = {}
    torchrun("--nproc 2 --name real", BODY, names)
    real = names["real"]
    for rank in range(2):
        for arm, to in (("bf16", 512), ("fp8", 256 + 2 * 4)):
            step = getattr(real[rank], arm)
            assert step["same"]
            rows = 2 * (step["away"] * to + step["guests"] * 512)
            # 8 experts' counts of 8 bytes, of which half go to the other rank.
            assert step["sent"] == rows + 32
            assert step["row_bytes"] + step["size_bytes"] == step["sent"]
        x_WRD = real.stack("gradient")
        numbers = x_WRD[0].numel()
        for name, way in WAYS.items():
            total_RD, sent = getattr(real[rank], name)
            assert torch.equal(total_RD, reduce_here(name, x_WRD)), name
            # Half of the numbers on the way to their sums, half on the way back.
            per_tile = {"none": 2 * 128, "shared": 128, "tile": 128 + 4}[way.scale]
            largest = 4 if way.scale == "shared" else 0
            assert sent == numbers // 128 * per_tile + largest
