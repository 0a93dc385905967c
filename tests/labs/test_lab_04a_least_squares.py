"""The opening of lab 04a: top-k stalls without a memory, and not with one."""

import pytest
import torch

from labs.lab_04a.least_squares import M, N, fit, make_problem
from labs.lab_04a.live import forget
from labsupport.exercise.practice import on_ranks


def remember(g, e, compress):
    u = g + e
    sent = compress(u.clone())
    return sent, u - sent


class OneGroup:
    """Practice ranks know only the group of all."""

    def __init__(self, dist):
        self.dist = dist

    def __getattr__(self, name):
        method = getattr(self.dist, name)
        return lambda *arguments, group=None: method(*arguments)

    def get_world_size(self, group=None):
        return self.dist.get_world_size()


def fitted(feedback, seed=0):
    curve = []

    def work(rank, dist):
        def log(step, gap):
            if rank == 0:
                curve.append(gap)

        return fit(seed, OneGroup(dist), log, feedback)

    results = on_ranks(work, [0, 1, 2, 3])
    assert len(set(results)) == 1, "ranks ended in different places"
    return results[0], curve


def test_the_best_weights_leave_no_gap_and_no_mean_gradient():
    problem = make_problem(3, seed=0)
    a, b = problem.a_WMN.reshape(3 * M, N), problem.b_WM.reshape(-1)
    best_N = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    assert problem.gap(best_N) < 1e-20
    own = torch.stack([problem.gradient(w, best_N) for w in range(3)])
    assert own.mean(0).norm() < 1e-10
    assert own.norm(dim=1).min() > 1  # yet each worker would go on, elsewhere


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_stalls_without_a_memory(seed):
    (gap, mean, arrived), curve = fitted(forget, seed)
    assert gap > 1 and curve[-5] - gap < 0.1 * gap
    assert arrived < 0.1 * mean  # what they send cancels, what they share waits


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_memory_gets_it_going(seed):
    (gap, _, _), _ = fitted(remember, seed)
    (everything, _, _), _ = fitted(None, seed)
    assert everything < 1e-5
    assert gap < 0.05
