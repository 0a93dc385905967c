"""Ranks on cores of their own."""

import os
import subprocess
import sys

import pytest

from labsupport.distributed.pinning import pin_to_core

PROGRAM = """
import os, torch
from labsupport.distributed.pinning import pin_to_core
cores = sorted(os.sched_getaffinity(0))
core = pin_to_core({rank})
assert core == cores[{rank} % len(cores)], core
assert os.sched_getaffinity(0) == {{core}}
assert torch.get_num_threads() == 1
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call")
@pytest.mark.parametrize("rank", [0, 1, 5])
def test_a_rank_keeps_to_one_core(rank):
    """In a process of its own: the tests are to keep theirs."""
    program = PROGRAM.format(rank=rank)
    subprocess.run([sys.executable, "-c", program], check=True)


def test_where_the_system_cannot_it_says_none(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.setattr("torch.set_num_threads", lambda n: None)
    assert pin_to_core(3) is None
