"""Fault tolerance on purpose, and cells that run on several machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from labsupport.distributed import RanksFailed
from labsupport.distributed.agent import loopback
from labsupport.errors import LabError
from tests.torchrun_notebook import Notebook

pytestmark = pytest.mark.distributed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = """
import torch.distributed.checkpoint as dcp
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

def state():
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

def train(step):
    generator = torch.Generator().manual_seed(10 * step + rank)
    loss = (model(torch.randn(8, 4, generator=generator)) - 1).square().mean()
    optimizer.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    return loss.item()

first = 0
saved = sorted(Path("steps").glob("step-*/.metadata"))
train(0) if not saved else None  # AdamW's state exists after a step only
if saved:
    train(0)
    loaded = state()
    dcp.load(loaded, checkpoint_id=saved[-1].parent)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    first = int(saved[-1].parent.name.partition("-")[2])
for step in range(first + 1, 7):
    loss = train(step)
    dcp.save(state(), checkpoint_id=f"steps/step-{step}")
    if FAULT and attempt == 0 and step == 3 and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
share("attempt", attempt)
share("first", first)
share("weight", model.weight)
"""


@pytest.mark.slow  # half a minute; lab 00 kills a rank, too
def test_training_resumes_after_a_rank_was_killed(
    notebook: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    """As if nothing had happened: the same weights as without the fault. And the
    saved script does the same under plain torchrun.
    """
    notebook.names["FAULT"] = True
    options = "--nproc 2 --name dp --max-restarts 2 --push FAULT --save step.py"
    notebook.torchrun(options, TRAIN)
    out = capfd.readouterr().out
    assert "[restart 1 of 2: rank 1 of 2 was killed (SIGKILL)" in out
    dp = notebook.names["dp"]
    assert [rank.attempt for rank in dp] == [1, 1]
    assert dp[0].first in (2, 3), "the step that was being saved may be lost"
    (notebook.home / "steps").rename(notebook.home / "faulty")
    notebook.names["FAULT"] = False
    notebook.torchrun("--nproc 2 --name whole --push FAULT", TRAIN)
    whole = notebook.names["whole"]
    assert whole[0].attempt == 0
    assert torch.equal(whole[0].weight, dp[0].weight)

    # The saved job: Slurm's two commands are stand-ins here, the rest is real.
    (notebook.home / "steps").rename(notebook.home / "whole")
    for name, does in (("srun", 'exec "$@"'), ("scontrol", "echo 127.0.0.1")):
        command = notebook.home / name
        command.write_text(f"#!/bin/sh\n{does}\n")
        command.chmod(0o755)
    path = f"{notebook.home}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"PATH": path, "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    job = subprocess.run(
        ["bash", "step.sbatch"],
        cwd=notebook.home,
        env=os.environ | slurm,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert job.returncode == 0, job.stderr
    for step in (3, 6):
        one, other = ({"model": torch.nn.Linear(4, 1).state_dict()} for _ in range(2))
        dcp.load(one, checkpoint_id=notebook.home / f"faulty/step-{step}")
        dcp.load(other, checkpoint_id=notebook.home / f"steps/step-{step}")
        assert torch.equal(one["model"]["weight"], other["model"]["weight"])


def test_restarts_run_out(
    notebook: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RanksFailed) as caught:
        notebook.torchrun(
            "--nproc 2 --max-restarts 1",
            "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
            "print('attempt', attempt)\n"
            "if rank:\n    raise ValueError(f'boom {attempt}')\ndist.all_reduce(x)",
        )
    assert str(caught.value).startswith("rank 1 of 2: ValueError: boom 1\n")
    out = capfd.readouterr().out
    assert "[restart 1 of 1: rank 1 of 2: ValueError: boom 0]" in out
    assert "attempt 0\n" in out
    assert "attempt 1\n" in out


def test_two_machines(
    notebook: Notebook,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here the other one is a second agent on loopback, plain torchrun with the
    script that the cell saves; tests/labsupport/test_links.py has two real
    network stacks.
    """
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", loopback() or "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    body = """
dist.all_reduce(x)
share("sum", x.item())
print("rank", rank, "of", dist.get_world_size())
if rank == 3:
    raise ValueError("boom")
"""
    meet = f"--nnodes 2 --rdzv-endpoint 127.0.0.1:{port} --rdzv-id both"
    with pytest.raises(LabError, match="--nnodes 2 needs --rdzv-endpoint"):
        notebook.torchrun("--nnodes 2", body)
    notebook.torchrun("--nproc 2 --name one --save step.py", body)
    here = "--rdzv-backend c10d --nproc-per-node 2 --local-addr 127.0.0.1"
    other = subprocess.Popen(
        [*TORCHRUN, *meet.split(), *here.split(), "step.py"],
        cwd=notebook.home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        notebook.torchrun(f"--nproc 2 --name dp --may-fail {meet}", body)
        other.wait(60)
    finally:
        other.kill()
        other.wait()
    dp = notebook.names["dp"]
    first = dp._first
    assert first in (0, 2), "which machine comes first is for the rendezvous to say"
    assert (dp[first].sum, dp[first + 1].sum) == (4.0, 4.0)
    with pytest.raises(IndexError, match=f"ranks {first} to {first + 1}"):
        dp[2 - first]
    out = capfd.readouterr().out
    assert f"rank {first} of 4\n[rank {first + 1}] rank {first + 1} of 4\n" in out
    if first == 2:
        assert "rank 3 of 4: ValueError: boom\n  cell line" in out
