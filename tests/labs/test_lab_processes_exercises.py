"""The processes primer: what is special about its exercises' checks."""

import pytest
import torch

from labs.lab_processes.exercises import EXERCISES
from labsupport.exercise import run_checks


def of(number):
    return next(exercise for exercise in EXERCISES if exercise.id == number)


def test_a_deadlock_says_who_waits_for_whom():
    message = run_checks(of("P.2"), of("P.2").wrong[0].function).message
    assert (
        "a deadlock: rank 0 waits to receive from rank 1, rank 1 waits to receive "
        "from rank 0 [line "
    ) in message
    assert "dist.recv(y_N, other)]" in message


def test_a_wrong_sum_says_whom_it_contains():
    mistake = next(w for w in of("P.4").wrong if w.name == "sum again")
    message = run_checks(of("P.4"), mistake.function).message
    assert "Asked: rank 0 + rank 1 in chunk 0 on rank 0." in message
    assert "Yours: 2 x rank 0 + rank 1." in message


def swap_with_requests(x_N, dist):
    other, y_N = 1 - dist.get_rank(), torch.empty_like(x_N)
    sending = dist.isend(x_N, other)
    dist.recv(y_N, other)
    sending.wait()
    return y_N


def shift_in_two_halves(x_N, dist):
    """Even ranks send first, odd ones receive first: the wait has an end."""
    rank, W = dist.get_rank(), dist.get_world_size()
    right, left, y_N = (rank + 1) % W, (rank - 1) % W, torch.empty_like(x_N)
    if rank % 2 == 0:
        dist.send(x_N, right)
        dist.recv(y_N, left)
    else:
        dist.recv(y_N, left)
        dist.send(x_N, right)
    return y_N


def ring_with_copies(x_N, dist):
    """Chunks that are copies, put together at the end."""
    rank, W = dist.get_rank(), dist.get_world_size()
    right, left = (rank + 1) % W, (rank - 1) % W
    chunks = [chunk.clone() for chunk in x_N.chunk(W)]
    for step in range(2 * (W - 1)):
        arrived = torch.empty_like(chunks[0])
        sending = dist.isend(chunks[(rank - step) % W], right)
        dist.recv(arrived, left)
        sending.wait()
        place = (rank - step - 1) % W
        chunks[place] = arrived + chunks[place] if step < W - 1 else arrived
    return torch.cat(chunks)


@pytest.mark.parametrize(
    ("number", "solution"),
    [
        ("P.2", swap_with_requests),
        ("P.3", shift_in_two_halves),
        ("P.4", ring_with_copies),
    ],
)
def test_another_right_solution_passes(number, solution):
    verdict = run_checks(of(number), solution)
    assert verdict.passed, verdict.message
