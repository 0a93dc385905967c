"""Least squares on several workers: where top-k without a memory stalls.

Worker i has data of its own, and the weights that would suit it best differ from the
others'. So at the common optimum the *mean* gradient is zero, but no worker's is.

    f(x) = mean_i |A_i x - b_i|^2 / (2 M),   b_i = A_i (x_true + DIFFER z_i)

Shape suffixes: W workers, M measurements of each, N weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labs.lab_04a.live import Feedback, OwnFeedback
from labsupport.distributed.fusion import DenseFusion, Fusion

M, N = 200, 100
DIFFER = 0.3
"""How far workers' own weights are from the common ones, which have size 1."""
LARGEST = 0.1
"""Share of the numbers that is sent: 10 of 100."""
RATE, STEPS = 0.08, 250


@dataclass(frozen=True)
class Problem:
    """The data of all workers."""

    a_WMN: Tensor
    b_WM: Tensor

    def gradient(self, worker: int, x_N: Tensor) -> Tensor:
        """Of one worker's own loss."""
        a_MN = self.a_WMN[worker]
        return a_MN.T @ (a_MN @ x_N - self.b_WM[worker]) / M

    def gap(self, x_N: Tensor) -> float:
        """How far the common loss is above the lowest there is."""
        a, b = self.a_WMN.flatten(0, 1), self.b_WM.flatten()
        best_N = torch.linalg.solve(a.T @ a, a.T @ b)
        away = a @ (
            x_N - best_N
        )  # f is quadratic: f(x) - f(best) = |A (x - best)|^2
        return float(away.square().mean() / 2)


def make_problem(
    workers: int, seed: int, device: torch.device | str = "cpu"
) -> Problem:
    """The same on all ranks."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a_WMN, x_N, z_WN = normal(workers, M, N), normal(N), normal(workers, N)
    b_WM = torch.einsum("wmn,wn->wm", a_WMN, x_N + DIFFER * z_WN)
    return Problem(a_WMN.to(device), b_WM.to(device))


def fit(
    seed: int,
    dist: Any,
    log: Callable[[int, float], None],
    feedback: Feedback | None = None,
    device: torch.device | str = "cpu",
) -> tuple[float, float, float]:
    """Gradient descent on all ranks, from zero.

    Args:
        log: gets step and gap, every 10 steps.
        feedback: the largest numbers are sent, with that; None: everything is.
        device: where to compute.

    Returns:
        The gap at the end; and of the last 50 steps the lengths of two means: of the
        workers' mean gradient, and of what they agreed on in place of it.
    """
    rank, workers = dist.get_rank(), dist.get_world_size()
    problem = make_problem(workers, seed, device)
    fusion: Fusion = DenseFusion(dist=dist)
    if feedback is not None:
        fusion = OwnFeedback(LARGEST, feedback, dist=dist)
    x_N, arrived_N, mean_N = torch.zeros(3, N, device=device)
    for step in range(STEPS):
        if step >= STEPS - 50:
            of_all = [
                problem.gradient(w, x_N.double()) for w in range(workers)
            ]
            mean_N += torch.stack(of_all).mean(0).float() / 50
        g_N = problem.gradient(rank, x_N.double()).float()
        fusion.fuse_named({"x": g_N})
        x_N -= RATE * g_N
        if step >= STEPS - 50:
            arrived_N += g_N / 50
        if step % 10 == 9:
            log(step + 1, problem.gap(x_N.double()))
    lengths = float(mean_N.norm()), float(arrived_N.norm())
    return problem.gap(x_N.double()), *lengths
