"""Practice ranks do what gloo does, and say what gloo would only hang on."""

import pytest
import torch

from labsupport.exercise.check import CheckFailed
from labsupport.exercise.practice import PracticeGroup, on_ranks

X_R2 = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def neighbours(dist):
    rank, world = dist.get_rank(), dist.get_world_size()
    return (rank + 1) % world, (rank - 1) % world


def shift(x, dist):
    right, left = neighbours(dist)
    y = torch.empty_like(x)
    sending, receiving = dist.isend(x, right), dist.irecv(y, left)
    sending.wait()
    receiving.wait()
    return y


def came(function, *arguments):
    """What the run is refused for."""
    with pytest.raises(CheckFailed) as refused:
        on_ranks(function, *arguments)
    return refused.value.came


def test_messages_arrive_where_they_are_sent():
    results = on_ranks(shift, X_R2)
    assert torch.equal(torch.stack(results), X_R2.roll(1, 0))


def test_messages_between_two_ranks_keep_their_order():
    def two(x, dist):
        if dist.get_rank() == 0:
            dist.send(x[:1], 1)
            dist.send(x[1:], 1)
            return x
        first, second = torch.empty(1), torch.empty(1)
        dist.recv(first, 0)
        dist.recv(second, 0)
        return torch.cat([first, second])

    assert on_ranks(two, X_R2[:2])[1].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("first", "waits"), [("recv", "to receive from"), ("send", "to send to")]
)
def test_a_deadlock_names_every_wait_and_its_line(first, waits):
    def swap(x, dist):
        other, y = 1 - dist.get_rank(), torch.empty_like(x)
        if first == "recv":
            dist.recv(y, other)
        dist.send(x, other)
        if first == "send":
            dist.recv(y, other)
        return y

    words = came(swap, X_R2[:2])
    assert words.startswith(
        f"a deadlock: rank 0 waits {waits} rank 1, rank 1 waits {waits} rank 0 ["
    )
    assert f"dist.{first}(" in words


def test_waiting_for_a_rank_that_has_ended():
    def one_way(x, dist):
        if dist.get_rank() == 0:
            dist.recv(x, 1)
        return x

    assert "rank 0 waits to receive from rank 1, which has ended" in came(
        one_way, X_R2[:2]
    )


def test_a_buffer_read_too_early_holds_nan():
    def early(x, dist):
        right, left = neighbours(dist)
        y = torch.zeros_like(x)
        requests = dist.isend(x, right), dist.irecv(y, left)
        read = y.clone()
        for request in requests:
            request.wait()
        return read

    assert torch.stack(on_ranks(early, X_R2)).isnan().all()


def test_a_request_that_nobody_waits_for():
    def careless(x, dist):
        right, left = neighbours(dist)
        y = torch.zeros_like(x)
        dist.isend(x, right)
        dist.recv(y, left)
        return y

    words = came(careless, X_R2)
    assert words.startswith("rank 0, which ended without waiting to send to rank 1")


def test_a_tensor_changed_while_it_is_sent():
    def hasty(x, dist):
        right, left = neighbours(dist)
        y = torch.zeros_like(x)
        sending = dist.isend(x, right)
        x += 1
        dist.recv(y, left)
        sending.wait()
        return y

    assert "rank 0 changed what it was sending to rank 1" in came(hasty, X_R2)


def test_a_message_of_another_size():
    def unequal(x, dist):
        if dist.get_rank() == 0:
            dist.send(x, 1)
        else:
            dist.recv(x[:1], 0)
        return x

    assert "rank 0 sends 2 float32 numbers to rank 1, which expects 1" in came(
        unequal, X_R2[:2]
    )


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (3, "rank 0, which wants to send to rank 3"),
        (0, "rank 0, which wants to send to itself"),
    ],
)
def test_a_rank_that_cannot_be_meant(peer, words):
    assert words in came(lambda x, dist: dist.send(x, peer), X_R2)


