"""The primer's functions on real ranks: gloo agrees with the practice ranks."""

import pytest
import torch

from labs.lab_processes import ranks_ours as ours
from labsupport.distributed.magic import torchrun
from labsupport.exercise.practice import on_ranks

pytestmark = pytest.mark.distributed

WORLD = 3


def everything(x_N, owner_N, dist):
    """Every function of the primer that talks, and every collective."""
    rank, W = dist.get_rank(), dist.get_world_size()
    answers = {
        "shift": ours.shift(x_N, dist),
        "ring": ours.ring_all_reduce(x_N.clone(), dist),
        "star": ours.star_all_reduce(x_N.clone(), dist),
        "dispatch": ours.dispatch(x_N[:, None], owner_N, dist),
    }
    for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        answers[name] = ours.collective(name, x_N, dist)
    answers["share"] = torch.tensor(ours.my_share(len(x_N), rank, W))
    return answers


BODY = """
from datetime import timedelta

import torch
import torch.distributed as dist

dist.init_process_group()
rank = dist.get_rank()
share("answers", everything(x_RN[rank], owner_RN[rank], dist))
dist.barrier()
if rank < 2:  # both send first, the smallest of messages
    try:
        dist.isend(torch.ones(1), 1 - rank).wait(timedelta(seconds=0.5))
    except RuntimeError as error:
        share("both_send", str(error))
"""


def test_real_ranks_agree_with_practice_ranks(monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    x_RN = torch.arange(1.0, 1 + 6 * WORLD).reshape(WORLD, 6)
    owner_RN = torch.tensor([[2, 0, 1, 0, 0, 2], [1, 1, 0, 0, 0, 0], [2] * 6])
    names = {"everything": everything, "x_RN": x_RN, "owner_RN": owner_RN}
    torchrun(f"--nproc {WORLD} --name real --push {','.join(names)}", BODY, names)
    practised = on_ranks(everything, x_RN, owner_RN)
    for rank, answers in enumerate(practised):
        for name, wanted in answers.items():
            assert torch.equal(names["real"][rank].answers[name], wanted), name
    # What the primer says of gloo: a send lasts until the other rank receives.
    for rank in (0, 1):
        assert "waiting 500ms for send" in names["real"][rank].both_send
