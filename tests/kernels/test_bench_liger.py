"""liger-kernel's operations, with our axes, compute what ours do.

What it has in plain PyTorch runs here, and its kernels interpreted.
"""

import pytest
import torch

import kernels
from kernels import bench_cases, bench_check

pytest.importorskip(
    "liger_kernel", reason="liger-kernel is not installed here (Linux only)"
)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("linear_logprob", (5, 9, 7)),
        ("grpo_loss", (2, 4, 9)),
        ("linear_divergence", (5, 9, 7, 6)),
        ("linear_divergence_jsd", (5, 9, 7, 6)),
    ],
)
@pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")
def test_the_peer_is_the_same_operation(name, shape):
    bench = next(each for each in bench_cases.all_benches() if each.name == name)
    peer = bench.peer()
    assert bench_check.fault(bench, peer, shape, torch.float32, "cpu") is None
    wrong = bench_check.fault(
        bench, lambda *given: 1.1 * peer(*given), shape, torch.float32, "cpu"
    )
    assert "is off by" in wrong