def test_an_exception_on_one_rank_is_what_the_caller_sees():
    def broken(x, dist):
        if dist.get_rank() == 1:
            raise ZeroDivisionError("on purpose")
        dist.recv(x, 1)
        return x

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        on_ranks(broken, X_R2)


def test_a_forgotten_return():
    assert came(lambda x, dist: None, X_R2) == (
        "None on rank 0: is a `return` missing?"
    )


@pytest.mark.parametrize("name", ["reduce_scatter_tensor", "reduce_scatter_single"])
def test_a_reduce_scatter_under_either_name(name):
    def work(x, dist):
        y = x.new_empty(1)
        getattr(dist, name)(y, x)
        return y

    parts = on_ranks(work, torch.tensor([[1.0, 2.0], [10.0, 20.0]]))
    assert [part.tolist() for part in parts] == [[11.0], [22.0]]


def test_autograd_does_not_see_a_collective():
    """As in torch.distributed: the gradient goes past it as if nothing had been."""

    def work(x, dist):
        w = x.clone().requires_grad_()
        y = w * 2
        dist.all_reduce(y)
        y.sum().backward()
        return torch.stack([y.detach()[0], w.grad[0]])

    results = on_ranks(work, torch.tensor([[1.0], [3.0]]))
    assert [r.tolist() for r in results] == [[8.0, 2.0]] * 2


def test_collectives_that_do_not_meet():
    def parted(x, dist):
        if dist.get_rank() == 0:
            dist.all_reduce(x)
        else:
            dist.all_to_all_single(torch.empty_like(x), x)
        return x

    assert came(parted, X_R2[:2]) == (
        "rank 0 in all_reduce, rank 1 in all_to_all_single"
    )


def test_all_to_all_splits_that_do_not_agree():
    def wrong(x, dist):
        out = torch.empty(3)
        dist.all_to_all_single(out, x.repeat(2)[:3], [1, 2], [2, 1])
        return out

    words = came(wrong, X_R2[:2])
    assert "rank 0, which sends 2 to rank 0, and rank 0, which expects 1" in words


def test_an_even_all_to_all_of_rows_that_do_not_divide():
    words = came(lambda x, dist: dist.all_to_all_single(x.clone(), x), X_R2)
    assert words.startswith("none on rank 0, and 2 / 3 is no whole number [")


def test_a_function_that_practice_ranks_lack_is_named():
    with pytest.raises(AttributeError, match=r"no dist\.barrier; they have send"):
        on_ranks(lambda x, dist: dist.barrier(), X_R2)


def test_the_caller_s_tensors_stay_as_they_are():
    x_R2 = X_R2.clone()
    on_ranks(lambda x, dist: x.zero_(), x_R2)
    assert torch.equal(x_R2, X_R2)


def test_rounds_count_what_can_move_at_once():
    """In a ring all messages of a step move together; to one rank, in turn."""

    def to_rank_0(x, dist):
        if dist.get_rank():
            dist.send(x, 0)
            return x
        for source in range(1, dist.get_world_size()):
            dist.recv(torch.empty_like(x), source)
        return x

    ring, star = PracticeGroup(3), PracticeGroup(3)
    ring.run(shift, X_R2)
    star.run(to_rank_0, X_R2)
    assert [m.round for m in ring.messages] == [1, 1, 1]
    assert [(m.round, m.source) for m in star.messages] == [(1, 1), (2, 2)]


def test_states_and_offsets_tell_what_moved():
    def second_half(x, dist):
        right, left = neighbours(dist)
        y = torch.empty(1)
        sending = dist.isend(x[1:], right)
        dist.recv(y, left)
        sending.wait()
        x[1:] += y
        return x

    group = PracticeGroup(3)
    group.run(second_half, X_R2)
    assert {message.offset for message in group.messages} == {1}
    assert group.states[0][0].tolist() == [1.0, 2.0]
    assert group.states[0][1].tolist() == [1.0, 8.0]
