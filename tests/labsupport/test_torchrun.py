"""Whole runs of `%%torchrun` cells, in IPython's own shell.

No test sleeps for a fixed time: cells and tests tell each other by files that
something has happened. Every test ends with no process of its run left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch

from labsupport.distributed import RanksFailed, launch
from labsupport.distributed.ranks import RunInterrupted
from tests.torchrun_notebook import START_LINES, Notebook, until

pytestmark = pytest.mark.distributed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


class Exercise:
    """As labsupport.exercise wraps a reader's function."""

    def __init__(self, function: Any) -> None:
        self.__labs_active__ = function


def test_values_functions_and_output(
    notebook: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    """Everything that works, in one run; then the saved script under torchrun."""
    notebook.run(
        "import torch\nscale = torch.tensor(1.5, dtype=torch.bfloat16)\n"
        "def double(x):\n    return 2 * x\n"
        "def step(x):\n    return double(x) * scale"
    )
    notebook.names["mine"] = Exercise(notebook.names["double"])
    notebook.names["ours"] = Exercise(torch.nn.functional.relu)
    body = """
import ctypes
y = step(x * rank)
dist.all_reduce(y)
print("sum", y.item(), mine(4), ours(torch.tensor(-1.0)).item())
os.write(1, b"written by os.write\\n")
ctypes.CDLL(None).puts(b"put by C")
print("no newline", end="")
share("y", y.to(torch.bfloat16))
share("info", {"rank": rank, 1: (sys.stdin.read(), __name__)})
# and no destroy_process_group()
"""
    launch._said.clear()
    notebook.torchrun("--nproc 2 --name dp --push step,mine,ours --save step.py", body)
    out = capfd.readouterr().out
    lines = ["sum 3.0 8 0.0", "written by os.write", "put by C", "no newline"]
    remarks, shown = out.split("sum", 1)
    assert "gloo" in remarks or torch.cuda.device_count() > 1
    assert f"sum{shown}".splitlines() == [*lines, *(f"[rank 1] {x}" for x in lines)]
    dp = notebook.names["dp"]
    assert dp.ok
    assert dp.error is None
    assert len(dp) == 2
    assert dp[1].info == {"rank": 1, 1: ("", "__main__")}
    assert dp.stack("y").equal(torch.tensor([[3.0], [3.0]], dtype=torch.bfloat16))
    assert repr(dp) == "Ranks(2, ok, shared y, info)"
    with pytest.raises(AttributeError, match="did not share 'z'; it shared y, info"):
        _ = dp[0].z

    # A log for each rank: on one pipe their lines would run into each other.
    logs = ["--log-dir", "logs", "--redirects", "3"]
    again = subprocess.run(
        [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *logs, "step.py"],
        cwd=notebook.home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0, again.stderr
    printed = [log.read_text() for log in notebook.home.glob("logs/**/stdout.log")]
    assert len(printed) == 2
    assert all("sum 3.0 8 0.0" in text for text in printed)


def test_output_is_live_and_a_lot_of_it_does_no_harm(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 waits until its first line was shown, so this ends only if
    output is live; meanwhile rank 1 prints 1 MiB.
    """
    written: list[str] = []

    class Watcher:
        def write(self, text: str) -> None:
            written.append(text)
            if "first line" in text:
                (notebook.home / "seen").touch()

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stdout", Watcher())
    notebook.torchrun(
        "--nproc 2 --timeout 100",
        """
if rank == 0:
    print("first line")
    while not Path("seen").exists():
        pass
    print("second line")
else:
    print(("y" * 63 + "\\n") * 2**14, end="")
dist.barrier()
""",
    )
    out = "".join(written)
    assert out.startswith("first line\nsecond line\n[rank 1] yyy")
    assert len(out) < 200_000
    assert "kB more in my läbs/runs/ranks-1/rank1.log" in out
    log = notebook.home / "runs" / "ranks-1" / "rank1.log"
    assert log.stat().st_size == 2**20


def test_the_rank_that_raised_is_blamed(notebook: Notebook) -> None:
    """Rank 0 waits in all_reduce and fails too, as a consequence."""
    with pytest.raises(RanksFailed) as caught:
        notebook.torchrun(
            "--nproc 2 --name dp",
            """
def step(x):
    if rank == 1:
        raise ValueError("boom")
    dist.all_reduce(x)
share("before", rank)
step(x)
""",
        )
    first = START_LINES + 1
    assert str(caught.value) == (
        "rank 1 of 2: ValueError: boom\n"
        f"  cell line {first + 6}, in <module>\n    step(x)\n"
        f'  cell line {first + 3}, in step\n    raise ValueError("boom")\n'
        "rank 0 lost its peer"
    )
    dp = notebook.names["dp"]
    assert (dp.ok, dp.error.rank, dp.error.type) == (False, 1, "ValueError")
    assert [rank.before for rank in dp] == [0, 1], "shared before the failure"
    assert len(list((notebook.home / "runs").iterdir())) == 1, "it ran once"


@pytest.mark.parametrize(
    ("body", "expected", "kind"),
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "rank 1 of 2 was killed (SIGKILL): ",
            "killed",
        ),
        ("os._exit(3)", "rank 1 of 2 ended with exit code 3 and no exception", "exit"),
        (
            "sys.exit(0)",
            "rank 1 of 2 had already ended (sys.exit(0)) when another rank still "
            "needed it\nrank 0 waited for it here:\n  cell line",
            "left",
        ),
        (
            "import ctypes; ctypes.string_at(0)",
            "rank 1 of 2 was killed (SIGSEGV): C code touched memory that is not its "
            f"own\n  cell line {START_LINES + 2}, in <module>\n    import ctypes",
            "killed",
        ),
    ],
    ids=["SIGKILL", "os._exit", "sys.exit", "segfault"],
)
def test_a_death_is_reported_as_what_it_was(
    notebook: Notebook,
    capfd: pytest.CaptureFixture[str],
    body: str,
    expected: str,
    kind: str,
) -> None:
    """With --may-fail, so that a lab can show it."""
    notebook.torchrun(
        "--nproc 2 --name dp --may-fail",
        f"if rank == 1:\n    {body}\ndist.all_reduce(x)\nprint('not reached')",
    )
    out = capfd.readouterr().out
    error = notebook.names["dp"].error
    assert error.report.startswith(expected)
    assert error.report in out
    assert (error.rank, error.kind) == (1, kind)
    assert "not reached" not in out
    assert "site-packages" not in out
    assert str(notebook.home) not in out


def test_a_hang_ends_with_every_ranks_stack(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock jumps once both ranks are where they will hang."""

    class Clock:
        @staticmethod
        def monotonic() -> float:
            hanging = all((notebook.home / f"in place {r}").exists() for r in (0, 1))
            return time.monotonic() + (1000 if hanging else 0)

    monkeypatch.setattr(launch, "time", Clock)
    with pytest.raises(RanksFailed) as caught:
        notebook.torchrun(
            "--nproc 2 --timeout 500",
            """
import threading, traceback
def tell_when(text):
    main = threading.main_thread().ident
    while text not in "".join(traceback.format_stack(sys._current_frames()[main])):
        pass
    Path(f"in place {rank}").touch()
name = "all_reduce" if rank == 0 else "ours"
threading.Thread(target=tell_when, args=(f"in {name}\\n",), daemon=True).start()
def ours():
    while True:
        pass
if rank == 0:
    dist.all_reduce(x)
else:
    ours()
""",
        )
    report = str(caught.value)
    first = START_LINES + 1
    assert report.startswith("not finished after 500 s (--timeout)")
    assert f"rank 0 was here:\n  cell line {first + 13}, in <module>" in report
    assert "\n  torch/distributed/distributed_c10d.py line" in report
    assert f"rank 1 was here:\n  cell line {first + 15}, in <module>" in report
    assert f"\n  cell line {first + 11}, in ours\n    pass" in report or (
        f"\n  cell line {first + 10}, in ours\n    while True:" in report
    )
    assert notebook.names["ranks"].error.kind == "timeout"


def test_interrupt_ends_all_and_keeps_the_kernel(
    notebook: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        until(lambda: (notebook.home / "waiting").exists())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(RunInterrupted, match="stopped; all 2 processes have ended"):
        notebook.torchrun(
            "--nproc 2",
            """
import subprocess
if rank == 1:
    child = subprocess.Popen(["sleep", "1000"])
    try:
        Path("waiting").touch()
        while True:
            pass
    finally:
        print("cleaned up")
dist.all_reduce(x)  # rank 0 is inside C code
""",
        )
    assert not notebook.processes()
    assert "[rank 1] cleaned up" in capfd.readouterr().out
    notebook.run("alive = 1 + 1")
    assert notebook.names["alive"] == 2
